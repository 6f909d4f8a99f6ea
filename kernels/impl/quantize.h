#pragma once

// Activations to int8, in tiles.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/memory.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

constexpr int32_t kSignless = 0x7fffffff;
constexpr int32_t kLargestFinite = 0x7f7fffff;

// The bits of the largest |x|, compared as integers: the same for every order, and NaN is largest.
template <class V>
int32_t largest_magnitude(const float* x, int64_t n) {
  auto largest = V::iset(0);
  for (int64_t i = 0; i < n; i += 16) {
    const auto bits = V::as_int(load_first<V>(x + i, n - i));
    largest = V::imax(largest, V::iand(bits, V::iset(kSignless)));
  }
  return V::imax_lane(largest);
}

// Where a tile holds one of its tokens' quads.
struct TokenQuads {
  int8_t* first;
  int64_t apart, blocks_apart;  // quads within 32 columns; blocks of 32 columns

  int8_t* at(int64_t quad) const { return first + quad / 8 * blocks_apart + quad % 8 * apart; }
};

template <class V>
TokenQuads token_quads(int8_t* tile, int lane, int size) {
  if (size == V::kRowTile) return {tile + 32 * lane, 4, 32 * size};
  return {tile + 4 * lane, 4 * size, 32 * size};
}

// round(x scale) + zero, clamped to int8, to the quads from `quad`, a multiple of 4, on. Returns
// their sum.
template <class V>
int32_t quantize_span(const float* x, int64_t n, float scale, int32_t zero, const TokenQuads& out,
                      int64_t quad) {
  auto total = V::iset(0);
  int32_t rest = 0;
  for (int64_t i = 0; i < n; i += 16) {
    auto q = V::round(V::mul(load_first<V>(x + i, n - i), V::set(scale)));
    q = V::iadd(q, V::iset(zero));
    q = V::imin(V::imax(q, V::iset(-128)), V::iset(127));
    int8_t bytes[16];
    V::store_i8(bytes, q);
    if (n - i >= 16) {
      total = V::iadd(total, q);
    } else {  // what is beyond the last column counts as 0, not as the zero point
      std::memset(bytes + (n - i), 0, static_cast<size_t>(16 - (n - i)));
      for (const int8_t byte : bytes) rest += byte;
    }
    int8_t* to = out.at(quad + i / 4);
    for (int64_t j = 0; j < 4; ++j) std::memcpy(to + j * out.apart, bytes + 4 * j, 4);
  }
  return V::isum(total) + rest;
}

struct TokenScale {
  float scale;   // 1 / step
  float step;    // NaN when the token is not finite
  int32_t zero;
};

// torchao 0.18, `choose_qparams_affine` asymmetric over a token: the range holds 0, the step is
// at least float32's epsilon.
template <class V>
TokenScale token_scale(const float* x, int64_t n) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  if (largest_magnitude<V>(x, n) > kLargestFinite) return {0, kNaN, 0};
  auto low = V::zero(), high = V::zero();
  for (int64_t i = 0; i < n; i += 16) {
    const auto v = load_first<V>(x + i, n - i);
    low = V::min(low, v);
    high = V::max(high, v);
  }
  const float least = -V::max_lane(V::sub(V::zero(), low)), most = V::max_lane(high);
  const float range = most - least;
  if (!(range <= std::numeric_limits<float>::max())) return {0, kNaN, 0};
  float step = range / 255.0f;
  if (step < std::numeric_limits<float>::epsilon()) step = std::numeric_limits<float>::epsilon();
  const float zero = -128.0f - std::nearbyint(least / step);
  return {1.0f / step, step, static_cast<int32_t>(zero < -128 ? -128 : zero > 127 ? 127 : zero)};
}

template <class V>
void quantize_token(const float* x, const PackedWeight& w, ActivationScales kind, const Tile& tile,
                    int lane, int64_t group_begin, int64_t group_end, const Int8Activations& out) {
  const int64_t token = tile.begin + lane;
  const int size = tile.size;
  const auto values = token_quads<V>(out.values + tile.begin * w.padded_columns, lane, size);
  float* scales = out.scales + tile.begin * w.groups;
  int32_t* starts = out.starts + tile.begin * w.groups;
  float* scaled_sums = out.scaled_sums + tile.begin * w.groups;
  const int32_t bias = w.format.bits == 8 ? V::kByteBias : 0;
  const int32_t above = w.format.zeros == Zeros::integer ? 1 : (1 << (w.format.bits - 1)) - bias;
  const int64_t group_size = w.format.group_size;
  const bool by_token = kind == ActivationScales::token;
  const TokenScale whole = by_token ? token_scale<V>(x, w.columns) : TokenScale{};
  if (group_end == w.groups) {
    out.offsets[token] = by_token ? static_cast<float>(-whole.zero) : 0.0f;
    out.factors[token] = by_token ? whole.step * w.scale : w.scale;
    for (int64_t k = w.columns / 16 * 16; k < w.padded_columns; k += 4) {
      std::memset(values.at(k / 4), 0, 4);
    }
  }
  for (int64_t g = group_begin; g < group_end; ++g) {
    const int64_t begin = g * group_size;
    const int64_t n = w.columns - begin < group_size ? w.columns - begin : group_size;
    float scale = whole.scale, step = 1;
    if (!by_token) {
      const int32_t bits = largest_magnitude<V>(x + begin, n);
      float largest;
      std::memcpy(&largest, &bits, 4);
      // Below 1e-36 the quotient would not be finite; such a group counts as 0.
      const bool usable = bits <= kLargestFinite && largest > 1e-36f;
      scale = usable ? 127.0f / largest : 0.0f;
      step = bits > kLargestFinite ? std::numeric_limits<float>::quiet_NaN()
             : usable              ? largest / 127.0f
                                   : 0.0f;
    }
    int32_t sum = 0;
    if (scale == 0) {  // a value that is not finite has no integer: `step` carries the NaN instead
      for (int64_t k = begin; k < begin + n; k += 4) std::memset(values.at(k / 4), 0, 4);
    } else {
      sum = quantize_span<V>(x + begin, n, scale, whole.zero, values, begin / 4);
    }
    starts[g * size + lane] = -above * sum;
    scales[g * size + lane] = step;
    scaled_sums[g * size + lane] = step * static_cast<float>(sum);
  }
}

// Zeros in all of a tile's places, for those that stay empty. Rare, so not in line.
[[gnu::noinline]] inline void clear_groups(const PackedWeight& w, const Tile& tile, int64_t begin,
                                           int64_t end, const Int8Activations& out) {
  const int64_t size = tile.size, column = begin * w.format.group_size;
  const int64_t last = end == w.groups ? w.padded_columns : end * w.format.group_size;
  int8_t* values = out.values + tile.begin * w.padded_columns + column * size;
  std::memset(values, 0, static_cast<size_t>((last - column) * size));
  const int64_t at = tile.begin * w.groups + begin * size, n = (end - begin) * size;
  std::fill_n(out.scales + at, n, 0.0f);
  std::fill_n(out.starts + at, n, 0);
  std::fill_n(out.scaled_sums + at, n, 0.0f);
}

template <class V>
void quantize_tile(const float* x, const Tile& tile, const PackedWeight& w, ActivationScales kind,
                   int64_t begin, int64_t end, const Int8Activations& out) {
  if (tile.tokens < tile.size) clear_groups(w, tile, begin, end, out);
  for (int lane = 0; lane < tile.tokens; ++lane) {
    quantize_token<V>(x + (tile.begin + lane) * w.columns, w, kind, tile, lane, begin, end, out);
  }
}

}  // namespace
}  // namespace lowbit
