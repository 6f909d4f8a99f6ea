#pragma once

// Norm, gated activations and sums.

#include <cmath>
#include <cstdint>

#include "kernels/impl/exp.h"
#include "kernels/impl/memory.h"

namespace lowbit {
namespace {

template <class V>
void rms_norm_row(const float* x, int64_t width, const float* weight, float eps, float* out) {
  auto squares = V::zero();
  for (int64_t i = 0; i < width; i += 16) {
    const auto v = load_first<V>(x + i, width - i);
    squares = V::fma(v, v, squares);
  }
  const float mean = V::sum(squares) / static_cast<float>(width);
  const auto scale = V::set(1.0f / std::sqrt(mean + eps));
  for (int64_t i = 0; i < width; i += 16) {
    const auto v = V::mul(load_first<V>(x + i, width - i), scale);
    store_first<V>(out + i, V::mul(v, load_first<V>(weight + i, width - i)), width - i);
  }
}

template <class V>
void silu_mul_row(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const auto g = load_first<V>(gate + i, n - i);
    const auto silu = V::mul(g, sigmoid<V>(g));
    store_first<V>(out + i, V::mul(silu, load_first<V>(up + i, n - i)), n - i);
  }
}

// x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class V>
void gelu_mul_row(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const auto g = load_first<V>(gate + i, n - i);
    const auto inner = V::fma(V::mul(V::mul(g, g), V::set(0.044715f)), g, g);
    const auto gelu = V::mul(g, sigmoid<V>(V::mul(inner, V::set(1.59576912f))));
    store_first<V>(out + i, V::mul(gelu, load_first<V>(up + i, n - i)), n - i);
  }
}

template <class V>
void add_row(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    store_first<V>(out + i, V::add(load_first<V>(a + i, n - i), load_first<V>(b + i, n - i)),
                   n - i);
  }
}

}  // namespace
}  // namespace lowbit
