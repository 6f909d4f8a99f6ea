#pragma once

// int8 activations times packed integers: tiles of N tokens by B panels of 16 rows. Integer sums
// are exact; each output gathers its groups in order, one fused multiply-add a group.

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/impl/dot_quads.h"
#include "kernels/impl/memory.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

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

// What groups are: some end in the middle of a block of 32 columns; whole blocks; one block.
enum class Groups { halves, blocks, one_block };

// Whether a tile may hold fewer tokens than it has places for. Three tokens as four pass over the
// weights once.
constexpr bool has_empty_places(int size) { return size == 4; }

// One tile of N tokens by B panels. `fetch`: it is the first to read these panels. Where it is
// small, it fetches the next ones meanwhile, since panels are too short for the CPU to notice in
// time.
template <class V, int Bits, int N, int B, Groups G>
void tile_a8wx(const Int8Activations& x, const Tile& tile, bool fetch, const PackedWeight& w,
               const float* bias, float* out, int64_t panel, int64_t panel_end) {
  const int64_t token = tile.begin;
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
  const int64_t steps =
      G == Groups::one_block ? 1 : w.format.group_size / (G == Groups::halves ? 16 : 32);
  constexpr bool kFetches = N == 1 || (N <= 4 && G != Groups::halves);
  const bool more = fetch && panel + 2 * B <= panel_end;
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
      if constexpr (G == Groups::halves) {
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
      if constexpr (kFetches) {
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
      if constexpr (kFetches) {
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
    // From the last place on: what an empty one has goes where the last token's results follow.
#pragma GCC unroll 16
    for (int t = N - 1; t >= 0; --t) {
      const int64_t to = token + (has_empty_places(N) && t >= tile.tokens ? tile.tokens - 1 : t);
      auto y = scaled_rows<V>(w, panels[b], acc[b][t], x, to);
      if (bias) y = V::add(y, row_bias);
      store_first<V>(out + to * w.output_stride + row, y, n);
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

// Whether there are tiles of this many tokens. Groups of half blocks are rare: they do without
// those above 4. Tiles of 2 are for the most common weights alone, unless they are the largest.
template <class V>
constexpr bool has_tile(int tokens, bool halves, uint32_t bits) {
  if (tokens > V::kTileTokens) return false;
  if (tokens == 1 || tokens == 4) return true;
  if (tokens == V::kTileTokens) return !halves || tokens < 4;
  return tokens == 2 && !halves && (bits == 4 || bits == 8);
}

// The largest tile that the tokens left fill, but for one place where it may have empty ones.
template <class V>
Tile tile_of(int64_t begin, int64_t tokens, const PackedWeight& w) {
  const int64_t left = tokens - begin;
  if (V::kRowTile > 0 && left >= V::kRowTile && row_tiles_fit(w)) {
    return {begin, V::kRowTile, V::kRowTile};
  }
  const bool halves = w.format.group_size % 32 != 0;
  for (const int size : {V::kTileTokens, 4, 2}) {
    if (has_tile<V>(size, halves, w.format.bits) && left >= size - has_empty_places(size)) {
      return {begin, size, left < size ? static_cast<int>(left) : size};
    }
  }
  return {begin, 1, 1};
}

template <class V, int Bits, int N, int B, Groups G>
void panels_a8wx(const Int8Activations& x, const Tile& tile, bool fetch, const PackedWeight& w,
                 const float* bias, float* out, int64_t& panel, int64_t to, int64_t panel_end) {
  for (; panel + B <= to; panel += B) {
    tile_a8wx<V, Bits, N, B, G>(x, tile, fetch, w, bias, out, panel, panel_end);
  }
}

template <class V, int Bits, bool Halves>
void range_a8wx(const Int8Activations& x, int64_t first, int64_t tokens, const PackedWeight& w,
                const float* bias, float* out, int64_t panel_begin, int64_t panel_end) {
  constexpr Groups kGroups = Halves ? Groups::halves : Groups::blocks;
  // A few panels at a time stay in a near cache while all tokens pass: the first fetch them.
  constexpr int64_t kPanels = 4;
  for (int64_t from = panel_begin; from < panel_end; from += kPanels) {
    const int64_t to = from + kPanels < panel_end ? from + kPanels : panel_end;
    for (int64_t token = first; token < tokens;) {
      const Tile tile = tile_of<V>(token, tokens, w);
      const bool fetch = token == first;
      int64_t panel = from;
      const auto pass = [&]<int N>(std::integral_constant<int, N>) {
        if constexpr (has_tile<V>(N, Halves, Bits)) {
          if (tile.size != N) return false;
          constexpr int kBlocks = N == 1 && !Halves ? V::kGemvBlocks : 1;
          if constexpr (kBlocks > 1) {
            panels_a8wx<V, Bits, N, kBlocks, kGroups>(x, tile, fetch, w, bias, out, panel, to,
                                                      panel_end);
          }
          if constexpr (N == 4 && !Halves && Bits == 4 && V::kPairs) {
            // Sums of one block need no room in registers beside its pairs.
            if (w.format.group_size == 32) {
              panels_a8wx<V, Bits, N, 1, Groups::one_block>(x, tile, fetch, w, bias, out, panel, to,
                                                            panel_end);
              return true;
            }
          }
          panels_a8wx<V, Bits, N, 1, kGroups>(x, tile, fetch, w, bias, out, panel, to, panel_end);
          return true;
        }
        return false;
      };
      [&]<int... N>(std::integer_sequence<int, N...>) {
        (pass(std::integral_constant<int, N>{}) || ...);
      }(std::integer_sequence<int, V::kTileTokens, 4, 2, 1>{});
      token += tile.tokens;
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
