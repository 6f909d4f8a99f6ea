#pragma once

// linear_a8wx for many tokens on AMX: the same integers, multiplied 16 tokens by 16 rows at a time.
//
// A block of 32 columns of a panel, at one byte a weight, is 8 rows of 64 bytes: just what AMX takes as
// its right operand. A panel is therefore unpacked once to bytes, less the zero point, and then used for all
// tokens. Group sizes that are not a multiple of 32, and tokens that do not fill a tile of 16, go the
// way of linear_a8wx.h.

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/impl/linear_a8wx.h"

namespace lowbit {
namespace {

constexpr int kAmxTokens = 16;
constexpr int64_t kAmxTiles = 16;  // taken together: their totals are 32 KiB
// Unpacked at a time: 8 KiB for each of two panels, which leaves room in the nearest cache for
// activations and sums; and 32 KiB for one group of the largest size.
constexpr int64_t kAmxColumns = 512;
constexpr int64_t kAmxGroups = 4;  // whose sums are taken together, so that totals pass by less often

// Tiles 0 and 1 hold activations (16 tokens, 32 bytes), 2 and 3 weights (8 rows of 64 bytes), 4 to
// 7 sums. Intel's Architecture Software Developer's Manual, "Tile configuration".
class TileConfiguration {
 public:
  TileConfiguration() {
    alignas(64) uint8_t bytes[64] = {1};  // palette 1
    for (int tile = 0; tile < 8; ++tile) {
      const uint16_t width = tile < 2 ? 32 : 64;
      std::memcpy(bytes + 16 + 2 * tile, &width, sizeof(width));
      bytes[48 + tile] = tile == 2 || tile == 3 ? 8 : 16;
    }
    // GCC 12's intrinsic says that it reads 8 of the 64 bytes.
    asm volatile("ldtilecfg %0" : : "m"(bytes));
  }
  ~TileConfiguration() { _tile_release(); }
};

// The weights of a panel's columns [begin, begin + n), less what they are stored above 0, as bytes
// [n / 4][16][4].
template <class V, int Bits>
void unpack_columns(const PackedWeight& w, const uint8_t* panel, int64_t begin, int64_t n,
                    int8_t* out) {
  const uint8_t* data = panel + w.data_at;
  __m512i above = _mm512_set1_epi8(static_cast<char>(1 << (Bits - 1)));
  [[maybe_unused]] const __mmask64 twice = w.format.zeros == Zeros::between ? ~__mmask64{0} : 0;
  const auto write = [&]<int J>(const uint8_t* block, int8_t* to, std::integral_constant<int, J>) {
    __m512i weights = weight_quad<V, Bits, J>(block).v;
    if constexpr (Bits == 1) weights = _mm512_mask_add_epi8(weights, twice, weights, weights);
    _mm512_store_si512(to + 64 * J, _mm512_sub_epi8(weights, above));
  };
  for (int64_t k = begin; k < begin + n; k += 32) {
    if (w.format.zeros == Zeros::integer && k % w.format.group_size == 0) {
      const auto zeros = integer_zeros<V>(w, panel, k / w.format.group_size);
      above = _mm512_mullo_epi32(zeros.v, _mm512_set1_epi32(0x01010101));  // four times each
    }
    const uint8_t* block = data + k / 32 * (64 * Bits);
    int8_t* to = out + (k - begin) * 16;
    [&]<int... J>(std::integer_sequence<int, J...>) {
      (write(block, to, std::integral_constant<int, J>{}), ...);
    }(std::make_integer_sequence<int, 8>{});
  }
}

// The sums of a group for two tiles of tokens and two panels, [16][16] each: x [group / 32][16][32],
// w [group / 4][64]. Two by two, since loading a tile register waits for the products that read it.
inline void multiply_group(const int8_t* const (&x)[2], const int8_t* const (&w)[2], int64_t group,
                           int32_t (&sums)[2][2][256]) {
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t k = 0; k < group; k += 32) {
    _tile_loadd(0, x[0] + k * kAmxTokens, 32);
    _tile_loadd(2, w[0] + k * 16, 64);
    _tile_dpbssd(4, 0, 2);
    _tile_loadd(1, x[1] + k * kAmxTokens, 32);
    _tile_dpbssd(6, 1, 2);
    _tile_loadd(3, w[1] + k * 16, 64);
    _tile_dpbssd(5, 0, 3);
    _tile_dpbssd(7, 1, 3);
  }
  _tile_stored(4, sums[0][0], 64);
  _tile_stored(5, sums[0][1], 64);
  _tile_stored(6, sums[1][0], 64);
  _tile_stored(7, sums[1][1], 64);
}

// Adds the sums of n groups from `group` on to the totals [16][16] of a tile of tokens and a panel.
template <class V>
void add_groups(const int32_t (*sums)[2][2][256], int tile, int second, const Int8Activations& x,
                int64_t token, const PackedWeight& w, const uint8_t* panel, int64_t group,
                int64_t n, float* totals) {
  const float* scales = x.scales + token * w.groups + group * kAmxTokens;
  const float* scaled_sums = x.scaled_sums + token * w.groups + group * kAmxTokens;
  typename V::F32 acc[kAmxTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kAmxTokens; ++t) acc[t] = V::load(totals + 16 * t);
  for (int64_t g = 0; g < n; ++g) {
    const auto weight_scale = group_scales<V>(w, panel, group + g);
    const int32_t* from = sums[g][tile][second];
#pragma GCC unroll 16
    for (int t = 0; t < kAmxTokens; ++t) {
      const typename V::F32 sum = {_mm512_cvtepi32_ps(_mm512_load_si512(from + 16 * t))};
      acc[t] = V::fma(sum, V::mul(weight_scale, V::set(scales[t])), acc[t]);
    }
    if (w.format.zeros == Zeros::real) {
      const auto zero = real_zeros<V>(w, panel, group + g);
#pragma GCC unroll 16
      for (int t = 0; t < kAmxTokens; ++t) acc[t] = V::fma(zero, V::set(scaled_sums[t]), acc[t]);
    }
    scales += kAmxTokens;
    scaled_sums += kAmxTokens;
  }
#pragma GCC unroll 16
  for (int t = 0; t < kAmxTokens; ++t) V::store(totals + 16 * t, acc[t]);
}

template <class V>
void finish_tile(const float* totals, const Int8Activations& x, int64_t token, const PackedWeight& w,
                 const float* bias, float* out, int64_t panel) {
  const int64_t row = panel * kRowBlock, n = w.rows - row;
  for (int t = 0; t < kAmxTokens; ++t) {
    auto y = scaled_rows<V>(w, w.panel(panel), V::load(totals + 16 * t), x, token + t);
    if (bias) y = V::add(y, load_first<V>(bias + row, n));
    store_first<V>(out + (token + t) * w.output_stride + row, y, n);
  }
}

// Panels `panel` and `second` (which may be the same) for up to kAmxTiles tiles of tokens from `token`
// on, in pairs (the last may repeat itself).
template <class V, int Bits>
void panels_amx(const Int8Activations& x, int64_t token, int64_t tiles, const PackedWeight& w,
                const float* bias, float* out, int64_t panel, int64_t second) {
  alignas(64) int8_t unpacked[2][kMaxRowTileGroup * 16];
  alignas(64) float totals[kAmxTiles][2][256];
  alignas(64) int32_t sums[kAmxGroups][2][2][256];
  const int64_t group = w.format.group_size;
  const int64_t step = group < kAmxColumns ? kAmxColumns / group * group : group;  // whole groups
  const int64_t panels[2] = {panel, second};
  const int used_panels = second == panel ? 1 : 2;
  std::memset(totals, 0, static_cast<size_t>(tiles) * sizeof(totals[0]));
  for (int64_t begin = 0; begin < w.padded_columns; begin += step) {
    const int64_t end = begin + step < w.padded_columns ? begin + step : w.padded_columns;
    for (int b = 0; b < used_panels; ++b) {
      unpack_columns<V, Bits>(w, w.panel(panels[b]), begin, end - begin, unpacked[b]);
    }
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      const int used_tiles = tile + 1 < tiles ? 2 : 1;
      const int64_t first = token + tile * kAmxTokens;
      const int64_t tokens[2] = {first, first + (used_tiles - 1) * kAmxTokens};
      for (int64_t from = begin; from < end; from += kAmxGroups * group) {
        const int64_t to = from + kAmxGroups * group < end ? from + kAmxGroups * group : end;
        for (int64_t k = from, g = 0; k < to; k += group, ++g) {
          const int8_t* const values[2] = {
              x.values + tokens[0] * w.padded_columns + k * kAmxTokens,
              x.values + tokens[1] * w.padded_columns + k * kAmxTokens};
          const int8_t* const weights[2] = {
              unpacked[0] + (k - begin) * 16, unpacked[used_panels - 1] + (k - begin) * 16};
          multiply_group(values, weights, group, sums[g]);
        }
        for (int i = 0; i < used_tiles; ++i) {
          for (int b = 0; b < used_panels; ++b) {
            add_groups<V>(sums, i, b, x, tokens[i], w, w.panel(panels[b]), from / group,
                          (to - from) / group, totals[tile + i][b]);
          }
        }
      }
    }
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int b = 0; b < used_panels; ++b) {
      finish_tile<V>(totals[tile][b], x, token + tile * kAmxTokens, w, bias, out, panels[b]);
    }
  }
}

// What does not fill a tile goes to `others`.
template <class V, const Isa& others>
void linear_amx_range(const Int8Activations& x, int64_t first, int64_t tokens, const PackedWeight& w,
                      const float* bias, float* out, int64_t begin, int64_t end) {
  const int64_t tiled =
      row_tiles_fit(w) ? first + (tokens - first) / kAmxTokens * kAmxTokens : first;
  if (tiled > first) {
    const TileConfiguration configuration;
    with_bits(w.format.bits, [&](auto bits) {
      for (int64_t panel = begin; panel < end; panel += 2) {
        const int64_t second = panel + 1 < end ? panel + 1 : panel;
        for (int64_t token = first; token < tiled; token += kAmxTiles * kAmxTokens) {
          const int64_t left = (tiled - token) / kAmxTokens;
          panels_amx<V, bits()>(x, token, left < kAmxTiles ? left : kAmxTiles, w, bias, out, panel,
                                second);
        }
      }
    });
  }
  if (tiled < tokens) others.linear_a8wx(x, tiled, tokens, w, bias, out, begin, end);
}

}  // namespace
}  // namespace lowbit
