#pragma once

// int8 activations times packed integers: tiles of N tokens by B panels of 16 rows. Integer sums
// are exact; each output gathers its groups in order, one fused multiply-add a group.

#include <cstdint>
#include <type_traits>

#include "kernels/impl/memory.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

// The width is known at run time only, and below 8.
constexpr int kAnyBits = 0;

// Quad `j` (0 to 7) of a block of 32 columns: 64 bytes.
template <class V, int Bits, int J>
typename V::Bytes weight_quad(const uint8_t* p) {
  using Bytes = typename V::Bytes;
  if constexpr (Bits == 8) {
    return V::load_bytes(p + 64 * J);
  } else if constexpr (Bits == 4) {
    return V::mask(V::template bytes_right<J % 2 * 4>(V::load_bytes(p + 64 * (J / 2))), 0x0f);
  } else if constexpr (Bits == 2) {
    return V::mask(V::template bytes_right<J % 4 * 2>(V::load_bytes(p + 64 * (J / 4))), 0x03);
  } else if constexpr (Bits == 1) {
    return V::mask(V::template bytes_right<J>(V::load_bytes(p)), 0x01);
  } else {
    // The low plane, and the plane above it moved into place with one shift.
    constexpr int kLow = Bits == 3 ? 2 : 4;
    constexpr int kHigh = Bits == 7 ? 2 : Bits - kLow;
    const Bytes low = weight_quad<V, kLow, J>(p);
    constexpr int kAt = J % (8 / kHigh) * kHigh;  // the bit where it lies
    const Bytes plane = V::load_bytes(p + 64 * kLow + 64 * (J / (8 / kHigh)));
    constexpr uint8_t kMask = static_cast<uint8_t>(((1 << kHigh) - 1) << kLow);
    Bytes high;
    if constexpr (kAt >= kLow) {
      high = V::mask(V::template bytes_right<kAt - kLow>(plane), kMask);
    } else {
      high = V::mask(V::template bytes_left<kLow - kAt>(plane), kMask);
    }
    Bytes both = V::either(low, high);
    if constexpr (Bits == 7) {
      const Bytes top = V::load_bytes(p + 64 * 6);
      if constexpr (J >= 6) {
        both = V::either(both, V::mask(V::template bytes_right<J - 6>(top), 0x40));
      } else {
        both = V::either(both, V::mask(V::template bytes_left<6 - J>(top), 0x40));
      }
    }
    return both;
  }
}

template <class V, int N, int B>
struct Sums {
  typename V::I32 at[B][N];
};

// Adds the products of a quad of B panels and N tokens.
template <class V, int Bits, int N, int B>
[[gnu::always_inline]] inline void dot_quad(const typename V::Bytes (&w)[B], const int8_t* x,
                                            Sums<V, N, B>& sums) {
#pragma GCC unroll 16
  for (int t = 0; t < N; ++t) {
    const auto a = V::quad(x + t * 4);
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      sums.at[b][t] = Bits == 8 ? V::dot8(sums.at[b][t], w[b], a) : V::dot(sums.at[b][t], w[b], a);
    }
  }
}

// Adds the products of quads Begin..End of a block. `x` is at the block's first quad.
template <class V, int Bits, int N, int B, int Begin, int End>
[[gnu::always_inline]] inline void dot_quads(const uint8_t* const (&data)[B],
                                             [[maybe_unused]] int bits, const int8_t* x,
                                             Sums<V, N, B>& sums) {
  typename V::Bytes w[B];
  if constexpr (Bits == kAnyBits) {
#pragma GCC unroll 1
    for (int j = Begin; j < End; ++j) {
      for (int b = 0; b < B; ++b) w[b] = V::packed_quad(data[b], bits, j);
      dot_quad<V, Bits>(w, x + j * N * 4, sums);
    }
  } else if constexpr (Begin < End) {
    for (int b = 0; b < B; ++b) w[b] = weight_quad<V, Bits, Begin>(data[b]);
    dot_quad<V, Bits>(w, x + Begin * N * 4, sums);
    dot_quads<V, Bits, N, B, Begin + 1, End>(data, bits, x, sums);
  }
}

// A group's integer zeros.
template <class V>
typename V::I32 integer_zeros(const PackedWeight& w, const uint8_t* panel, int64_t g) {
  const uint8_t* zeros = panel + w.zeros_at;
  if (!w.half_byte_zeros()) return V::load_u8(zeros + g * 16);
  const auto both = V::load_u8(zeros + g / 2 * 16);
  return g % 2 == 0 ? V::iand(both, V::iset(0xf)) : V::template shift_right<4>(both);
}

// A group's scales; int8 ones in steps of their rows.
template <class V>
typename V::F32 group_scales(const PackedWeight& w, const uint8_t* panel, int64_t g) {
  const uint8_t* scales = panel + w.scales_at;
  if (w.int8_scales()) return V::load_i8(reinterpret_cast<const int8_t*>(scales) + g * 16);
  return V::load_half(reinterpret_cast<const uint16_t*>(scales) + g * 16);
}

// A group's real zeros.
template <class V>
typename V::F32 real_zeros(const PackedWeight& w, const uint8_t* panel, int64_t g) {
  return V::load_half(reinterpret_cast<const uint16_t*>(panel + w.zeros_at) + g * 16);
}

// What the 16 rows of a panel have gathered of a token, in the end: less the token's zero point, or
// times the rows' steps; and times the token's factor.
template <class V>
typename V::F32 scaled_rows(const PackedWeight& w, const uint8_t* panel, typename V::F32 gathered,
                            const Int8Activations& x, int64_t token) {
  const auto factor = V::set(x.factors[token]);
  if (w.int8_scales()) {
    const auto steps = V::load_half(reinterpret_cast<const uint16_t*>(panel));
    return V::mul(V::mul(gathered, steps), factor);
  }
  const auto sums = V::load(reinterpret_cast<const float*>(panel));
  return V::mul(V::fma(V::set(x.offsets[token]), sums, gathered), factor);
}

// Into the second-level cache: the nearest has too few places for what is on its way.
inline void prefetch(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

// One tile of N tokens by B panels. Halves: groups end in the middle of a block of 32 columns.
template <class V, int Bits, int N, int B, bool Halves>
void tile_a8wx(const Int8Activations& x, int64_t token, const PackedWeight& w, const float* bias,
               float* out, int64_t panel, int64_t panel_end) {
  const uint8_t* panels[B];
  const uint8_t* data[B];
  for (int b = 0; b < B; ++b) {
    panels[b] = w.panel(panel + b);
    data[b] = panels[b] + w.data_at;
  }
  const int8_t* values = x.values + token * w.padded_columns;
  const float* scales = x.scales + token * w.groups;
  const int32_t* starts = x.starts + token * w.groups;
  const float* scaled_sums = x.scaled_sums + token * w.groups;
  const Zeros zeros = w.format.zeros;
  const int bits = Bits == kAnyBits ? static_cast<int>(w.format.bits) : Bits;
  const int64_t steps = w.format.group_size / (Halves ? 16 : 32);
  const bool more = panel + 2 * B <= panel_end;
  const auto ahead = static_cast<int64_t>(more ? B * w.panel_bytes : 0);
  bool upper_half = false;

  typename V::F32 acc[B][N];
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) acc[b][t] = V::zero();
  }
  for (int64_t g = 0; g < w.groups; ++g) {
    Sums<V, N, B> sums;
    if (zeros == Zeros::integer) {
      for (int b = 0; b < B; ++b) {
        auto zero = integer_zeros<V>(w, panels[b], g);
        if constexpr (Bits == 8) zero = V::isub(zero, V::iset(V::kByteBias));
#pragma GCC unroll 16
        for (int t = 0; t < N; ++t) sums.at[b][t] = V::imul(zero, V::iset(starts[t]));
      }
    } else {
      for (int b = 0; b < B; ++b) {
#pragma GCC unroll 16
        for (int t = 0; t < N; ++t) sums.at[b][t] = V::iset(starts[t]);
      }
    }
    for (int64_t s = 0; s < steps; ++s) {
      if constexpr (Halves) {
        if (!upper_half) {
          dot_quads<V, Bits, N, B, 0, 4>(data, bits, values, sums);
          upper_half = true;
          continue;
        }
        dot_quads<V, Bits, N, B, 4, 8>(data, bits, values, sums);
        upper_half = false;
      } else {
        dot_quads<V, Bits, N, B, 0, 8>(data, bits, values, sums);
      }
      if constexpr (N == 1) {
        // One token only passes over the weights: the next panels are fetched meanwhile, since
        // panels are too short for the CPU to notice in time.
        for (int b = 0; b < B; ++b) {
          for (int line = 0; line < bits; ++line) prefetch(data[b] + ahead + 64 * line);
        }
      }
      for (int b = 0; b < B; ++b) data[b] += 64 * bits;
      values += 32 * N;
    }
    if (zeros == Zeros::between) {  // of 2 u - 1: twice what u - 1 gives, plus the activations' sum
      for (int b = 0; b < B; ++b) {
#pragma GCC unroll 16
        for (int t = 0; t < N; ++t) {
          const auto twice = V::iadd(sums.at[b][t], sums.at[b][t]);
          sums.at[b][t] = V::isub(twice, V::iset(starts[t]));
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      if constexpr (N == 1) {
        prefetch(panels[b] + ahead + w.scales_at + g * (w.int8_scales() ? 16 : 32));
      }
      const auto weight_scale = group_scales<V>(w, panels[b], g);
#pragma GCC unroll 16
      for (int t = 0; t < N; ++t) {
        const auto scale = V::mul(weight_scale, V::set(scales[t]));
        acc[b][t] = V::fma(V::to_float(sums.at[b][t]), scale, acc[b][t]);
      }
      if (zeros == Zeros::real) {
        const auto zero = real_zeros<V>(w, panels[b], g);
#pragma GCC unroll 16
        for (int t = 0; t < N; ++t) acc[b][t] = V::fma(zero, V::set(scaled_sums[t]), acc[b][t]);
      }
    }
    scaled_sums += N;
    scales += N;
    starts += N;
  }
  for (int b = 0; b < B; ++b) {
    const int64_t row = (panel + b) * kRowBlock;
    const int64_t n = w.rows - row;
    const auto row_bias = bias ? load_first<V>(bias + row, n) : V::zero();
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) {
      auto y = scaled_rows<V>(w, panels[b], acc[b][t], x, token + t);
      if (bias) y = V::add(y, row_bias);
      store_first<V>(out + (token + t) * w.output_stride + row, y, n);
    }
  }
}

constexpr int64_t kMaxRowTileGroup = 2048;  // such tiles unpack whole groups

// Whether tiles of V::kRowTile tokens can take this weight: its groups are whole blocks of columns,
// and its weights less their zeros are bytes.
inline bool row_tiles_fit(const PackedWeight& w) {
  return w.format.group_size % 32 == 0 && w.format.group_size <= kMaxRowTileGroup &&
         (w.format.bits < 8 || w.format.zeros != Zeros::integer);
}

// The largest tile of tokens. Groups of half blocks are rare: they do without the largest of all.
template <class V, bool Halves>
constexpr int kLargestTile = Halves && V::kTileTokens > 4 ? 4 : V::kTileTokens;

// Sizes of the tiles of tokens: as many of the largest as fit, then 4, then 1.
template <class V>
Tile tile_of(int64_t begin, int64_t tokens, const PackedWeight& w) {
  const int64_t left = tokens - begin;
  if (V::kRowTile > 0 && left >= V::kRowTile && row_tiles_fit(w)) return {begin, V::kRowTile};
  const bool halves = w.format.group_size % 32 != 0;
  const int largest = halves ? kLargestTile<V, true> : kLargestTile<V, false>;
  return {begin, left >= largest ? largest : left >= 4 && largest > 4 ? 4 : 1};
}

template <class V, int Bits, int N, int B, bool Halves>
void panels_a8wx(const Int8Activations& x, int64_t token, const PackedWeight& w, const float* bias,
                 float* out, int64_t& panel, int64_t to, int64_t panel_end) {
  for (; panel + B <= to; panel += B) {
    tile_a8wx<V, Bits, N, B, Halves>(x, token, w, bias, out, panel, panel_end);
  }
}

template <class V, int Bits, bool Halves>
void range_a8wx(const Int8Activations& x, int64_t first, int64_t tokens, const PackedWeight& w,
                const float* bias, float* out, int64_t panel_begin, int64_t panel_end) {
  // A few panels at a time stay in the nearest cache while all tokens pass.
  constexpr int64_t kPanels = 4;
  for (int64_t from = panel_begin; from < panel_end; from += kPanels) {
    const int64_t to = from + kPanels < panel_end ? from + kPanels : panel_end;
    for (int64_t token = first; token < tokens;) {
      const int size = tile_of<V>(token, tokens, w).size;
      int64_t panel = from;
      if constexpr (Halves) {
        if (size == kLargestTile<V, true>) {
          panels_a8wx<V, Bits, kLargestTile<V, true>, 1, true>(x, token, w, bias, out, panel, to,
                                                               panel_end);
        } else {
          panels_a8wx<V, Bits, 1, 1, true>(x, token, w, bias, out, panel, to, panel_end);
        }
      } else if (size == V::kTileTokens) {
        panels_a8wx<V, Bits, V::kTileTokens, 1, false>(x, token, w, bias, out, panel, to, panel_end);
      } else if (size == 4) {
        panels_a8wx<V, Bits, 4, 1, false>(x, token, w, bias, out, panel, to, panel_end);
      } else {
        panels_a8wx<V, Bits, 1, V::kGemvBlocks, false>(x, token, w, bias, out, panel, to, panel_end);
        if constexpr (V::kGemvBlocks > 1) {
          panels_a8wx<V, Bits, 1, 1, false>(x, token, w, bias, out, panel, to, panel_end);
        }
      }
      token += size;
    }
  }
}

// Calls f with the number of bits as an integral constant.
template <class F>
void with_bits(uint32_t bits, F f) {
  switch (bits) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 7: return f(std::integral_constant<int, 7>{});
    default: return f(std::integral_constant<int, 8>{});
  }
}

template <class V>
void linear_a8wx_range(const Int8Activations& x, int64_t first, int64_t tokens, const PackedWeight& w,
                       const float* bias, float* out, int64_t begin, int64_t end) {
  if constexpr (V::kCompact) {
    if (w.format.bits == 8) {
      range_a8wx<V, 8, true>(x, first, tokens, w, bias, out, begin, end);
    } else {
      range_a8wx<V, kAnyBits, true>(x, first, tokens, w, bias, out, begin, end);
    }
  } else {
    with_bits(w.format.bits, [&](auto bits) {
      if (w.format.group_size % 32 == 0) {
        range_a8wx<V, bits(), false>(x, first, tokens, w, bias, out, begin, end);
      } else {
        range_a8wx<V, bits(), true>(x, first, tokens, w, bias, out, begin, end);
      }
    });
  }
}

}  // namespace
}  // namespace lowbit
