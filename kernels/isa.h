#pragma once

// The table of kernels: one entry an instruction set, each made from the same templates (impl/)
// over its own virtual vector (simd/). The functions work on a part of an operator's rows, tokens
// or heads; which part has no influence on a result.
//
// The virtual vector. Each header of simd/ defines a struct with the same members over 16 lanes.
// simd/scalar.h is the definition: what its loops compute, every other computes to the last bit.
//   F32, I32   16 lanes of float and int32; Bytes: 64 bytes; Quad: 4 int8 activations
//   fma        a b + c, rounded once
//   round      to nearest, ties to even, for |x| < 2^31
//   dot        lane r gains the sum of w[4 r + i] a[i], i < 4, for bytes w of at most 127
//   dot8       the same of w - kByteBias, for any byte w
//   sum        adds lanes 8 apart, then 4, 2 and 1
//   kGemvBlocks, kTileTokens and so on: tile sizes that suit the registers; they change no bit
//   kPairs: products of weights below 7 bits are added in pairs of 16 bits first
//   kCompact: one code for weights of any width below 8, and for any group size; for it alone
//   packed_quad unpacks

#include <array>
#include <cstdint>
#include <span>

#include "kernels/lowbit.h"

namespace lowbit {

// Quantized activations, in tiles of consecutive tokens. A tile of n tokens holds for each 4
// columns the n tokens' quads, and for each group the n tokens' scales and sums. Where the virtual
// vector says so (kRowTile), tiles of that size hold 32 columns of a token together.
struct Int8Activations {
  int8_t* values;  // [tile][padded_columns / 4][n][4], or [tile][padded_columns / 32][n][32]
  float* scales;   // [tile][G][n]; 1 where the token has one scale
  // [tile][G][n]: minus the values' sum times what weights are stored above 0; with integer zeros,
  // which differ from row to row, times 1.
  int32_t* starts;
  float* scaled_sums;  // [tile][G][n]: the values' sum times the scale
  float* offsets;  // [T], minus the zero point; 0 without
  float* factors;  // [T], the token's scale times the weight's 2^scale_exponent
};

// Tokens [begin, begin + tokens) as one tile of `size` places; only the last of all tiles may have
// some that stay empty. A tile's data starts at `begin` times a token's size.
struct Tile {
  int64_t begin;
  int size, tokens;
};

// The largest of a row, and the sum of exp(x - largest) over it.
struct PowerSum {
  float largest;
  double total;
};

// What is computed in float32. Entries whose integer instructions alone differ share one of these.
struct FloatKernels {
  // x [T, padded_columns], sums [T, G] of its groups, for real zeros only.
  void (*linear_wx)(const float* x, const float* sums, int64_t tokens, const PackedWeight& weight,
                    const float* bias, float* out, int64_t panel_begin, int64_t panel_end);
  void (*linear_fp)(const float* x, int64_t tokens, const PackedWeight& weight, const float* bias,
                    float* out, int64_t panel_begin, int64_t panel_end);
  void (*group_sums)(const float* x, const PackedWeight& weight, float* sums);
  void (*rms_norm)(const float* x, int64_t width, const float* weight, float eps, float* out);
  // `bias` may be null.
  void (*layer_norm)(const float* x, int64_t width, const float* weight, const float* bias,
                     float eps, float* out);
  void (*activate)(Activation activation, const float* x, int64_t n, float* out);
  void (*xielu)(const float* x, int64_t n, const Xielu& parameters, float* out);
  // `limit` is infinite where there is none; `out` may be `up`.
  void (*gate_mul)(Activation activation, const float* gate, const float* up, int64_t n,
                   float limit, float offset, float* out);
  void (*add)(const float* a, const float* b, int64_t n, float* out);
  void (*softcap)(const float* x, int64_t n, float cap, float* out);
  PowerSum (*power_sum)(const float* row, int64_t width);
  // One token's routes [2 chosen].
  void (*route)(const float* logits, int64_t experts, int64_t chosen, bool renormalize,
                float* routes);
  // out [n] += factor x.
  void (*add_scaled)(const float* x, int64_t n, float factor, float* out);

  // Normalizes and rotates one token's queries into `queries` [H, d], scaled, and writes its keys
  // and values for `position` to the cache's block `block`. For a 4-bit cache all are turned.
  void (*rotate_and_cache)(const float* qkv, int64_t position, int64_t block, const float* cos,
                           const float* sin, const AttentionShape& shape, const Cache& cache,
                           float* queries);
  // Attention of tokens [begin, end) of a segment for one key/value head; `queries` and `out` are the
  // segment's.
  void (*attend)(const float* queries, const Segment& segment, int64_t begin, int64_t end,
                 int64_t kv_head, const AttentionShape& shape, const Cache& cache, float* out);
  // Attention of a segment of one token over one chunk of its cache, for one key/value head: for each
  // of its query heads [maximum, sum, weighted values [d rounded up to 16]], `partial_size` floats
  // apart.
  void (*attend_chunk)(const float* queries, const Segment& segment, int64_t chunk, int64_t kv_head,
                       const AttentionShape& shape, const Cache& cache, float* partials);
  // Combines one head's partials of `chunks` consecutive chunks, `stride` floats apart. `sink` is
  // the head's or null.
  void (*merge_chunks)(const float* partials, int64_t stride, int64_t chunks, int64_t head_dim,
                       const float* sink, float* out);

  // Turns a vector [n] in place as a 4-bit cache does; turns it back, too.
  void (*turn)(float* x, int64_t n);

  // For benchmarks: reads as fast as it can; `bytes` is a multiple of 512.
  int32_t (*read_peak)(const uint8_t* memory, int64_t bytes);
};

struct Isa {
  const char* name;
  bool (*supported)();

  // The tile that starts at token `begin` of `tokens`.
  Tile (*tile)(int64_t begin, int64_t tokens, const PackedWeight& weight);
  // Groups [begin, end) of the tile's tokens; with a scale a token, all of them.
  void (*quantize)(const float* x, const Tile& tile, const PackedWeight& weight,
                   ActivationScales scales, int64_t begin, int64_t end, const Int8Activations& out);
  // Tokens from `first` on, which begins a tile.
  void (*linear_a8wx)(const Int8Activations& x, int64_t first, int64_t tokens,
                      const PackedWeight& weight, const float* bias, float* out,
                      int64_t panel_begin, int64_t panel_end);
  // For benchmarks: as many dot products as the CPU can do; returns the multiply-adds.
  int64_t (*dot_peak)(int64_t rounds, int32_t* sink);

  const FloatKernels* floats;
};

// Attention walks the cache in chunks of this many positions, counted from position 0.
inline constexpr int64_t kChunk = 256;

// The first position that a query at `position` sees; `window` is 0 where it sees all before it.
inline constexpr int64_t first_seen(int64_t position, int64_t window) {
  return window > 0 && position + 1 > window ? position + 1 - window : 0;
}

inline constexpr int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
inline constexpr int64_t int4_width(int64_t head_dim) { return (head_dim + 31) / 32 * 32; }

// Puts a key's elements, of `size` bytes each, at position `lane` of its block [d][16].
void scatter_key(const void* key, int64_t size, int64_t head_dim, int64_t lane, void* block);
// Puts the elements u [int4_width(d)] of a key or a value at position `lane` of its 4-bit block. No
// byte is shared by two positions: threads write neighbours at the same time.
void scatter_int4_key(const uint8_t* u, int64_t head_dim, int64_t lane, uint8_t* block);
void scatter_int4_value(const uint8_t* u, int64_t head_dim, int64_t lane, uint8_t* block);

inline constexpr int64_t partial_size(int64_t head_dim) { return 16 + padded_head_dim(head_dim); }

// Every entry that was compiled, the best first.
std::span<const Isa* const> all_isas();

// The one in use. Throws std::runtime_error for a LOWBIT_ISA that is unknown or not to be had.
const Isa& isa();

// What LOWBIT_ISA's value `name` stands for; null or "" = the best supported. Throws as above.
const Isa& find_isa(const char* name);

}  // namespace lowbit
