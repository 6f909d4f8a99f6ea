#pragma once

// The choice of a token's experts.

#include <cstdint>
#include <limits>

#include "kernels/impl/exp.h"
#include "kernels/impl/log_softmax.h"
#include "kernels/impl/memory.h"

namespace lowbit {
namespace {

// Finds one expert after the other: the largest logit of those that stand behind the last one found,
// in falling order of logits and rising order of numbers.
inline void largest_logits(const float* logits, int64_t experts, int64_t chosen, float* numbers,
                           float* found) {
  float last = std::numeric_limits<float>::infinity();
  int64_t last_expert = -1;
  for (int64_t i = 0; i < chosen; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e) {
      const bool behind = logits[e] < last || (logits[e] == last && e > last_expert);
      if (behind && (best < 0 || logits[e] > logits[best])) best = e;
    }
    last = logits[best];
    last_expert = best;
    numbers[i] = static_cast<float>(best);
    found[i] = last;
  }
}

template <class V>
void route_row(const float* logits, int64_t experts, int64_t chosen, bool renormalize,
               float* routes) {
  float* factors = routes + chosen;
  PowerSum sum = power_sum_row<V>(logits, experts);
  if (sum.largest != sum.largest) {
    for (int64_t i = 0; i < chosen; ++i) {
      routes[i] = static_cast<float>(i);
      factors[i] = sum.largest;
    }
    return;
  }
  largest_logits(logits, experts, chosen, routes, factors);
  if (renormalize) sum = power_sum_row<V>(factors, chosen);
  const auto total = V::set(static_cast<float>(sum.total));
  for (int64_t i = 0; i < chosen; i += 16) {
    const auto x = V::sub(load_first<V>(factors + i, chosen - i), V::set(sum.largest));
    store_first<V>(factors + i, V::div(exp_of_negative<V>(x), total), chosen - i);
  }
}

}  // namespace
}  // namespace lowbit
