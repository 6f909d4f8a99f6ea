#include "kernels/layout.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace lowbit {
namespace {

constexpr char kMagic[8] = "LOWBITW", kStackMagic[8] = "LOWBITS";
constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr uint32_t kMaxGroupSize = 65536;  // a group's sum of 255 * 128 a column fits in int32

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

std::string format_error(const Format& f) {
  const auto number = [](uint32_t n) { return std::to_string(n); };
  switch (f.kind) {
    case Kind::integer:
      if (f.bits < 1 || f.bits > 8) return "bits is " + number(f.bits) + ", not 1 to 8";
      if (f.group_size == 0 || f.group_size % 16 != 0 || f.group_size > kMaxGroupSize) {
        return "group size is " + number(f.group_size) + ", not a multiple of 16 up to " +
               number(kMaxGroupSize);
      }
      if (f.zeros > Zeros::between) return "zeros is " + number(static_cast<uint32_t>(f.zeros));
      if (f.zeros == Zeros::between && f.bits != 1) {
        return "the zero is between the levels of " + number(f.bits) + " bits, not of 1";
      }
      if (f.scales > Scales::int8) return "scales is " + number(static_cast<uint32_t>(f.scales));
      if (f.scales == Scales::int8 && f.zeros == Zeros::real) return "int8 scales have real zeros";
      return "";
    case Kind::float32:
    case Kind::float16:
    case Kind::bfloat16:
      if (f.bits != (f.kind == Kind::float32 ? 32 : 16)) {
        return "bits is " + number(f.bits) + ", not the float kind's";
      }
      if (f.group_size != 0 || f.zeros != Zeros::none || f.scales != Scales::float16) {
        return "a float kind has groups, zeros or int8 scales";
      }
      return "";
  }
  return "kind is " + number(static_cast<uint32_t>(f.kind)) + ", unknown to this version";
}

bool shape_fits(int64_t rows, int64_t columns) {
  return rows > 0 && columns > 0 && rows < kMaxDimension && columns < kMaxDimension;
}

}  // namespace

PackedWeight layout_of(const Format& format, int64_t rows, int64_t columns) {
  PackedWeight w{};
  w.format = format;
  w.rows = rows;
  w.columns = columns;
  w.output_stride = rows;
  w.scale = 1;
  if (format.kind != Kind::integer) {
    w.padded_columns = columns;
    w.panel_bytes = aligned(static_cast<size_t>(columns) * kRowBlock * (format.bits / 8));
    return w;
  }
  const int64_t group_size = format.group_size;
  w.groups = (columns + group_size - 1) / group_size;
  w.padded_columns = rounded_up(w.groups * group_size, kColumnBlock);
  const auto groups = static_cast<size_t>(w.groups);
  w.scales_at = kRowBlock * (w.int8_scales() ? sizeof(uint16_t) : sizeof(float));
  const size_t scale_bytes = w.int8_scales() ? sizeof(int8_t) : sizeof(uint16_t);
  w.zeros_at = aligned(w.scales_at + groups * kRowBlock * scale_bytes);
  const size_t zero_rows = w.half_byte_zeros()              ? (groups + 1) / 2
                           : format.zeros == Zeros::integer ? groups
                           : format.zeros == Zeros::real    ? groups * sizeof(uint16_t)
                                                            : 0;
  w.data_at = w.zeros_at + aligned(zero_rows * kRowBlock);
  w.panel_bytes =
      w.data_at + static_cast<size_t>(w.padded_columns / kColumnBlock) * format.bits * 64;
  return w;
}

std::string view(const void* data, size_t size, PackedWeight* weight) {
  if (size < kHeaderBytes) return "packed weight of " + std::to_string(size) + " bytes";
  Header header;
  std::memcpy(&header, data, sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return "not a packed weight (its first bytes are not LOWBITW)";
  }
  if (header.version < 1 || header.version > kLayoutVersion) {
    return "packed layout " + std::to_string(header.version) + "; this program reads 1 to " +
           std::to_string(kLayoutVersion);
  }
  const Format format{header.kind, header.bits, header.group_size, header.zeros, header.scales};
  if (header.version != layout_version(format)) {
    return "packed layout " + std::to_string(header.version) + " with the scales or zeros of another";
  }
  if (std::string error = format_error(format); !error.empty()) return "packed weight: " + error;
  const auto rows = static_cast<int64_t>(header.rows);
  const auto columns = static_cast<int64_t>(header.columns);
  if (!shape_fits(rows, columns)) return "packed weight of no possible shape";
  if (header.scale_exponent < -126 || header.scale_exponent > 127) {
    return "packed weight: scale exponent " + std::to_string(header.scale_exponent);
  }
  PackedWeight w = layout_of(format, rows, columns);
  // At most 2^27 panels of at most 2^31 columns, 64 bytes each for float32, the widest: below 2^64.
  const size_t expected = kHeaderBytes + static_cast<size_t>(w.panel_count()) * w.panel_bytes;
  if (header.bytes != size || expected != size) {
    return "packed weight of " + std::to_string(size) + " bytes where its header means " +
           std::to_string(expected);
  }
  w.scale = std::ldexp(1.0f, header.scale_exponent);
  w.panels = static_cast<const uint8_t*>(data) + kHeaderBytes;
  *weight = w;
  return "";
}

std::string PackedStack::view(const void* data, size_t size) {
  if (size < kHeaderBytes || std::memcmp(data, kStackMagic, sizeof(kStackMagic)) != 0) {
    count_ = 1;
    return lowbit::view(data, size, &weights_[0]);
  }
  StackHeader header;
  std::memcpy(&header, data, sizeof(header));
  if (header.version != kStackVersion) {
    return "a stack of packed weights of layout " + std::to_string(header.version) +
           "; this program reads " + std::to_string(kStackVersion);
  }
  if (header.count < 2 || header.count > kMaxStack) {
    return "a stack of " + std::to_string(header.count) + " packed weights, not 2 to " +
           std::to_string(kMaxStack);
  }
  count_ = header.count;
  const auto* bytes = static_cast<const uint8_t*>(data);
  size_t at = kHeaderBytes;
  int64_t rows = 0;
  for (uint32_t i = 0; i < header.count; ++i) {
    // The weight's own header says where it ends; its view checks that against its shape.
    Header own;
    if (size - at < sizeof(own)) return "a stack of packed weights that ends early";
    std::memcpy(&own, bytes + at, sizeof(own));
    if (own.bytes > size - at) return "a stack of packed weights that ends early";
    PackedWeight& w = weights_[i];
    if (std::string error = lowbit::view(bytes + at, own.bytes, &w); !error.empty()) return error;
    if (w.columns != weights_[0].columns) {
      return "a stack of packed weights of " + std::to_string(weights_[0].columns) + " and " +
             std::to_string(w.columns) + " columns";
    }
    at += own.bytes;
    rows += w.rows;
  }
  if (header.bytes != size || at != size || header.rows != static_cast<uint64_t>(rows) ||
      header.columns != static_cast<uint64_t>(columns())) {
    return "a stack of packed weights of " + std::to_string(size) +
           " bytes that does not have the size or shape of its header";
  }
  for (PackedWeight& w : weights_) w.output_stride = rows;
  return "";
}

uint32_t layout_version(const Format& format) {
  if (format.zeros == Zeros::between) return 4;
  return format.scales == Scales::int8 ? 2 : 1;
}

size_t packed_size(const Format& format, int64_t rows, int64_t columns) {
  if (std::string error = format_error(format); !error.empty()) throw std::invalid_argument(error);
  if (!shape_fits(rows, columns)) {
    throw std::invalid_argument("cannot pack a weight of shape [" + std::to_string(rows) + ", " +
                                std::to_string(columns) + "]");
  }
  const PackedWeight w = layout_of(format, rows, columns);
  return kHeaderBytes + static_cast<size_t>(w.panel_count()) * w.panel_bytes;
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // beyond the largest: infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    const float steps = std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f);
    return sign | static_cast<uint16_t>(steps);
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

}  // namespace lowbit

