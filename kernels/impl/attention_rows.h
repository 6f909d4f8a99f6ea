#pragma once

// What attention works on: some queries of one key/value head, and its blocks of the cache.

#include <cstdint>
#include <limits>

#include "kernels/isa.h"

namespace lowbit {
namespace {

// One key/value head's blocks of a session.
struct HeadCache {
  const uint8_t* keys;
  const uint8_t* values;
  int64_t block_bytes;
  const int32_t* blocks;

  const uint8_t* key_block(int64_t i) const { return keys + blocks[i] * block_bytes; }
  const uint8_t* value_block(int64_t i) const { return values + blocks[i] * block_bytes; }
};

inline HeadCache head_cache(const Cache& cache, const Segment& segment, int64_t kv_head,
                            int64_t head_dim) {
  const int64_t block_bytes = cache_block_bytes(cache.type, head_dim);
  const int64_t at = kv_head * cache.blocks * block_bytes;
  return {static_cast<const uint8_t*>(cache.keys) + at,
          static_cast<const uint8_t*>(cache.values) + at, block_bytes, segment.blocks};
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
  alignas(64) float values[R * kMaxHeadDim];  // [R, d rounded up to 16]
};

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

}  // namespace
}  // namespace lowbit
