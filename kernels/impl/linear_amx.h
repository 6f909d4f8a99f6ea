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
constexpr int64_t kAmxTiles = 16;      // taken together: their totals are 32 KiB
constexpr int64_t kAmxColumns = 2048;  // unpacked at a time: 32 KiB a panel

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

// The weights of a panel's columns [begin, begin + n) as bytes less the middle, [n / 4][16][4].
template <class V, int Bits>
void unpack_columns(const uint8_t* data, int64_t begin, int64_t n, int8_t* out) {
  const __m512i middle = _mm512_set1_epi8(static_cast<char>(1 << (Bits - 1)));
  const auto write = [&]<int J>(const uint8_t* block, int8_t* to, std::integral_constant<int, J>) {
    const __m512i w = weight_quad<V, Bits, J>(block).v;
    _mm512_storeu_si512(to + 64 * J, _mm512_sub_epi8(w, middle));
  };
  for (int64_t k = 0; k < n; k += 32) {
    const uint8_t* block = data + (begin + k) / 32 * (64 * Bits);
    int8_t* to = out + k * 16;
    [&]<int... J>(std::integer_sequence<int, J...>) {
      (write(block, to, std::integral_constant<int, J>{}), ...);
    }(std::make_integer_sequence<int, 8>{});
  }
}

// Adds one group's products for 16 tokens and one panel to the running totals [16][16].
template <class V>
[[gnu::always_inline]] inline void add_group(const int32_t* sums, const float* scales,
                                             const float* scaled_sums, typename V::F32 weight_scale,
                                             typename V::F32 offsets, bool zeros, float* totals) {
#pragma GCC unroll 4
  for (int t = 0; t < kAmxTokens; ++t) {
    const typename V::F32 sum = {_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * t))};
    const auto scale = V::mul(weight_scale, V::set(scales[t]));
    auto total = V::fma(sum, scale, V::load(totals + 16 * t));
    if (zeros) total = V::fma(offsets, V::set(scaled_sums[t]), total);
    V::store(totals + 16 * t, total);
  }
}

// Sums of one group for two tiles of tokens and two panels; x0, x1 [16][stride], w0, w1 [group / 4][64].
inline void multiply_group(const int8_t* x0, const int8_t* x1, int64_t stride, const int8_t* w0,
                           const int8_t* w1, int64_t group, int32_t (*sums)[256]) {
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t k = 0; k < group; k += 32) {
    _tile_loadd(0, x0 + k, stride);
    _tile_loadd(2, w0 + k * 16, 64);
    _tile_loadd(1, x1 + k, stride);
    _tile_loadd(3, w1 + k * 16, 64);
    _tile_dpbssd(4, 0, 2);
    _tile_dpbssd(5, 1, 2);
    _tile_dpbssd(6, 0, 3);
    _tile_dpbssd(7, 1, 3);
  }
  _tile_stored(4, sums[0], 64);
  _tile_stored(5, sums[1], 64);
  _tile_stored(6, sums[2], 64);
  _tile_stored(7, sums[3], 64);
}

template <class V>
void finish_tile(const float* totals, const Int8Activations& x, int64_t token, const PackedWeight& w,
                 const float* bias, float* out, int64_t panel) {
  const int64_t row = panel * kRowBlock, n = w.rows - row;
  const auto row_sums = V::load(reinterpret_cast<const float*>(w.panel(panel)));
  for (int t = 0; t < kAmxTokens; ++t) {
    auto y = V::fma(V::set(x.offsets[token + t]), row_sums, V::load(totals + 16 * t));
    y = V::mul(y, V::set(x.factors[token + t]));
    if (bias) y = V::add(y, load_first<V>(bias + row, n));
    store_first<V>(out + (token + t) * w.rows + row, y, n);
  }
}

// Two panels (the second may repeat the first) for up to kAmxTiles tiles of tokens from `token` on,
// in pairs (the last may repeat itself).
template <class V, int Bits>
void panels_amx(const Int8Activations& x, int64_t token, int64_t tiles, const PackedWeight& w,
                const float* bias, float* out, int64_t panel, int64_t second) {
  alignas(64) int8_t unpacked[2][kAmxColumns * 16];
  alignas(64) float totals[kAmxTiles * 2 * 256];
  alignas(64) int32_t sums[4][256];
  const int64_t group = w.format.group_size;
  const int64_t step = kAmxColumns / group * group;  // whole groups
  const bool zeros = w.format.zeros != Zeros::none;
  const int64_t panels[2] = {panel, second};
  std::memset(totals, 0, static_cast<size_t>(tiles * 2 * 256) * sizeof(float));
  for (int64_t begin = 0; begin < w.padded_columns; begin += step) {
    const int64_t n = w.padded_columns - begin < step ? w.padded_columns - begin : step;
    for (int b = 0; b < 2; ++b) {
      unpack_columns<V, Bits>(w.panel(panels[b]) + w.data_at, begin, n, unpacked[b]);
    }
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      const int64_t other = tile + 1 < tiles ? tile + 1 : tile;
      const int64_t pair[2] = {tile, other};
      const int8_t* x0 = x.values + (token + tile * kAmxTokens) * w.padded_columns + begin;
      const int8_t* x1 = x.values + (token + other * kAmxTokens) * w.padded_columns + begin;
      for (int64_t k = 0; k < n; k += group) {
        multiply_group(x0 + k, x1 + k, w.padded_columns, unpacked[0] + k * 16, unpacked[1] + k * 16,
                       group, sums);
        const int64_t g = (begin + k) / group;
        for (int b = 0; b < 2; ++b) {
          const uint8_t* p = w.panel(panels[b]);
          const auto weight_scale =
              V::load_half(reinterpret_cast<const uint16_t*>(p + w.scales_at) + g * 16);
          const auto offsets = zeros ? group_offsets<V>(w, p, g, weight_scale) : V::zero();
          for (int i = 0; i < (other == tile ? 1 : 2); ++i) {
            const int64_t at = (token + pair[i] * kAmxTokens) * w.groups + g * kAmxTokens;
            add_group<V>(sums[2 * b + i], x.scales + at, x.scaled_sums + at, weight_scale, offsets,
                         zeros, totals + (pair[i] * 2 + b) * 256);
          }
        }
      }
    }
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int b = 0; b < (second == panel ? 1 : 2); ++b) {
      finish_tile<V>(totals + (tile * 2 + b) * 256, x, token + tile * kAmxTokens, w, bias, out,
                     panels[b]);
    }
  }
}

template <class V>
void linear_amx_range(const Int8Activations& x, int64_t tokens, const PackedWeight& w,
                      const float* bias, float* out, int64_t begin, int64_t end) {
  const int64_t tiled = row_tiles_fit(w) ? tokens / kAmxTokens * kAmxTokens : 0;
  if (tiled > 0) {
    const TileConfiguration configuration;
    with_bits(w.format.bits, [&](auto bits) {
      for (int64_t panel = begin; panel < end; panel += 2) {
        const int64_t second = panel + 1 < end ? panel + 1 : panel;
        for (int64_t token = 0; token < tiled; token += kAmxTiles * kAmxTokens) {
          const int64_t left = (tiled - token) / kAmxTokens;
          panels_amx<V, bits()>(x, token, left < kAmxTiles ? left : kAmxTiles, w, bias, out, panel,
                                second);
        }
      }
    });
  }
  linear_a8wx_from<V>(x, tiled, tokens, w, bias, out, begin, end);
}

}  // namespace
}  // namespace lowbit
