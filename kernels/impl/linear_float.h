#pragma once

// Float activations: linear_fp over float weights and linear_wx over packed integers. Each output
// is one chain of fused multiply-adds over the columns, cut at fixed columns.

#include <cstdint>

#include "kernels/impl/linear_a8wx.h"
#include "kernels/impl/memory.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

constexpr int64_t kColumnsAtOnce = 256;  // a partial sum of linear_fp; keeps rounding errors small

template <class V, Kind K>
typename V::F32 load_weights(const uint8_t* p) {
  if constexpr (K == Kind::float32) return V::load(reinterpret_cast<const float*>(p));
  if constexpr (K == Kind::float16) return V::load_half(reinterpret_cast<const uint16_t*>(p));
  if constexpr (K == Kind::bfloat16) return V::load_bfloat(reinterpret_cast<const uint16_t*>(p));
}

template <class V, int N, int B>
struct Totals {
  typename V::F32 at[B][N];
};

template <class V, int N, int B>
[[gnu::always_inline]] inline void clear(Totals<V, N, B>& totals) {
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) totals.at[b][t] = V::zero();
  }
}

template <class V, int N, int B>
void store_totals(const Totals<V, N, B>& totals, int64_t token, const PackedWeight& w, float factor,
                  const float* bias, float* out, int64_t panel) {
  for (int b = 0; b < B; ++b) {
    const int64_t row = (panel + b) * kRowBlock;
    const int64_t n = w.rows - row;
    for (int t = 0; t < N; ++t) {
      auto y = V::mul(totals.at[b][t], V::set(factor));
      if (bias) y = V::add(y, load_first<V>(bias + row, n));
      store_first<V>(out + (token + t) * w.output_stride + row, y, n);
    }
  }
}

template <class V, Kind K, int N, int B>
void tile_fp(const float* x, int64_t token, const PackedWeight& w, const float* bias, float* out,
             int64_t panel) {
  constexpr int64_t kStep = K == Kind::float32 ? 64 : 32;  // bytes of 16 weights
  const uint8_t* data = w.panel(panel);
  const auto apart = static_cast<int64_t>(w.panel_bytes);
  const float* from = x + token * w.columns;
  Totals<V, N, B> totals;
  clear(totals);
  for (int64_t begin = 0; begin < w.columns; begin += kColumnsAtOnce) {
    const int64_t end = begin + kColumnsAtOnce < w.columns ? begin + kColumnsAtOnce : w.columns;
    Totals<V, N, B> part;
    clear(part);
    for (int64_t k = begin; k < end; ++k) {
      typename V::F32 weights[B];
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) weights[b] = load_weights<V, K>(data + b * apart + k * kStep);
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        const auto a = V::set(from[t * w.columns + k]);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) part.at[b][t] = V::fma(weights[b], a, part.at[b][t]);
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) totals.at[b][t] = V::add(totals.at[b][t], part.at[b][t]);
    }
  }
  store_totals<V, N, B>(totals, token, w, 1, bias, out, panel);
}

template <class V, int Bits, int N, int B>
void tile_wx(const float* x, const float* sums, int64_t token, const PackedWeight& w,
             const float* bias, float* out, int64_t panel) {
  const uint8_t* data = w.panel(panel) + w.data_at;
  const auto apart = static_cast<int64_t>(w.panel_bytes);
  const float* from = x + token * w.padded_columns;
  const int64_t quads = w.format.group_size / 4;
  int64_t quad = 0;  // from the first column on
  Totals<V, N, B> totals;
  clear(totals);
  for (int64_t g = 0; g < w.groups; ++g) {
    Totals<V, N, B> part;
    clear(part);
    typename V::I32 middle[B];
    for (int b = 0; b < B; ++b) {
      middle[b] = w.format.zeros == Zeros::integer ? integer_zeros<V>(w, w.panel(panel + b), g)
                                                   : V::iset(1 << (Bits - 1));
    }
    for (int64_t q = 0; q < quads; ++q, ++quad) {
      typename V::I32 words[B];
      for (int b = 0; b < B; ++b) {
        const uint8_t* block = data + b * apart + quad / 8 * (64 * Bits);
        auto bytes = V::load_bytes(block + (Bits == 8 ? quad % 8 : quad % 8 / 2) * 64);
        if constexpr (Bits == 4) {
          bytes = quad % 2 == 0 ? bytes : V::template bytes_right<4>(bytes);
          bytes = V::mask(bytes, 0x0f);
        }
        words[b] = V::words(bytes);
      }
      for (int c = 0; c < 4; ++c) {
        typename V::F32 weights[B];
        for (int b = 0; b < B; ++b) {
          weights[b] = V::to_float(V::isub(V::iand(words[b], V::iset(0xff)), middle[b]));
          words[b] = V::template shift_right<8>(words[b]);
        }
#pragma GCC unroll 8
        for (int t = 0; t < N; ++t) {
          const auto a = V::set(from[t * w.padded_columns + quad * 4 + c]);
#pragma GCC unroll 8
          for (int b = 0; b < B; ++b) part.at[b][t] = V::fma(weights[b], a, part.at[b][t]);
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      const uint8_t* p = w.panel(panel + b);
      const auto scale = V::load_half(reinterpret_cast<const uint16_t*>(p + w.scales_at) + g * 16);
      for (int t = 0; t < N; ++t) {
        totals.at[b][t] = V::fma(part.at[b][t], scale, totals.at[b][t]);
      }
      if (w.format.zeros != Zeros::real) continue;
      const auto zero = real_zeros<V>(w, p, g);
      for (int t = 0; t < N; ++t) {
        const auto sum = V::set(sums[(token + t) * w.groups + g]);
        totals.at[b][t] = V::fma(zero, sum, totals.at[b][t]);
      }
    }
  }
  store_totals<V, N, B>(totals, token, w, w.scale, bias, out, panel);
}

// Calls tile(token, panel, token count, panel count as integral constants) over the range.
template <int N, int B, class F>
void for_each_tile(int64_t tokens, int64_t begin, int64_t end, F tile) {
  for (int64_t from = begin; from < end; from += B) {
    const bool full = from + B <= end;
    int64_t token = 0;
    const auto pass = [&]<int Tokens>(std::integral_constant<int, Tokens> n) {
      for (; token + Tokens <= tokens; token += Tokens) {
        if (full) {
          tile(token, from, n, std::integral_constant<int, B>{});
        } else {
          for (int64_t panel = from; panel < end; ++panel) {
            tile(token, panel, n, std::integral_constant<int, 1>{});
          }
        }
      }
    };
    pass(std::integral_constant<int, N>{});
    pass(std::integral_constant<int, 1>{});
  }
}

template <class V, Kind K>
void kind_fp(const float* x, int64_t tokens, const PackedWeight& w, const float* bias, float* out,
             int64_t begin, int64_t end) {
  for_each_tile<V::kFloatTokens, V::kFloatBlocks>(
      tokens, begin, end, [&](int64_t token, int64_t panel, auto n, auto b) {
        tile_fp<V, K, n(), b()>(x, token, w, bias, out, panel);
      });
}

template <class V>
void linear_fp_range(const float* x, int64_t tokens, const PackedWeight& w, const float* bias,
                     float* out, int64_t begin, int64_t end) {
  switch (w.format.kind) {
    case Kind::float32: return kind_fp<V, Kind::float32>(x, tokens, w, bias, out, begin, end);
    case Kind::float16: return kind_fp<V, Kind::float16>(x, tokens, w, bias, out, begin, end);
    default: return kind_fp<V, Kind::bfloat16>(x, tokens, w, bias, out, begin, end);
  }
}

template <class V, int Bits>
void bits_wx(const float* x, const float* sums, int64_t tokens, const PackedWeight& w,
             const float* bias, float* out, int64_t begin, int64_t end) {
  for_each_tile<V::kFloatTokens, V::kGemvBlocks>(
      tokens, begin, end, [&](int64_t token, int64_t panel, auto n, auto b) {
        tile_wx<V, Bits, n(), b()>(x, sums, token, w, bias, out, panel);
      });
}

template <class V>
void linear_wx_range(const float* x, const float* sums, int64_t tokens, const PackedWeight& w,
                     const float* bias, float* out, int64_t begin, int64_t end) {
  if (w.format.bits == 8) {
    bits_wx<V, 8>(x, sums, tokens, w, bias, out, begin, end);
  } else {
    bits_wx<V, 4>(x, sums, tokens, w, bias, out, begin, end);
  }
}

// The sum of each group of one token's columns [padded_columns].
template <class V>
void group_sums_row(const float* x, const PackedWeight& w, float* sums) {
  for (int64_t g = 0; g < w.groups; ++g) {
    auto total = V::zero();
    for (int64_t i = 0; i < w.format.group_size; i += 16) {
      total = V::add(total, V::load(x + g * w.format.group_size + i));
    }
    sums[g] = V::sum(total);
  }
}

}  // namespace
}  // namespace lowbit
