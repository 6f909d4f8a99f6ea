#pragma once

#include <cstdint>
#include <initializer_list>

namespace lowbit {
namespace {

// exp(x) for -87 <= x <= 88, with a relative error below 2e-7. x = n ln 2 + r, |r| <= ln 2 / 2;
// exp(r) is the Taylor polynomial of degree 7, whose remainder is below 6e-9; ln 2 is split in
// two so that n ln 2 loses nothing.
template <class V>
typename V::F32 exp_in_range(typename V::F32 x) {
  using F32 = typename V::F32;
  const auto n = V::round(V::mul(x, V::set(1.44269504f)));
  const F32 nf = V::to_float(n);
  F32 r = V::fma(nf, V::set(-0.693359375f), x);
  r = V::fma(nf, V::set(2.12194440e-4f), r);
  F32 y = V::set(1.0f / 5040);
  for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    y = V::fma(y, r, V::set(c));
  }
  const auto power = V::template shift_left<23>(V::iadd(n, V::iset(127)));
  return V::mul(y, V::as_float(power));
}

// exp(x) for x <= 0, also -infinity; 0 below -87.
template <class V>
typename V::F32 exp_of_negative(typename V::F32 x) {
  const auto magnitude = V::iand(V::as_int(x), V::iset(0x7fffffff));
  const auto kept = V::less(magnitude, V::iset(0x42ae0000));  // 87
  return V::keep(kept, exp_in_range<V>(V::max(x, V::set(-87.0f))));
}

// exp(x) - 1 - x for x <= 0, with a relative error below 6e-7; infinity for -infinity. Down to
// -0.34 it is x^2 times the Taylor polynomial of degree 6, whose remainder is below 3e-8 of it.
template <class V>
typename V::F32 exp_beyond_line(typename V::F32 x) {
  const auto magnitude = V::iand(V::as_int(x), V::iset(0x7fffffff));
  const auto near = V::less(magnitude, V::iset(0x3eb00000));  // 0.34375
  auto p = V::set(1.0f / 40320);
  for (const float c : {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f}) {
    p = V::fma(p, x, V::set(c));
  }
  const auto small = V::mul(V::mul(x, x), p);
  const auto large = V::sub(V::add(exp_of_negative<V>(x), V::set(-1.0f)), x);
  return V::add(V::keep(near, small), V::keep(V::isub(V::iset(-1), near), large));
}

// 1 / (1 + exp(-x)); x beyond +-87 counts as +-87.
template <class V>
[[gnu::noinline]] typename V::F32 sigmoid(typename V::F32 x) {
  const auto bounded = V::min(V::max(x, V::set(-87.0f)), V::set(87.0f));
  const auto e = exp_in_range<V>(V::sub(V::zero(), bounded));
  return V::div(V::set(1.0f), V::add(V::set(1.0f), e));
}

// tanh(x), with a relative error below 5e-7; of NaN it is any number or NaN. Up to 1/2 it is
// x + x^3 P(x^2), P fitted with an error below 4e-10; beyond, 2 sigmoid(2 x) - 1.
template <class V>
typename V::F32 tanh(typename V::F32 x) {
  const auto bits = V::as_int(x);
  const auto magnitude = V::iand(bits, V::iset(0x7fffffff));
  const auto a = V::as_float(magnitude);
  const auto large = V::fma(sigmoid<V>(V::add(a, a)), V::set(2.0f), V::set(-1.0f));
  const auto z = V::mul(a, a);
  auto p = V::set(-6.65355101e-3f);
  for (const float c : {2.13016905e-2f, -5.38999699e-2f, 1.33329704e-1f, -3.33333284e-1f}) {
    p = V::fma(p, z, V::set(c));
  }
  const auto small = V::fma(V::mul(p, z), a, a);
  const auto near = V::less(magnitude, V::iset(0x3f000000));  // 1/2
  const auto y = V::add(V::keep(near, small), V::keep(V::isub(V::iset(-1), near), large));
  const auto sign = V::iand(bits, V::iset(INT32_MIN));
  return V::as_float(V::iadd(V::as_int(y), sign));
}

// Phi(x), how much of the normal distribution lies below x. It is h below 0 and 1 - h above, with
// h = exp(-x^2 / 2) t P(t), t = 1 / (1 + 0.2828 |x|): the form of Abramowitz and Stegun 7.1.26, P
// fitted so that x Phi(x) is off by less than 2e-8.
template <class V>
typename V::F32 normal_below(typename V::F32 x) {
  const auto bits = V::as_int(x);
  const auto a = V::as_float(V::iand(bits, V::iset(0x7fffffff)));
  const auto t = V::div(V::set(1.0f), V::fma(a, V::set(0.282842712f), V::set(1.0f)));
  auto p = V::set(-0.101059675f);
  for (const float c : {0.358470917f, -0.191946521f, 0.239510372f, 0.0787033961f, 0.116321497f}) {
    p = V::fma(p, t, V::set(c));
  }
  const auto e = exp_of_negative<V>(V::mul(V::mul(a, a), V::set(-0.5f)));
  const auto h = V::mul(V::mul(e, t), p);
  const auto below = V::less(bits, V::iset(0));
  const auto above = V::isub(V::iset(-1), below);
  return V::add(V::keep(below, h), V::keep(above, V::sub(V::set(1.0f), h)));
}

}  // namespace
}  // namespace lowbit
