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

// 1 / (1 + exp(-x)); x beyond +-87 counts as +-87.
template <class V>
typename V::F32 sigmoid(typename V::F32 x) {
  const auto bounded = V::min(V::max(x, V::set(-87.0f)), V::set(87.0f));
  const auto e = exp_in_range<V>(V::sub(V::zero(), bounded));
  return V::div(V::set(1.0f), V::add(V::set(1.0f), e));
}

}  // namespace
}  // namespace lowbit
