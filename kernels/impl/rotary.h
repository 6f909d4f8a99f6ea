#pragma once

// Norms of queries and keys, rotary embedding from tables, and the write to the cache.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/impl/cache_write.h"
#include "kernels/impl/elementwise.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

// (a, b) to (a cos - b sin, b cos + a sin), then times `scale`; `out` may be x. The lanes and the
// loop below for single pairs round alike.
template <class V>
void rotate_head(const float* x, const float* cos, const float* sin, const AttentionShape& s,
                 float scale, float* out) {
  const int64_t half = s.rotary_dim / 2;
  const int64_t apart = s.interleaved ? 1 : half, step = s.interleaved ? 2 : 1;
  int64_t i = 0;
  for (; !s.interleaved && i + 16 <= half; i += 16) {
    const auto a = V::load(x + i), b = V::load(x + half + i);
    const auto c = V::load(cos + i), d = V::load(sin + i);
    const auto minus_b = V::sub(V::zero(), b);
    V::store(out + i, V::mul(V::fma(minus_b, d, V::mul(a, c)), V::set(scale)));
    V::store(out + half + i, V::mul(V::fma(a, d, V::mul(b, c)), V::set(scale)));
  }
  for (; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    out[i * step] = V::fma1(0.0f - b, sin[i], a * cos[i]) * scale;
    out[i * step + apart] = V::fma1(a, sin[i], b * cos[i]) * scale;
  }
  for (i = s.rotary_dim; i < s.head_dim; ++i) out[i] = x[i] * scale;
}

// One token's queries or keys x [heads, d], and their norm.
template <class V>
struct NormedHeads {
  NormedHeads(const float* all, int64_t heads, const AttentionShape& shape, const HeadNorm& norm_)
      : x(all), d(shape.head_dim), eps(shape.norm_eps), norm(norm_) {
    if (norm.weight != nullptr && !norm.by_head) factor_of_all = rms_factor<V>(x, heads * d, eps);
  }

  // Head `h`, in place or in `memory`.
  const float* head(int64_t h, float* memory) const {
    const float* from = x + h * d;
    if (norm.weight == nullptr) return from;
    const float factor = norm.by_head ? rms_factor<V>(from, d, eps) : factor_of_all;
    scale_row<V>(from, d, factor, norm.weight + (norm.by_head ? 0 : h * d), memory);
    return memory;
  }

  const float* x;
  int64_t d;
  float eps;
  const HeadNorm& norm;
  float factor_of_all = 0;
};

template <class V>
void rotate_and_cache(const float* qkv, int64_t position, int64_t block, const float* cos,
                      const float* sin, const AttentionShape& s, const Cache& cache,
                      float* queries) {
  const int64_t d = s.head_dim;
  cos += position * (s.rotary_dim / 2);
  sin += position * (s.rotary_dim / 2);
  const bool turned = cache.type == CacheType::int4;
  const float scale = s.scale * s.query_factors.at(position);
  const NormedHeads<V> given_queries(qkv, s.heads, s, s.q_norm);
  for (int64_t h = 0; h < s.heads; ++h) {
    float* query = queries + h * d;
    rotate_head<V>(given_queries.head(h, query), cos, sin, s, scale, query);
    if (turned) turn<V>(query, d);
  }
  const NormedHeads<V> given_keys(qkv + s.heads * d, s.kv_heads, s, s.k_norm);
  const int64_t block_bytes = cache_block_bytes(cache.type, d);
  for (int64_t h = 0; h < s.kv_heads; ++h) {
    float key[kMaxHeadDim], turned_value[kMaxHeadDim];
    rotate_head<V>(given_keys.head(h, key), cos, sin, s, 1.0f, key);
    const float* value = qkv + (s.heads + s.kv_heads + h) * d;
    if (turned) {
      turn<V>(key, d);
      std::memcpy(turned_value, value, static_cast<size_t>(d) * sizeof(float));
      turn<V>(turned_value, d);
      value = turned_value;
    }
    const int64_t at = (h * cache.blocks + block) * block_bytes;
    write_head<V>(key, value, position % kBlock, d, cache.type, static_cast<uint8_t*>(cache.keys) + at,
                  static_cast<uint8_t*>(cache.values) + at);
  }
}

}  // namespace
}  // namespace lowbit
