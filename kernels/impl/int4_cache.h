#pragma once

// What a 4-bit cache holds (Cache in lowbit.h), and how a position is written to it.
//
// A vector is turned by an orthonormal Hadamard matrix before it is rounded, so that no element
// stands out of its range: Ashkboos et al., QuaRot, arXiv 2404.00456. Queries are turned as keys
// are, which leaves their products; the weighted sum of values is turned back at the end, by the
// same matrix, which is its own inverse.

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/memory.h"
#include "kernels/impl/quantize.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

// Turns x [n] in place, in blocks of the largest power of two that divides n. Up to 16 elements are
// sums of products with +-1, in order; from there on pairs are added and subtracted.
template <class V>
[[gnu::noinline]] void turn(float* x, int64_t n) {
  static constexpr auto kSigns = [] {
    std::array<std::array<float, 16>, 16> signs{};
    for (unsigned i = 0; i < 16; ++i) {
      for (unsigned j = 0; j < 16; ++j) signs[i][j] = std::popcount(i & j) % 2 == 0 ? 1.0f : -1.0f;
    }
    return signs;
  }();
  const int64_t block = n & -n, small = block < 16 ? block : 16;
  float factor = 1;
  for (int64_t i = block; i > 1; i /= 4) factor *= i == 2 ? 0.707106781f : 0.5f;
  for (int64_t i = 0; i < n; i += small) {
    auto sum = V::zero();
    for (int64_t j = 0; j < small; ++j) {
      sum = V::fma(V::load(kSigns[static_cast<size_t>(j)].data()), V::set(x[i + j]), sum);
    }
    store_first<V>(x + i, V::mul(sum, V::set(factor)), small);
  }
  for (int64_t apart = 16; apart < block; apart *= 2) {
    for (int64_t i = 0; i < n; i += 16) {
      if ((i & apart) != 0) continue;  // a second of a pair
      const auto a = V::load(x + i), b = V::load(x + i + apart);
      V::store(x + i, V::add(a, b));
      V::store(x + i + apart, V::sub(a, b));
    }
  }
}

// The end of a block: x = low + step u, for each position. Both are bfloat16, which has float32's
// range.
struct Int4Scales {
  uint16_t steps[16], lows[16];
};

// The bfloat16 next to x: towards zero, or away from it.
inline uint16_t bfloat_within(float x) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
}
inline uint16_t bfloat_beyond(float x) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + 0xffff) >> 16);
}
inline float from_bfloat(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

// x [n] to u [int4_width(n)] of 0..15, 0 beyond n. A vector that is not finite, or whose ends are
// further apart than float32 holds, gets the step NaN.
template <class V>
[[gnu::noinline]] void to_int4(const float* x, int64_t n, int64_t position, Int4Scales& scales,
                               uint8_t* u) {
  auto most = V::set(x[0]), least_negated = V::set(0.0f - x[0]);
  for (int64_t i = 0; i < n; i += 16) {
    const auto each = load_first<V>(x + i, n - i, x[0]);
    most = V::max(most, each);
    least_negated = V::max(least_negated, V::sub(V::zero(), each));
  }
  const float least = 0.0f - V::max_lane(least_negated);
  const uint16_t low = least < 0 ? bfloat_beyond(least) : bfloat_within(least);
  const float from = from_bfloat(low), range = V::max_lane(most) - from;
  const bool finite = largest_magnitude<V>(x, n) <= kLargestFinite &&
                      range < std::numeric_limits<float>::infinity();
  const bool usable = finite && range > 1e-35f;
  const uint16_t step = usable ? bfloat_beyond(range / 15) : 0;
  const auto factor = V::set(usable ? 1.0f / from_bfloat(step) : 0);
  for (int64_t i = 0; i < int4_width(n); i += 16) {
    auto whole = V::iset(0);
    if (usable && i < n) {
      const auto above = V::sub(load_first<V>(x + i, n - i, from), V::set(from));
      whole = V::imin(V::round(V::mul(above, factor)), V::iset(15));
    }
    V::store_i8(reinterpret_cast<int8_t*>(u + i), whole);
  }
  scales.steps[position] = finite ? step : uint16_t{0x7fc0};
  scales.lows[position] = finite ? low : uint16_t{0};
}

inline Int4Scales& int4_scales(uint8_t* block, int64_t head_dim) {
  return *reinterpret_cast<Int4Scales*>(block + 8 * int4_width(head_dim));
}

// Writes a key and a value, both turned, as position `lane` of their blocks.
template <class V>
void write_int4(const float* key, const float* value, int64_t lane, int64_t head_dim,
                uint8_t* key_block, uint8_t* value_block) {
  uint8_t u[kMaxHeadDim];
  to_int4<V>(key, head_dim, lane, int4_scales(key_block, head_dim), u);
  scatter_int4_key(u, head_dim, lane, key_block);
  to_int4<V>(value, head_dim, lane, int4_scales(value_block, head_dim), u);
  scatter_int4_value(u, head_dim, lane, value_block);
}

}  // namespace
}  // namespace lowbit
