#pragma once

// Norms, activations and sums.

#include <cmath>
#include <cstdint>

#include "kernels/impl/exp.h"
#include "kernels/impl/memory.h"
#include "kernels/impl/softmax.h"
#include "kernels/lowbit.h"

namespace lowbit {
namespace {

// 1 / sqrt(mean(x^2) + eps).
template <class V>
float rms_factor(const float* x, int64_t width, float eps) {
  auto squares = V::zero();
  for (int64_t i = 0; i < width; i += 16) {
    const auto v = load_first<V>(x + i, width - i);
    squares = V::fma(v, v, squares);
  }
  const float mean = V::sum(squares) / static_cast<float>(width);
  return 1.0f / std::sqrt(mean + eps);
}

// out = x * factor * weight; `out` may be x.
template <class V>
void scale_row(const float* x, int64_t width, float factor, const float* weight, float* out) {
  for (int64_t i = 0; i < width; i += 16) {
    const auto v = V::mul(load_first<V>(x + i, width - i), V::set(factor));
    store_first<V>(out + i, V::mul(v, load_first<V>(weight + i, width - i)), width - i);
  }
}

template <class V>
void rms_norm_row(const float* x, int64_t width, const float* weight, float eps, float* out) {
  scale_row<V>(x, width, rms_factor<V>(x, width, eps), weight, out);
}

// x - mean of the first `n` of 16 elements, 0 behind them.
template <class V>
typename V::F32 centred(const float* x, int64_t n, float mean) {
  return V::sub(load_first<V>(x, n, mean), V::set(mean));
}

template <class V>
void layer_norm_row(const float* x, int64_t width, const float* weight, const float* bias,
                    float eps, float* out) {
  auto total = V::zero(), squares = V::zero();
  for (int64_t i = 0; i < width; i += 16) total = V::add(load_first<V>(x + i, width - i), total);
  const float mean = V::sum(total) / static_cast<float>(width);
  for (int64_t i = 0; i < width; i += 16) {
    const auto d = centred<V>(x + i, width - i, mean);
    squares = V::fma(d, d, squares);
  }
  const float variance = V::sum(squares) / static_cast<float>(width);
  const auto factor = V::set(1.0f / std::sqrt(variance + eps));
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t n = width - i;
    const auto y = V::mul(centred<V>(x + i, n, mean), factor), w = load_first<V>(weight + i, n);
    store_first<V>(out + i,
                   bias == nullptr ? V::mul(y, w) : V::fma(y, w, load_first<V>(bias + i, n)), n);
  }
}

// NaN stays NaN: it is a factor of the result.
template <class V>
typename V::F32 activated(Activation activation, typename V::F32 x) {
  if (activation == Activation::gelu) return V::mul(x, normal_below<V>(x));
  if (activation == Activation::relu2) return V::mul(x, V::max(x, V::zero()));
  auto argument = x;
  if (activation == Activation::gelu_tanh) {
    // x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
    const auto inner = V::fma(V::mul(V::mul(x, x), V::set(0.044715f)), x, x);
    argument = V::mul(inner, V::set(1.59576912f));
  }
  if (activation == Activation::quick_gelu) argument = V::mul(x, V::set(1.702f));
  const auto open = sigmoid<V>(argument);
  return activation == Activation::sigmoid ? V::fma(x, V::zero(), open) : V::mul(x, open);
}

template <class V>
void activate_row(Activation activation, const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    store_first<V>(out + i, activated<V>(activation, load_first<V>(x + i, n - i)), n - i);
  }
}

// Up to 0 it is alpha_n (exp(e) - 1 - e + (e - x)) + beta x with e = min(x, eps).
template <class V>
void xielu_row(const float* x, int64_t n, const Xielu& p, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const auto v = load_first<V>(x + i, n - i);
    const auto positive = V::mul(v, V::fma(V::set(p.alpha_p), v, V::set(p.beta)));
    const auto e = V::min(V::set(p.eps), v);
    const auto curve = V::add(exp_beyond_line<V>(e), V::sub(e, v));
    const auto negative = V::fma(V::set(p.alpha_n), curve, V::mul(V::set(p.beta), v));
    const auto below = V::less(V::as_int(v), V::iset(1));  // 0 among them
    const auto y = V::add(V::keep(below, negative),
                          V::keep(V::isub(V::iset(-1), below), positive));
    store_first<V>(out + i, y, n - i);
  }
}

template <class V>
void gate_mul_row(Activation activation, const float* gate, const float* up, int64_t n, float limit,
                  float offset, float* out) {
  const auto most = V::set(limit), least = V::set(-limit);
  for (int64_t i = 0; i < n; i += 16) {
    const auto g = V::min(most, load_first<V>(gate + i, n - i));
    auto u = V::max(least, V::min(most, load_first<V>(up + i, n - i)));
    if (offset != 0) u = V::add(u, V::set(offset));
    store_first<V>(out + i, V::mul(activated<V>(activation, g), u), n - i);
  }
}

template <class V>
void add_row(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    store_first<V>(out + i, V::add(load_first<V>(a + i, n - i), load_first<V>(b + i, n - i)),
                   n - i);
  }
}

template <class V>
void add_scaled_row(const float* x, int64_t n, float factor, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const auto sum = load_first<V>(out + i, n - i);
    store_first<V>(out + i, V::fma(load_first<V>(x + i, n - i), V::set(factor), sum), n - i);
  }
}

template <class V>
void softcap_row(const float* x, int64_t n, float cap, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    store_first<V>(out + i, capped<V>(load_first<V>(x + i, n - i), cap), n - i);
  }
}

}  // namespace
}  // namespace lowbit
