#pragma once

// Attention over the KV cache, in chunks of kChunk positions counted from position 0, so that a
// token's result does not depend on how the prompt was cut or who computes which chunk.
//
// For each chunk and query: scores, their maximum m, weights exp(score - m), the weights' sum, and
// the weighted sum of values. Chunks are combined in order (softmax.h). A position that a query may
// not see has no part in it.

#include <cstdint>
#include <cstring>

#include "kernels/impl/attention_int4.h"
#include "kernels/impl/attention_rows.h"
#include "kernels/impl/softmax.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

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

template <class V, CacheType C, int R>
void chunk_scores(const Queries<R>& q, const HeadCache& head, int64_t head_dim, int64_t from_block,
                  int64_t to_block, int64_t chunk, float (*scores)[kChunk]) {
  using Element = CacheElement<V, C>;
  for (int64_t block = from_block; block < to_block; ++block) {
    const uint8_t* bytes = head.key_block(block);
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
    const auto* values = reinterpret_cast<const typename Element::Type*>(head.value_block(block));
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
    for (int c = 0; c < D; ++c) V::store(out.values + r * width + column + 16 * c, acc[r][c]);
  }
}

template <class V, CacheType C, int R>
void attend_to_chunk(const Queries<R>& q, const HeadCache& head, const AttentionShape& shape,
                     int64_t chunk, Partial<R>& out) {
  const int64_t blocks = kChunk / 16, head_dim = shape.head_dim;
  int64_t from = q.first_of_all / 16, to = (q.end_of_all + 15) / 16;
  from = from > chunk * blocks ? from : chunk * blocks;
  to = to < (chunk + 1) * blocks ? to : (chunk + 1) * blocks;
  alignas(64) float scores[R][kChunk];
  if constexpr (C == CacheType::int4) {
    int4_scores<V, R>(q, head, head_dim, from, to, chunk, scores);
  } else {
    chunk_scores<V, C, R>(q, head, head_dim, from, to, chunk, scores);
  }
  const int64_t begin = from * 16 - chunk * kChunk, end = to * 16 - chunk * kChunk;
  for (int r = 0; r < R; ++r) {
    if (shape.softcap > 0) cap_scores<V>(scores[r], begin, end, shape.softcap);
    chunk_weights<V>(q.first[r], q.end[r], begin, end, chunk * kChunk, scores[r], out.maximum[r],
                     out.sum[r]);
    if (out.maximum[r] == kMinusInfinity) {
      std::memset(&scores[r][begin], 0, static_cast<size_t>(end - begin) * sizeof(float));
    }
  }
  if constexpr (C == CacheType::int8) {
    for (int64_t block = from; block < to; ++block) {
      const uint8_t* bytes = head.value_block(block);
      const auto steps = V::load(reinterpret_cast<const float*>(bytes + 16 * padded_head_dim(head_dim)));
      for (int r = 0; r < R; ++r) {
        float* at = &scores[r][block * 16 - chunk * kChunk];
        V::store(at, V::mul(V::load(at), steps));
      }
    }
  }
  if constexpr (C == CacheType::int4) {
    weigh_int4_values<V, R>(q, head, head_dim, from, to, chunk, scores, out);
  } else {
    const int64_t width = padded_head_dim(head_dim);
    int64_t column = 0;
    for (; column + 32 <= width; column += 32) {
      weigh_values<V, C, R, 2>(q, head, head_dim, from, to, chunk, scores, column, out);
    }
    if (column < width) {
      weigh_values<V, C, R, 1>(q, head, head_dim, from, to, chunk, scores, column, out);
    }
  }
}

// A chunk's attention with a cache's type: the one part of what follows of which each has its own.
template <int R>
using AttendToChunk = void (*)(const Queries<R>&, const HeadCache&, const AttentionShape&, int64_t,
                               Partial<R>&);

template <class V, int R>
AttendToChunk<R> attend_to_chunk_of(CacheType type) {
  switch (type) {
    case CacheType::float32: return attend_to_chunk<V, CacheType::float32, R>;
    case CacheType::float16: return attend_to_chunk<V, CacheType::float16, R>;
    case CacheType::int8: return attend_to_chunk<V, CacheType::int8, R>;
    case CacheType::int4: break;
  }
  return attend_to_chunk<V, CacheType::int4, R>;
}

template <class V, int R>
void attend_rows(const float* queries, const Segment& segment, int64_t begin, int64_t from,
                 int64_t count, int64_t kv_head, const AttentionShape& s, const Cache& cache,
                 float* out) {
  const auto attend_to = attend_to_chunk_of<V, R>(cache.type);
  const auto q = query_rows<R>(queries, segment.start, begin, from, count, kv_head, s);
  const HeadCache head = head_cache(cache, segment, kv_head, s.head_dim);
  const int64_t width = padded_head_dim(s.head_dim);
  Partial<R> total, part;
  for (int r = 0; r < R; ++r) {
    total.maximum[r] = kMinusInfinity;
    total.sum[r] = 0;
  }
  std::memset(total.values, 0, static_cast<size_t>(R * width) * sizeof(float));
  for (int64_t chunk = q.first_of_all / kChunk; chunk * kChunk < q.end_of_all; ++chunk) {
    attend_to(q, head, s, chunk, part);
    for (int r = 0; r < R; ++r) {
      merge<V>(total.maximum[r], total.sum[r], total.values + r * width, part.maximum[r],
               part.sum[r], part.values + r * width, width);
    }
  }
  for (int r = 0; r < R && from + r < count; ++r) {
    const int64_t offset = q.at[r] - queries;  // out has the shape of the queries
    const float* sink = s.sinks == nullptr ? nullptr : s.sinks + offset / s.head_dim % s.heads;
    write_output<V>(total.maximum[r], total.sum[r], total.values + r * width, s.head_dim, sink,
                    out + offset);
  }
}

// Rows of the last tile, some of which may be unused.
template <class V>
constexpr int kFewRows = V::kAttentionRows < 4 ? V::kAttentionRows : 4;

template <class V>
void attend(const float* queries, const Segment& segment, int64_t begin, int64_t end,
            int64_t kv_head, const AttentionShape& s, const Cache& cache, float* out) {
  const int64_t count = (end - begin) * (s.heads / s.kv_heads);
  int64_t from = 0;
  for (; count - from > kFewRows<V>; from += V::kAttentionRows) {
    attend_rows<V, V::kAttentionRows>(queries, segment, begin, from, count, kv_head, s, cache, out);
  }
  if (from < count) {
    attend_rows<V, kFewRows<V>>(queries, segment, begin, from, count, kv_head, s, cache, out);
  }
}

template <class V, int R>
void attend_chunk_rows(const float* queries, const Segment& segment, int64_t chunk, int64_t from,
                       int64_t count, int64_t kv_head, const AttentionShape& s, const Cache& cache,
                       float* partials) {
  const auto q = query_rows<R>(queries, segment.start, 0, from, count, kv_head, s);
  Partial<R> part;
  attend_to_chunk_of<V, R>(cache.type)(q, head_cache(cache, segment, kv_head, s.head_dim), s, chunk,
                                       part);
  const int64_t width = padded_head_dim(s.head_dim);
  for (int r = 0; r < R && from + r < count; ++r) {
    float* to = partials + (from + r) * partial_size(s.head_dim);
    to[0] = part.maximum[r];
    to[1] = part.sum[r];
    std::memcpy(to + 16, part.values + r * width, static_cast<size_t>(width) * sizeof(float));
  }
}

template <class V>
void attend_chunk(const float* queries, const Segment& segment, int64_t chunk, int64_t kv_head,
                  const AttentionShape& s, const Cache& cache, float* partials) {
  const int64_t count = s.heads / s.kv_heads;
  int64_t from = 0;
  for (; count - from > kFewRows<V>; from += V::kAttentionRows) {
    attend_chunk_rows<V, V::kAttentionRows>(queries, segment, chunk, from, count, kv_head, s,
                                            cache, partials);
  }
  if (from < count) {
    attend_chunk_rows<V, kFewRows<V>>(queries, segment, chunk, from, count, kv_head, s, cache,
                                      partials);
  }
}

template <class V>
void merge_chunks(const float* partials, int64_t stride, int64_t chunks, int64_t head_dim,
                  const float* sink, float* out) {
  const int64_t width = padded_head_dim(head_dim);
  alignas(64) float values[kMaxHeadDim];
  std::memset(values, 0, static_cast<size_t>(width) * sizeof(float));
  float maximum = kMinusInfinity, sum = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const float* part = partials + c * stride;
    merge<V>(maximum, sum, values, part[0], part[1], part + 16, width);
  }
  write_output<V>(maximum, sum, values, head_dim, sink, out);
}

}  // namespace
}  // namespace lowbit
