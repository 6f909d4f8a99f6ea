#pragma once

// One layer's attention with its cache, for the tests.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_data.h"

namespace kernel_test {

using lowbit::AttentionShape;
using lowbit::CacheType;

inline constexpr CacheType kCacheTypes[] = {CacheType::float32, CacheType::float16,
                                            CacheType::int8};

inline const char* name_of(CacheType type) {
  return type == CacheType::float32 ? "float32" : type == CacheType::float16 ? "float16" : "int8";
}

inline std::string describe(const AttentionShape& s, CacheType type) {
  return std::to_string(s.heads) + " over " + std::to_string(s.kv_heads) + " heads of width " +
         std::to_string(s.head_dim) + ", rotary " + std::to_string(s.rotary_dim) +
         (s.interleaved ? " interleaved" : "") + ", window " + std::to_string(s.window) + ", " +
         name_of(type) + " cache";
}

struct Scene {
  AttentionShape shape;
  CacheType type;
  int64_t positions;  // of the prompt; the cache has room for one block more
  std::vector<float> qkv, cos, sin;
  std::vector<uint8_t> keys, values;
  std::vector<float> out;  // [positions, H d]

  int64_t qkv_width() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }
  int64_t out_width() const { return shape.heads * shape.head_dim; }
  int64_t blocks() const { return positions / 16 + 1; }
  float* token(int64_t t) { return &qkv[static_cast<size_t>(t * qkv_width())]; }

  Scene(Random& random, const AttentionShape& s, CacheType cache_type, int64_t n)
      : shape(s), type(cache_type), positions(n) {
    qkv = random.values(n * qkv_width());
    // Rotations by any angles, from operations that every machine rounds alike.
    for (int64_t i = 0; i < blocks() * 16 * (s.rotary_dim / 2); ++i) {
      const double tangent = random.value();  // of half the angle
      const double squared = tangent * tangent;
      cos.push_back(static_cast<float>((1 - squared) / (1 + squared)));
      sin.push_back(static_cast<float>(2 * tangent / (1 + squared)));
    }
    clear(0);
  }

  // A new cache, each byte `fill`.
  void clear(uint8_t fill) {
    const int64_t bytes =
        shape.kv_heads * blocks() * lowbit::cache_block_bytes(type, shape.head_dim);
    keys.assign(static_cast<size_t>(bytes), fill);
    values.assign(static_cast<size_t>(bytes), fill);
    out = unwritten(positions * out_width());
  }

  // Runs tokens [begin, begin + n) of the prompt.
  void run(lowbit::Host& host, int64_t begin, int64_t n) {
    const lowbit::Cache cache{type, keys.data(), values.data(), blocks()};
    const std::vector<float> exactly(token(begin), token(begin) + n * qkv_width());
    auto results = unwritten(n * out_width());
    lowbit::attention(host, exactly.data(), n, begin, cos.data(), sin.data(), shape, cache,
                      results.data());
    std::copy(results.begin(), results.end(), out.begin() + begin * out_width());
  }
};

}  // namespace kernel_test
