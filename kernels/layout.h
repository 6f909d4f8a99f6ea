#pragma once

// The packed layout of a weight matrix [N, K]: the contract between exporter, kernels and files.
//
//   header    64 bytes, little endian: the struct Header below
//   panels    one for each 16 rows (the last padded with zero rows), `panel_bytes` apart
//
// A panel of kind `integer`:
//   sums      float32 [16]: each row's sum of dequantized weights, without 2^scale_exponent
//   scales    float16 [G][16]
//   zeros     none; integer: uint8 [G][16], or up to 4 bits uint8 [G / 2][16], an even group's in
//             the low half of the byte and the next one's in the high half; real: float16 [G][16]
//   data      for each 32 columns, `bits` times 64 bytes (below)
// each padded to 64 bytes. Columns are padded to a whole number of groups, and that to 32.
//
// With int8 scales, instead of sums and scales, padded together:
//   steps     float16 [16], a row's
//   scales    int8 [G][16], in steps of the row
// Activations then have a scale a group, whose zero point is 0: nothing would read the rows' sums.
//
// A weight is (u - z) scale 2^scale_exponent: u unsigned of `bits` bits, z = 2^(bits - 1) without
// zeros or the stored integer. With real zeros it is ((u - 2^(bits - 1)) scale + zero)
// 2^scale_exponent; with int8 scales (u - z) (scale step) 2^scale_exponent, scale step being exact.
// Of 1 bit with the zero between, it is (2 u - 1) in place of u - z: the levels -scale and +scale of
// XNOR-Net (Rastegari et al., arXiv 1603.05279); nothing is stored for the zero.
//
// 32 columns are 8 quads of 4; a quad of 16 rows is 64 values, row r's at 4 r..4 r + 3. A 64-byte
// vector holds at each byte 8 / w quads of a w-bit plane, the first in its low bits:
//   8 bits: 8 vectors, 1 quad each    4 bits: 4 vectors, 2 quads each
//   2 bits: 2 vectors, 4 quads each   1 bit: 1 vector, 8 quads
//   3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1: the low plane first, one after the other.
//
// A panel of the other kinds: [K][16] values, padded to 64 bytes.
//
// A matrix whose rows have several formats is a stack: the struct StackHeader below, and its weights
// of consecutive rows, each as above with its own header, end to end.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lowbit {

// A weight's version is the first that reads it: 2 with int8 scales, 3 for a stack, 4 with the zero
// between.
inline constexpr uint32_t kLayoutVersion = 4, kStackVersion = 3;
inline constexpr int64_t kRowBlock = 16;
inline constexpr int64_t kColumnBlock = 32;
inline constexpr size_t kHeaderBytes = 64;

enum class Kind : uint32_t { integer = 0, float32 = 1, float16 = 2, bfloat16 = 3 };
enum class Zeros : uint32_t { none = 0, integer = 1, real = 2, between = 3 };  // between: of 1 bit
enum class Scales : uint32_t { float16 = 0, int8 = 1 };  // int8 without real zeros

struct Header {
  char magic[8];  // "LOWBITW" and a zero byte
  uint32_t version;
  Kind kind;
  uint32_t bits;        // integer: 1 to 8, 1 with the zero between; else 16 or 32
  uint32_t group_size;  // integer: a multiple of 16 up to 65536; else 0
  Zeros zeros;
  int32_t scale_exponent;
  uint64_t rows, columns;
  uint64_t bytes;  // of the whole, this header included
  Scales scales;   // float16 in version 1
  uint32_t reserved;
};
static_assert(sizeof(Header) == kHeaderBytes);

struct StackHeader {
  char magic[8];  // "LOWBITS" and a zero byte
  uint32_t version;
  uint32_t count;  // of weights, 2 to kMaxStack
  uint64_t rows, columns;
  uint64_t bytes;  // of the whole, this header included
  uint64_t reserved[3];
};
static_assert(sizeof(StackHeader) == kHeaderBytes);

inline constexpr uint32_t kMaxStack = 8;

// What a weight is to be packed as.
struct Format {
  Kind kind = Kind::integer;
  uint32_t bits = 4;
  uint32_t group_size = 32;
  Zeros zeros = Zeros::none;
  Scales scales = Scales::float16;
};

// A checked view of packed bytes.
struct PackedWeight {
  Format format;
  int64_t rows, columns;
  int64_t output_stride;   // between two tokens' outputs: rows, or those of a whole stack
  int64_t groups;          // a row; 0 for the float kinds
  int64_t padded_columns;  // what the panel's data covers
  float scale;             // 2^scale_exponent
  const uint8_t* panels;
  size_t panel_bytes;
  size_t scales_at, zeros_at, data_at;  // offsets in a panel, which begins with sums or steps

  int64_t panel_count() const { return (rows + kRowBlock - 1) / kRowBlock; }
  // Whether two groups' integer zeros share a byte.
  bool half_byte_zeros() const { return format.zeros == Zeros::integer && format.bits <= 4; }
  bool int8_scales() const { return format.scales == Scales::int8; }
  const uint8_t* panel(int64_t i) const { return panels + i * panel_bytes; }
};

// Where everything lies in a weight of a valid format and shape; `panels` null, `scale` 1.
PackedWeight layout_of(const Format& format, int64_t rows, int64_t columns);

// Checks the header against itself and `size`, so that nothing beyond is read afterwards.
// Returns "" or what is wrong.
std::string view(const void* data, size_t size, PackedWeight* weight);

// A checked view of a stack's weights, or of one weight.
class PackedStack {
 public:
  // As `view`; one weight is a stack of one.
  std::string view(const void* data, size_t size);

  std::span<const PackedWeight> weights() const { return {weights_.data(), count_}; }
  int64_t rows() const { return weights_[0].output_stride; }
  int64_t columns() const { return weights_[0].columns; }

 private:
  std::array<PackedWeight, kMaxStack> weights_{};
  size_t count_ = 0;
};

// The version of weights of this format.
uint32_t layout_version(const Format& format);

// Size of the packed bytes. Throws std::invalid_argument that names the value for a format that
// the layout does not have or a shape without rows or columns.
size_t packed_size(const Format& format, int64_t rows, int64_t columns);

// Packs quantized integers.
//   values [N, K]: u, unsigned, below 2^bits
//   scales float32 [N, G], rounded here to what the format stores; G = ceil(K / group_size)
//   zeros  null, or float32 [N, G]: whole numbers in 0..2^bits - 1 (integer), any (real)
//   out    packed_size bytes
// Throws std::invalid_argument for a value out of range or a scale that is not finite.
void pack_integer(const Format& format, int64_t rows, int64_t columns, const uint8_t* values,
                  const float* scales, const float* zeros, void* out);

// Packs float32 values [N, K], rounded to the format's kind.
void pack_float(const Format& format, int64_t rows, int64_t columns, const float* values,
                void* out);

// Packed weights of one number of columns as a stack, of stack_size bytes. Throws
// std::invalid_argument for other bytes.
size_t stack_size(std::span<const std::span<const uint8_t>> weights);
void pack_stack(std::span<const std::span<const uint8_t>> weights, void* out);

// The inverse: the weights that the kernels use, float32 [N, K].
void unpack(const PackedWeight& weight, float* values);
void unpack_row(const PackedWeight& weight, int64_t row, float* values);  // float32 [K]

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);  // to nearest, ties to even

}  // namespace lowbit
