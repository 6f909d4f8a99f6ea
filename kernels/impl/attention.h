#pragma once

// Attention over the KV cache, in chunks of kChunk positions counted from position 0, so that a
// token's result does not depend on how the prompt was cut or who computes which chunk.
//
// For each chunk and query: scores, their maximum m, weights exp(score - m), the weights' sum, and
// the weighted sum of values. Chunks are combined in order (online softmax: Milakov and
// Gimelshein, arXiv 1805.02867). A position that a query may not see has no part in it.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/exp.h"
#include "kernels/impl/memory.h"
#include "kernels/impl/quantize.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

template <class V, CacheType C>
struct CacheElement;
template <class V>
struct CacheElement<V, CacheType::float32> {
  using Type = float;
  static typename V::F32 load(const float* p) { return V::load(p); }
};
template <class V>
struct CacheElement<V, CacheType::float16> {
  using Type = uint16_t;
  static typename V::F32 load(const uint16_t* p) { return V::load_half(p); }
};
template <class V>
struct CacheElement<V, CacheType::int8> {
  using Type = int8_t;
  static typename V::F32 load(const int8_t* p) { return V::load_i8(p); }
};

// One key/value head's blocks.
struct HeadCache {
  const uint8_t* keys;
  const uint8_t* values;
  int64_t block_bytes;
};

inline HeadCache head_cache(const Cache& cache, int64_t kv_head, int64_t head_dim) {
  const int64_t block_bytes = cache_block_bytes(cache.type, head_dim);
  const int64_t at = kv_head * cache.blocks * block_bytes;
  return {static_cast<const uint8_t*>(cache.keys) + at,
          static_cast<const uint8_t*>(cache.values) + at, block_bytes};
}

// R queries of one key/value head, with the positions each may see.
template <int R>
struct Queries {
  const float* at[R];  // [d]
  int64_t first[R], end[R];
  int64_t first_of_all, end_of_all;  // what any of them sees
  int64_t last_first, first_end;     // what all of them see
};

// What one chunk, or several combined, gives R queries.
template <int R>
struct Partial {
  float maximum[R];
  float sum[R];
  alignas(64) float values[R][kMaxHeadDim];
};

template <class V, CacheType C, int R>
void chunk_scores(const Queries<R>& q, const HeadCache& head, int64_t head_dim, int64_t from_block,
                  int64_t to_block, int64_t chunk, float (*scores)[kChunk]) {
  using Element = CacheElement<V, C>;
  for (int64_t block = from_block; block < to_block; ++block) {
    const uint8_t* bytes = head.keys + block * head.block_bytes;
    const auto* keys = reinterpret_cast<const typename Element::Type*>(bytes);
    typename V::F32 acc[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r] = V::zero();
    for (int64_t i = 0; i < head_dim; ++i) {
      const auto k = Element::load(keys + 16 * i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r] = V::fma(k, V::set(q.at[r][i]), acc[r]);
    }
    const int64_t at = block * 16 - chunk * kChunk;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      if constexpr (C == CacheType::int8) {
        const auto* steps = reinterpret_cast<const float*>(bytes + 16 * head_dim);
        acc[r] = V::mul(acc[r], V::load(steps));
      }
      V::store(&scores[r][at], acc[r]);
    }
  }
}

// All ones in the lanes of positions that the query may not see.
template <class V>
typename V::I32 hidden_lanes(int64_t position, int64_t first, int64_t end) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = position + i < first || position + i >= end ? -1 : 0;
  typename V::I32 mask;
  static_assert(sizeof(mask) == sizeof(lanes));
  std::memcpy(&mask, lanes, sizeof(lanes));
  return mask;
}

// Scores to weights, in place. Sets the query's maximum and sum; a score that is NaN or infinite, which
// no maximum orders alike on every CPU, makes the sum NaN and with it all of the query's result.
template <class V, int R>
void chunk_weights(const Queries<R>& q, int r, int64_t from, int64_t to, int64_t chunk,
                   float* scores, Partial<R>& out) {
  const int64_t base = chunk * kChunk;
  auto maximum = V::set(kMinusInfinity);
  auto largest = V::iset(0);
  for (int64_t i = from; i < to; i += 16) {
    auto s = V::load(scores + i);
    if (base + i < q.first[r] || base + i + 16 > q.end[r]) {
      const auto hidden = hidden_lanes<V>(base + i, q.first[r], q.end[r]);
      const auto seen = V::isub(V::iset(-1), hidden);
      s = V::add(V::keep(seen, s), V::keep(hidden, V::set(kMinusInfinity)));
      V::store(scores + i, s);
    }
    maximum = V::max(maximum, s);
    // Without its sign an infinity is the first number after the largest finite one, NaN is beyond.
    largest = V::imax(largest, V::iand(V::as_int(s), V::iset(kSignless)));
  }
  out.maximum[r] = V::max_lane(maximum);
  out.sum[r] = 0;
  if (V::imax_lane(largest) > kLargestFinite + 1 ||
      out.maximum[r] == std::numeric_limits<float>::infinity()) {
    out.maximum[r] = 0;
    out.sum[r] = std::numeric_limits<float>::quiet_NaN();
    std::memset(scores + from, 0, static_cast<size_t>(to - from) * sizeof(float));
    return;
  }
  if (out.maximum[r] == kMinusInfinity) return;  // the query sees nothing of this chunk
  auto total = V::zero();
  for (int64_t i = from; i < to; i += 16) {
    const auto p = exp_of_negative<V>(V::sub(V::load(scores + i), V::set(out.maximum[r])));
    total = V::add(total, p);
    V::store(scores + i, p);
  }
  out.sum[r] = V::sum(total);
}

// A position that a query may not see is left out rather than weighed with 0: what is cached there
// need not be finite.
template <class V, CacheType C, int R, int D>
void weigh_values(const Queries<R>& q, const HeadCache& head, int64_t head_dim, int64_t from_block,
                  int64_t to_block, int64_t chunk, const float (*weights)[kChunk], int64_t column,
                  Partial<R>& out) {
  using Element = CacheElement<V, C>;
  const int64_t width = padded_head_dim(head_dim);
  typename V::F32 acc[R][D];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < D; ++c) acc[r][c] = V::zero();
  }
  for (int64_t block = from_block; block < to_block; ++block) {
    const auto* values = reinterpret_cast<const typename Element::Type*>(
        head.values + block * head.block_bytes);
    const int64_t at = block * 16 - chunk * kChunk;
    const bool all_see_all =
        block * 16 >= q.last_first && block * 16 + 16 <= q.first_end;
    for (int64_t i = 0; i < 16; ++i) {
      typename V::F32 v[D];
#pragma GCC unroll 4
      for (int c = 0; c < D; ++c) v[c] = Element::load(values + i * width + column + 16 * c);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const int64_t position = block * 16 + i;
        if (!all_see_all && (position < q.first[r] || position >= q.end[r])) continue;
        const auto p = V::set(weights[r][at + i]);
#pragma GCC unroll 4
        for (int c = 0; c < D; ++c) acc[r][c] = V::fma(v[c], p, acc[r][c]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < D; ++c) V::store(out.values[r] + column + 16 * c, acc[r][c]);
  }
}

template <class V, CacheType C, int R>
void attend_to_chunk(const Queries<R>& q, const HeadCache& head, int64_t head_dim, int64_t chunk,
                     Partial<R>& out) {
  const int64_t blocks = kChunk / 16;
  int64_t from = q.first_of_all / 16, to = (q.end_of_all + 15) / 16;
  from = from > chunk * blocks ? from : chunk * blocks;
  to = to < (chunk + 1) * blocks ? to : (chunk + 1) * blocks;
  alignas(64) float scores[R][kChunk];
  chunk_scores<V, C, R>(q, head, head_dim, from, to, chunk, scores);
  const int64_t begin = from * 16 - chunk * kChunk, end = to * 16 - chunk * kChunk;
  for (int r = 0; r < R; ++r) {
    chunk_weights<V, R>(q, r, begin, end, chunk, scores[r], out);
    if (out.maximum[r] == kMinusInfinity) {
      std::memset(&scores[r][begin], 0, static_cast<size_t>(end - begin) * sizeof(float));
    }
  }
  if constexpr (C == CacheType::int8) {
    for (int64_t block = from; block < to; ++block) {
      const uint8_t* bytes = head.values + block * head.block_bytes;
      const auto steps = V::load(reinterpret_cast<const float*>(bytes + 16 * padded_head_dim(head_dim)));
      for (int r = 0; r < R; ++r) {
        float* at = &scores[r][block * 16 - chunk * kChunk];
        V::store(at, V::mul(V::load(at), steps));
      }
    }
  }
  const int64_t width = padded_head_dim(head_dim);
  int64_t column = 0;
  for (; column + 32 <= width; column += 32) {
    weigh_values<V, C, R, 2>(q, head, head_dim, from, to, chunk, scores, column, out);
  }
  if (column < width) {
    weigh_values<V, C, R, 1>(q, head, head_dim, from, to, chunk, scores, column, out);
  }
}

// Combines the running (maximum, sum, values) with a later chunk's.
template <class V>
void merge(float& maximum, float& sum, float* values, float chunk_maximum, float chunk_sum,
           const float* chunk_values, int64_t width) {
  if (chunk_maximum == kMinusInfinity) return;
  if (maximum == kMinusInfinity) {
    maximum = chunk_maximum;
    sum = chunk_sum;
    std::memcpy(values, chunk_values, static_cast<size_t>(width) * sizeof(float));
    return;
  }
  const float larger = maximum > chunk_maximum ? maximum : chunk_maximum;
  float factors[16] = {};
  factors[0] = maximum - larger;
  factors[1] = chunk_maximum - larger;
  V::store(factors, exp_of_negative<V>(V::load(factors)));
  maximum = larger;
  sum = V::fma1(chunk_sum, factors[1], sum * factors[0]);
  for (int64_t i = 0; i < width; i += 16) {
    const auto old = V::mul(V::load(values + i), V::set(factors[0]));
    V::store(values + i, V::fma(V::load(chunk_values + i), V::set(factors[1]), old));
  }
}

template <class V>
void write_output(float sum, const float* values, int64_t head_dim, float* out) {
  for (int64_t i = 0; i < head_dim; i += 16) {
    store_first<V>(out + i, V::div(V::load(values + i), V::set(sum)), head_dim - i);
  }
}

inline int64_t first_seen(int64_t position, int64_t window) {
  return window > 0 && position + 1 > window ? position + 1 - window : 0;
}

// R queries from number `from` on, of the `count` that tokens [begin, end) and their heads make.
// Beyond the last, the last is repeated and its results are dropped.
template <int R>
Queries<R> query_rows(const float* queries, int64_t start, int64_t begin, int64_t from,
                      int64_t count, int64_t kv_head, const AttentionShape& s) {
  const int64_t heads_each = s.heads / s.kv_heads;
  Queries<R> q;
  q.first_of_all = std::numeric_limits<int64_t>::max();
  q.end_of_all = q.last_first = 0;
  q.first_end = std::numeric_limits<int64_t>::max();
  for (int r = 0; r < R; ++r) {
    const int64_t row = from + r < count ? from + r : count - 1;
    const int64_t token = begin + row / heads_each;
    const int64_t head = kv_head * heads_each + row % heads_each;
    q.at[r] = queries + (token * s.heads + head) * s.head_dim;
    q.first[r] = first_seen(start + token, s.window);
    q.end[r] = start + token + 1;
    q.first_of_all = q.first[r] < q.first_of_all ? q.first[r] : q.first_of_all;
    q.end_of_all = q.end[r] > q.end_of_all ? q.end[r] : q.end_of_all;
    q.last_first = q.first[r] > q.last_first ? q.first[r] : q.last_first;
    q.first_end = q.end[r] < q.first_end ? q.end[r] : q.first_end;
  }
  return q;
}

template <class V, CacheType C, int R>
void attend_rows(const float* queries, int64_t start, int64_t begin, int64_t from, int64_t count,
                 int64_t kv_head, const AttentionShape& s, const Cache& cache, float* out) {
  const auto q = query_rows<R>(queries, start, begin, from, count, kv_head, s);
  const HeadCache head = head_cache(cache, kv_head, s.head_dim);
  const int64_t width = padded_head_dim(s.head_dim);
  Partial<R> total, part;
  for (int r = 0; r < R; ++r) {
    total.maximum[r] = kMinusInfinity;
    total.sum[r] = 0;
    std::memset(total.values[r], 0, static_cast<size_t>(width) * sizeof(float));
  }
  for (int64_t chunk = q.first_of_all / kChunk; chunk * kChunk < q.end_of_all; ++chunk) {
    attend_to_chunk<V, C, R>(q, head, s.head_dim, chunk, part);
    for (int r = 0; r < R; ++r) {
      merge<V>(total.maximum[r], total.sum[r], total.values[r], part.maximum[r], part.sum[r],
               part.values[r], width);
    }
  }
  for (int r = 0; r < R && from + r < count; ++r) {
    const int64_t offset = q.at[r] - queries;  // out has the shape of the queries
    write_output<V>(total.sum[r], total.values[r], s.head_dim, out + offset);
  }
}

// Rows of the last tile, some of which may be unused.
template <class V>
constexpr int kFewRows = V::kAttentionRows < 4 ? V::kAttentionRows : 4;

template <class V, CacheType C>
void attend_tokens(const float* queries, int64_t start, int64_t begin, int64_t end, int64_t kv_head,
                   const AttentionShape& s, const Cache& cache, float* out) {
  const int64_t count = (end - begin) * (s.heads / s.kv_heads);
  int64_t from = 0;
  for (; count - from > kFewRows<V>; from += V::kAttentionRows) {
    attend_rows<V, C, V::kAttentionRows>(queries, start, begin, from, count, kv_head, s, cache, out);
  }
  if (from < count) {
    attend_rows<V, C, kFewRows<V>>(queries, start, begin, from, count, kv_head, s, cache, out);
  }
}

template <class V, CacheType C, int R>
void attend_chunk_rows(const float* queries, int64_t position, int64_t chunk, int64_t from,
                       int64_t count, int64_t kv_head, const AttentionShape& s, const Cache& cache,
                       float* partials) {
  const auto q = query_rows<R>(queries, position, 0, from, count, kv_head, s);
  Partial<R> part;
  attend_to_chunk<V, C, R>(q, head_cache(cache, kv_head, s.head_dim), s.head_dim, chunk, part);
  for (int r = 0; r < R && from + r < count; ++r) {
    float* to = partials + (from + r) * partial_size(s.head_dim);
    to[0] = part.maximum[r];
    to[1] = part.sum[r];
    std::memcpy(to + 16, part.values[r],
                static_cast<size_t>(padded_head_dim(s.head_dim)) * sizeof(float));
  }
}

template <class V, CacheType C>
void attend_chunk_heads(const float* queries, int64_t position, int64_t chunk, int64_t kv_head,
                        const AttentionShape& s, const Cache& cache, float* partials) {
  const int64_t count = s.heads / s.kv_heads;
  int64_t from = 0;
  for (; count - from > kFewRows<V>; from += V::kAttentionRows) {
    attend_chunk_rows<V, C, V::kAttentionRows>(queries, position, chunk, from, count, kv_head, s,
                                               cache, partials);
  }
  if (from < count) {
    attend_chunk_rows<V, C, kFewRows<V>>(queries, position, chunk, from, count, kv_head, s, cache,
                                         partials);
  }
}

// Calls f<CacheType>() for the cache's type.
template <class F>
void with_cache_type(CacheType type, F f) {
  switch (type) {
    case CacheType::float32: return f.template operator()<CacheType::float32>();
    case CacheType::float16: return f.template operator()<CacheType::float16>();
    case CacheType::int8: return f.template operator()<CacheType::int8>();
  }
}

template <class V>
void attend(const float* queries, int64_t start, int64_t begin, int64_t end, int64_t kv_head,
            const AttentionShape& s, const Cache& cache, float* out) {
  with_cache_type(cache.type, [&]<CacheType C>() {
    attend_tokens<V, C>(queries, start, begin, end, kv_head, s, cache, out);
  });
}

template <class V>
void attend_chunk(const float* queries, int64_t position, int64_t chunk, int64_t kv_head,
                  const AttentionShape& s, const Cache& cache, float* partials) {
  with_cache_type(cache.type, [&]<CacheType C>() {
    attend_chunk_heads<V, C>(queries, position, chunk, kv_head, s, cache, partials);
  });
}

template <class V>
void merge_chunks(const float* partials, int64_t stride, int64_t chunks, int64_t head_dim,
                  float* out) {
  const int64_t width = padded_head_dim(head_dim);
  alignas(64) float values[kMaxHeadDim] = {};
  float maximum = kMinusInfinity, sum = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const float* part = partials + c * stride;
    merge<V>(maximum, sum, values, part[0], part[1], part + 16, width);
  }
  write_output<V>(sum, values, head_dim, out);
}

}  // namespace
}  // namespace lowbit
