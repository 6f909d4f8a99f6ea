#pragma once

// How keys and values become what a cache's type holds.

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/impl/int4_cache.h"
#include "kernels/impl/memory.h"
#include "kernels/impl/quantize.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

// float16 bits of x [n], n rounded up to 16 in `out`.
template <class V>
[[gnu::noinline]] void to_half(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) V::store_half(out + i, load_first<V>(x + i, n - i));
}

// Symmetric int8 of x [n]; returns the step. A vector that is not finite gets the step NaN.
template <class V>
[[gnu::noinline]] float to_int8(const float* x, int64_t n, int8_t* out) {
  const int32_t bits = largest_magnitude<V>(x, n);
  float largest;
  std::memcpy(&largest, &bits, 4);
  const bool usable = bits <= kLargestFinite && largest > 1e-36f;
  for (int64_t i = 0; i < n; i += 16) {
    const auto scaled = V::mul(load_first<V>(x + i, n - i), V::set(usable ? 127.0f / largest : 0));
    V::store_i8(out + i, usable ? V::round(scaled) : V::iset(0));
  }
  if (bits > kLargestFinite) return std::numeric_limits<float>::quiet_NaN();
  return usable ? largest / 127.0f : 0.0f;
}

template <class V>
void write_head(const float* key, const float* value, int64_t lane, int64_t head_dim,
                CacheType type, uint8_t* key_block, uint8_t* value_block) {
  const int64_t width = padded_head_dim(head_dim);
  const auto n = static_cast<size_t>(head_dim);
  if (type == CacheType::float32) {
    scatter_key(key, 4, head_dim, lane, key_block);
    std::memcpy(reinterpret_cast<float*>(value_block) + lane * width, value, n * sizeof(float));
  } else if (type == CacheType::float16) {
    uint16_t halves[kMaxHeadDim];
    to_half<V>(key, head_dim, halves);
    scatter_key(halves, 2, head_dim, lane, key_block);
    to_half<V>(value, head_dim, halves);
    std::memcpy(reinterpret_cast<uint16_t*>(value_block) + lane * width, halves, n * 2);
  } else if (type == CacheType::int4) {
    write_int4<V>(key, value, lane, head_dim, key_block, value_block);
  } else {
    int8_t bytes[kMaxHeadDim];
    auto* key_steps = reinterpret_cast<float*>(key_block + 16 * head_dim);
    key_steps[lane] = to_int8<V>(key, head_dim, bytes);
    scatter_key(bytes, 1, head_dim, lane, key_block);
    auto* value_steps = reinterpret_cast<float*>(value_block + 16 * width);
    value_steps[lane] = to_int8<V>(value, head_dim, bytes);
    std::memcpy(value_block + lane * width, bytes, n);
  }
}

}  // namespace
}  // namespace lowbit
