#pragma once

// What softmax divides a row of logits by.

#include <cstdint>
#include <limits>

#include "kernels/impl/exp.h"
#include "kernels/impl/memory.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

// Sums of 1024 powers are added in float32, 64 to a lane and then a tree, and those sums in
// double: with exp's own error the total is off by less than 5e-6 of it for rows of any width.
// The largest is NaN where an element is NaN, or the largest is not finite.
template <class V>
PowerSum power_sum_row(const float* row, int64_t width) {
  constexpr int64_t kBlock = 1024;
  constexpr int32_t kInfinity = 0x7f800000;
  constexpr float kLeast = -std::numeric_limits<float>::infinity();  // whose power is nothing
  auto largest = V::set(kLeast);
  auto magnitude = V::iset(0);
  for (int64_t i = 0; i < width; i += 16) {
    const auto x = load_first<V>(row + i, width - i, kLeast);
    largest = V::max(largest, x);
    magnitude = V::imax(magnitude, V::iand(V::as_int(x), V::iset(0x7fffffff)));
  }
  const float most = V::max_lane(largest);
  if (V::imax_lane(magnitude) > kInfinity || !(most - most == 0)) {
    return {std::numeric_limits<float>::quiet_NaN(), 1};
  }
  const auto shift = V::set(most);
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t end = begin + kBlock < width ? begin + kBlock : width;
    auto sums = V::zero();
    for (int64_t i = begin; i < end; i += 16) {
      const auto x = load_first<V>(row + i, width - i, kLeast);
      sums = V::add(sums, exp_of_negative<V>(V::sub(x, shift)));
    }
    total += static_cast<double>(V::sum(sums));
  }
  return {most, total};
}

}  // namespace
}  // namespace lowbit
