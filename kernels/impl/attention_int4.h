#pragma once

// One chunk's attention with a 4-bit cache, by integer dot products: decoding from a small cache
// waits for arithmetic, not for memory. Queries are rounded to int8, weights to 16 bits in steps of
// the chunk's largest; sums over integers are exact.

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/attention_rows.h"
#include "kernels/impl/cache_write.h"
#include "kernels/impl/int4_cache.h"
#include "kernels/impl/softmax.h"

namespace lowbit {
namespace {

// A query as int8, 0 beyond the head's width: steps times whole numbers, and the sum of all that.
struct Int8Query {
  alignas(64) int8_t values[kMaxHeadDim];
  float step, sum;
};

template <class V>
[[gnu::noinline]] void quantize_query(const float* query, int64_t head_dim, Int8Query& out) {
  std::memset(out.values, 0, static_cast<size_t>(int4_width(head_dim)));
  out.step = to_int8<V>(query, head_dim, out.values);
  auto sum = V::zero();  // of whole numbers, exact
  for (int64_t i = 0; i < head_dim; i += 16) sum = V::add(sum, V::load_i8(out.values + i));
  out.sum = out.step * V::sum(sum);
}

// The halves of bytes whose sums are held at a time: as many as there are registers for.
template <class V>
constexpr int kHalves = V::kAttentionRows < 8 ? 1 : 2;

template <class V, int R>
void int4_scores(const Queries<R>& queries, const HeadCache& head, int64_t head_dim,
                 int64_t from_block, int64_t to_block, int64_t chunk, float (*scores)[kChunk]) {
  Int8Query q[R];
  for (int r = 0; r < R; ++r) quantize_query<V>(queries.at[r], head_dim, q[r]);
  for (int64_t block = from_block; block < to_block; ++block) {
    const uint8_t *keys = head.key_block(block), *values = head.value_block(block);
    // Values are read in steps of a block, which no CPU expects.
    for (int64_t i = 0; i < head.block_bytes; i += 64) __builtin_prefetch(values + i);
    typename V::I32 acc[R][kHalves<V>];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kHalves<V>; ++c) acc[r][c] = V::iset(0);
    }
    for (int64_t i = 0; i < head_dim; i += 8) {
      const auto bytes = V::load_bytes(keys + 8 * i);
      const auto low = V::mask(bytes, 15), high = V::mask(V::template bytes_right<4>(bytes), 15);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        auto &of_low = acc[r][0], &of_high = acc[r][kHalves<V> - 1];
        of_low = V::dot(of_low, low, V::quad(q[r].values + i));
        of_high = V::dot(of_high, high, V::quad(q[r].values + i + 4));
      }
    }
    const auto& scales = *reinterpret_cast<const Int4Scales*>(keys + 8 * int4_width(head_dim));
    const auto steps = V::load_bfloat(scales.steps), lows = V::load_bfloat(scales.lows);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto least = V::mul(lows, V::set(q[r].sum));
      const auto step = V::mul(steps, V::set(q[r].step));
      auto sum = acc[r][0];
      if constexpr (kHalves<V> == 2) sum = V::iadd(sum, acc[r][1]);
      V::store(&scores[r][block * 16 - chunk * kChunk], V::fma(V::to_float(sum), step, least));
    }
  }
}

// A chunk's weights times the values' steps, as step (256 high + low); and their product with the
// values' least.
struct Int4Weights {
  alignas(64) int8_t bytes[2][kChunk];  // high, low
  float step, least;
};

// Of a query that sees the positions first..end. What is hidden counts nothing; steps there need
// not be finite.
template <class V>
[[gnu::noinline]] void quantize_weights(const HeadCache& head, int64_t head_dim, int64_t first,
                                        int64_t end, int64_t from_block, int64_t to_block,
                                        int64_t chunk, float* weights, Int4Weights& out) {
  auto largest = V::iset(0);
  auto least = V::zero();
  for (int64_t block = from_block; block < to_block; ++block) {
    const auto& scales =
        *reinterpret_cast<const Int4Scales*>(head.value_block(block) + 8 * int4_width(head_dim));
    float* at = weights + block * 16 - chunk * kChunk;
    const auto p = V::load(at);
    auto weighted = V::mul(p, V::load_bfloat(scales.steps));
    auto lows = V::mul(p, V::load_bfloat(scales.lows));
    if (block * 16 < first || block * 16 + 16 > end) {
      const auto seen = V::isub(V::iset(-1), hidden_lanes<V>(block * 16, first, end));
      weighted = V::keep(seen, weighted);
      lows = V::keep(seen, lows);
    }
    V::store(at, weighted);
    least = V::add(least, lows);
    largest = V::imax(largest, V::iand(V::as_int(weighted), V::iset(kSignless)));
  }
  constexpr float kMost = 127 * 256;
  const int32_t bits = V::imax_lane(largest);
  const float most = std::bit_cast<float>(bits);
  const bool usable = bits <= kLargestFinite && most > 1e-33f;
  const auto factor = V::set(usable ? kMost / most : 0);
  for (int64_t i = from_block * 16 - chunk * kChunk; i < to_block * 16 - chunk * kChunk; i += 16) {
    auto whole = V::iset(0);
    if (usable) whole = V::round(V::mul(V::load(weights + i), factor));
    // 256 high + low, with low from -128 to 127.
    const auto raised = V::iadd(whole, V::iset(128));
    V::store_i8(out.bytes[0] + i, V::template shift_right<8>(raised));
    V::store_i8(out.bytes[1] + i, V::isub(V::iand(raised, V::iset(255)), V::iset(128)));
  }
  out.step = usable ? most / kMost : 0.0f;
  if (bits > kLargestFinite) out.step = std::numeric_limits<float>::quiet_NaN();
  out.least = V::sum(least);
}

template <class V>
typename V::I32 load_whole(const int32_t* p) {
  typename V::I32 whole;
  static_assert(sizeof(whole) == 16 * sizeof(*p));
  std::memcpy(&whole, p, sizeof(whole));
  return whole;
}

// Adds up N rows of weights, D = 2: of the 32 columns from `column` on, D = 1: of the 16 in the low
// or high halves.
template <class V, int N, int D>
void weigh_int4(const int8_t* const* weights, const HeadCache& head, int64_t column,
                int64_t from_block, int64_t to_block, int64_t chunk, int32_t (*sums)[32]) {
  typename V::I32 acc[N][D];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    for (int c = 0; c < D; ++c) acc[n][c] = V::iset(0);
  }
  for (int64_t block = from_block; block < to_block; ++block) {
    const uint8_t* values = head.value_block(block) + column / 32 * 256;
    const int64_t at = block * 16 - chunk * kChunk;
    for (int64_t i = 0; i < 16; i += 4) {
      const auto bytes = V::load_bytes(values + 16 * i);
      typename V::Bytes halves[D];
      if constexpr (D == 2) {
        halves[0] = V::mask(bytes, 15);
        halves[1] = V::mask(V::template bytes_right<4>(bytes), 15);
      } else {
        halves[0] = V::mask(column % 32 == 0 ? bytes : V::template bytes_right<4>(bytes), 15);
      }
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const auto w = V::quad(weights[n] + at + i);
#pragma GCC unroll 2
        for (int c = 0; c < D; ++c) acc[n][c] = V::dot(acc[n][c], halves[c], w);
      }
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    for (int c = 0; c < D; ++c) V::istore(sums[n] + 16 * c, acc[n][c]);
  }
}

template <class V, int R>
void weigh_int4_values(const Queries<R>& q, const HeadCache& head, int64_t head_dim,
                       int64_t from_block, int64_t to_block, int64_t chunk,
                       float (*weights)[kChunk], Partial<R>& out) {
  constexpr int kRows = V::kAttentionRows;
  Int4Weights whole[R];
  const int8_t* rows[2 * R];
  for (int r = 0; r < R; ++r) {
    quantize_weights<V>(head, head_dim, q.first[r], q.end[r], from_block, to_block, chunk,
                        weights[r], whole[r]);
    rows[2 * r] = whole[r].bytes[0];
    rows[2 * r + 1] = whole[r].bytes[1];
  }
  const int64_t width = padded_head_dim(head_dim);
  for (int64_t column = 0; column < width; column += 16 * kHalves<V>) {
    int32_t sums[2 * R][32];
    static_assert(2 * R % kRows == 0);
    for (int r = 0; r < 2 * R; r += kRows) {
      weigh_int4<V, kRows, kHalves<V>>(rows + r, head, column, from_block, to_block, chunk,
                                       sums + r);
    }
    for (int64_t c = 0; c < 16 * kHalves<V> && column + c < width; c += 16) {
      for (int r = 0; r < R; ++r) {
        const auto high = V::template shift_left<8>(load_whole<V>(sums[2 * r] + c));
        const auto sum = V::to_float(V::iadd(high, load_whole<V>(sums[2 * r + 1] + c)));
        V::store(out.values + r * width + column + c,
                 V::fma(sum, V::set(whole[r].step), V::set(whole[r].least)));
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
