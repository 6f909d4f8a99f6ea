#pragma once

// The softmax of attention, chunk by chunk (online softmax: Milakov and Gimelshein, arXiv
// 1805.02867).

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/exp.h"
#include "kernels/impl/memory.h"
#include "kernels/impl/quantize.h"

namespace lowbit {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// c tanh(x / c); NaN of what is not finite.
template <class V>
typename V::F32 capped(typename V::F32 x, float c) {
  const auto y = V::mul(V::set(c), tanh<V>(V::div(x, V::set(c))));
  return V::fma(x, V::zero(), y);
}

// Scores to c tanh(score / c), in place.
template <class V>
[[gnu::noinline]] void cap_scores(float* scores, int64_t from, int64_t to, float c) {
  for (int64_t i = from; i < to; i += 16) {
    V::store(scores + i, capped<V>(V::load(scores + i), c));
  }
}

// All ones in the lanes of positions that the query may not see.
template <class V>
typename V::I32 hidden_lanes(int64_t position, int64_t first, int64_t end) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = position + i < first || position + i >= end ? -1 : 0;
  typename V::I32 mask;
  static_assert(sizeof(mask) == sizeof(lanes));
  std::memcpy(&mask, lanes, sizeof(lanes));
  return mask;
}

// Scores to weights, in place, of a query that sees the positions first..end of the chunk that
// begins at position `base`. Sets its maximum and sum; a score that is NaN or infinite, which no
// maximum orders alike on every CPU, makes the sum NaN and with it all of the query's result.
template <class V>
[[gnu::noinline]] void chunk_weights(int64_t first, int64_t end, int64_t from, int64_t to,
                                     int64_t base, float* scores, float& most, float& sum) {
  auto maximum = V::set(kMinusInfinity);
  auto largest = V::iset(0);
  for (int64_t i = from; i < to; i += 16) {
    auto s = V::load(scores + i);
    if (base + i < first || base + i + 16 > end) {
      const auto hidden = hidden_lanes<V>(base + i, first, end);
      const auto seen = V::isub(V::iset(-1), hidden);
      s = V::add(V::keep(seen, s), V::keep(hidden, V::set(kMinusInfinity)));
      V::store(scores + i, s);
    }
    maximum = V::max(maximum, s);
    // Without its sign an infinity is the first number after the largest finite one, NaN is beyond.
    largest = V::imax(largest, V::iand(V::as_int(s), V::iset(kSignless)));
  }
  most = V::max_lane(maximum);
  sum = 0;
  if (V::imax_lane(largest) > kLargestFinite + 1 ||
      most == std::numeric_limits<float>::infinity()) {
    most = 0;
    sum = std::numeric_limits<float>::quiet_NaN();
    std::memset(scores + from, 0, static_cast<size_t>(to - from) * sizeof(float));
    return;
  }
  if (most == kMinusInfinity) return;  // the query sees nothing of this chunk
  auto total = V::zero();
  for (int64_t i = from; i < to; i += 16) {
    const auto p = exp_of_negative<V>(V::sub(V::load(scores + i), V::set(most)));
    total = V::add(total, p);
    V::store(scores + i, p);
  }
  sum = V::sum(total);
}

// exp(a - largest) and exp(b - largest), for the larger of both.
struct Factors {
  float largest, of_a, of_b;
};
template <class V>
Factors factors_of(float a, float b) {
  const float largest = a > b ? a : b;
  float lanes[16] = {};
  lanes[0] = a - largest;
  lanes[1] = b - largest;
  V::store(lanes, exp_of_negative<V>(V::load(lanes)));
  return {largest, lanes[0], lanes[1]};
}

// Combines the running (maximum, sum, values) with a later chunk's.
template <class V>
[[gnu::noinline]] void merge(float& maximum, float& sum, float* values, float chunk_maximum,
                             float chunk_sum, const float* chunk_values, int64_t width) {
  if (chunk_maximum == kMinusInfinity) return;
  if (maximum == kMinusInfinity) {
    maximum = chunk_maximum;
    sum = chunk_sum;
    std::memcpy(values, chunk_values, static_cast<size_t>(width) * sizeof(float));
    return;
  }
  const Factors factors = factors_of<V>(maximum, chunk_maximum);
  maximum = factors.largest;
  sum = V::fma1(chunk_sum, factors.of_b, sum * factors.of_a);
  for (int64_t i = 0; i < width; i += 16) {
    const auto old = V::mul(V::load(values + i), V::set(factors.of_a));
    V::store(values + i, V::fma(V::load(chunk_values + i), V::set(factors.of_b), old));
  }
}

// `sink`, which may be null, joins the sum after all positions.
template <class V>
[[gnu::noinline]] void write_output(float maximum, float sum, const float* values, int64_t head_dim,
                                    const float* sink, float* out) {
  float factor = 1;
  if (sink != nullptr) {
    const Factors factors = factors_of<V>(maximum, *sink);
    factor = factors.of_a;
    sum = V::fma1(sum, factor, factors.of_b);
  }
  for (int64_t i = 0; i < head_dim; i += 16) {
    const auto weighted = V::mul(V::load(values + i), V::set(factor));
    store_first<V>(out + i, V::div(weighted, V::set(sum)), head_dim - i);
  }
}

}  // namespace
}  // namespace lowbit
