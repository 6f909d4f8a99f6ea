#pragma once

// The log-probability of one element of a row of logits.

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/exp.h"

namespace lowbit {
namespace {

// ln(x) for a normal x > 0, by operations that every CPU rounds alike: x = m 2^e with m within a
// factor of sqrt(2) of 1, ln m = 2 (t + t^3 / 3 + t^5 / 5 + ...) with t = (m - 1) / (m + 1),
// |t| < 0.172: what is left out is below 1e-15.
inline double natural_log(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  std::memcpy(&m, &bits, sizeof(m));
  if (m > 1.4142135623730951) {
    m /= 2;
    ++exponent;
  }
  const double t = (m - 1) / (m + 1), square = t * t;
  double series = 0;
  for (int n = 19; n > 0; n -= 2) series = series * square + 1.0 / n;
  return static_cast<double>(exponent) * 0.69314718055994531 + 2 * t * series;
}

// The first n of 16 lanes, minus infinity in the others.
template <class V>
typename V::F32 load_logits(const float* p, int64_t n) {
  if (n >= 16) return V::load(p);
  float lanes[16];
  for (float& lane : lanes) lane = -std::numeric_limits<float>::infinity();
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
  return V::load(lanes);
}

// Sums of 1024 powers are added in float32, 64 to a lane and then a tree, and those sums in
// double: with exp's own error the result is off by less than 5e-6 for rows of any width.
// NaN where an element is NaN or none is finite, or one is infinite.
template <class V>
float log_softmax_element(const float* row, int64_t width, int64_t target) {
  constexpr int64_t kBlock = 1024;
  constexpr int32_t kInfinity = 0x7f800000;
  auto largest = V::set(-std::numeric_limits<float>::infinity());
  auto magnitude = V::iset(0);
  for (int64_t i = 0; i < width; i += 16) {
    const auto x = load_logits<V>(row + i, width - i);
    largest = V::max(largest, x);
    magnitude = V::imax(magnitude, V::iand(V::as_int(x), V::iset(0x7fffffff)));
  }
  const float most = V::max_lane(largest);
  if (V::imax_lane(magnitude) > kInfinity || !(most - most == 0)) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const auto shift = V::set(most);
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t end = begin + kBlock < width ? begin + kBlock : width;
    auto sums = V::zero();
    for (int64_t i = begin; i < end; i += 16) {
      const auto x = load_logits<V>(row + i, width - i);
      sums = V::add(sums, exp_of_negative<V>(V::sub(x, shift)));
    }
    total += static_cast<double>(V::sum(sums));
  }
  const double offset = static_cast<double>(row[target]) - static_cast<double>(most);
  return static_cast<float>(offset - natural_log(total));
}

}  // namespace
}  // namespace lowbit
