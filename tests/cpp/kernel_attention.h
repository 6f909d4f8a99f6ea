#pragma once

// One layer's attention with its cache, for the tests.

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_data.h"

namespace kernel_test {

using lowbit::AttentionShape;
using lowbit::CacheType;

inline constexpr CacheType kCacheTypes[] = {CacheType::float32, CacheType::float16,
                                            CacheType::int8, CacheType::int4};

inline const char* name_of(CacheType type) {
  constexpr const char* kNames[] = {"float32", "float16", "int8", "int4"};
  return kNames[static_cast<int>(type)];
}

inline std::string describe(const AttentionShape& s, CacheType type) {
  return std::to_string(s.heads) + " over " + std::to_string(s.kv_heads) + " heads of width " +
         std::to_string(s.head_dim) + ", rotary " + std::to_string(s.rotary_dim) +
         (s.interleaved ? " interleaved" : "") + ", window " + std::to_string(s.window) +
         (s.softcap > 0 ? ", softcap" : "") + (s.gated ? ", gated" : "") + ", " + name_of(type) +
         " cache";
}

inline constexpr int64_t kFactorSpan = 50;  // positions that share a factor of queries

enum class Norm { none, by_head, whole };

// Which of the weights that an attention may have are there.
struct Extras {
  Norm q_norm = Norm::none, k_norm = Norm::none;
  bool sinks = false;
  bool query_factors = false;
};

// Attention with all that it may have, and shapes for it.
struct RichCase {
  AttentionShape shape;
  Extras extras;
  int64_t positions;
};
inline const RichCase kRichCases[] = {
    {{4, 2, 64, 32, false, 0, 0.25f, 5, true}, {Norm::by_head, Norm::by_head, true}, 270},
    {{6, 2, 40, 20, true, 33, 0.1f, 0, true}, {Norm::whole, Norm::whole, false, true}, 300},
    {{9, 1, 16, 0, false, 20, 0, 30, false}, {Norm::none, Norm::by_head, true, true}, 600},
    {{2, 2, 512, 512, false, 0, 0.0625f, 50, false}, {Norm::by_head, Norm::none, true}, 270},
    {{3, 1, 300, 128, false, 17, 0, 0, true}, {Norm::none, Norm::none, true}, 70},
    {{2, 1, 5, 2, true, 0, -1, 2, true}, {Norm::whole, Norm::by_head, true}, 300},
};

struct Scene {
  AttentionShape shape;  // without the weights of `extras`
  Extras extras;
  CacheType type;
  int64_t positions;  // of the prompt; the cache has room for one block more
  std::vector<float> qkv, cos, sin, q_norm, k_norm, sinks, query_factors;
  std::vector<uint8_t> keys, values;
  std::vector<float> out;  // [positions, H d]

  int64_t gate_at() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }
  int64_t qkv_width() const { return gate_at() + (shape.gated ? out_width() : 0); }
  int64_t out_width() const { return shape.heads * shape.head_dim; }
  int64_t blocks() const { return positions / 16 + 1; }
  float* token(int64_t t) { return &qkv[static_cast<size_t>(t * qkv_width())]; }

  // A scale of 0 is 1 / sqrt(d).
  Scene(Random& random, const AttentionShape& s, CacheType cache_type, int64_t n, Extras p = {})
      : shape(s), extras(p), type(cache_type), positions(n) {
    if (s.scale == 0) shape.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
    qkv = random.values(n * qkv_width());
    // Rotations by any angles, from operations that every machine rounds alike.
    for (int64_t i = 0; i < blocks() * 16 * (s.rotary_dim / 2); ++i) {
      const double tangent = random.value();  // of half the angle
      const double squared = tangent * tangent;
      cos.push_back(static_cast<float>((1 - squared) / (1 + squared)));
      sin.push_back(static_cast<float>(2 * tangent / (1 + squared)));
    }
    shape.norm_eps = 1e-5f;
    if (p.q_norm != Norm::none) {
      q_norm = random.values(s.head_dim * (p.q_norm == Norm::whole ? s.heads : 1));
    }
    if (p.k_norm != Norm::none) {
      k_norm = random.values(s.head_dim * (p.k_norm == Norm::whole ? s.kv_heads : 1));
    }
    if (p.sinks) sinks = random.values(s.heads, 2);
    for (int64_t at = 0; p.query_factors && at < n; at += kFactorSpan) {
      query_factors.push_back(1 + 0.1f * static_cast<float>(at / kFactorSpan));
    }
    clear(0);
  }

  // The cache's blocks of the one session, one after the other.
  std::vector<int32_t> block_table() const {
    std::vector<int32_t> table(static_cast<size_t>(blocks()));
    std::iota(table.begin(), table.end(), 0);
    return table;
  }

  // A new cache, each byte `fill`.
  void clear(uint8_t fill) {
    const int64_t bytes =
        shape.kv_heads * blocks() * lowbit::cache_block_bytes(type, shape.head_dim);
    keys.assign(static_cast<size_t>(bytes), fill);
    values.assign(static_cast<size_t>(bytes), fill);
    out = unwritten(positions * out_width());
  }

  AttentionShape shape_with_weights() const {
    AttentionShape s = shape;
    if (!q_norm.empty()) s.q_norm = {q_norm.data(), extras.q_norm == Norm::by_head};
    if (!k_norm.empty()) s.k_norm = {k_norm.data(), extras.k_norm == Norm::by_head};
    if (!sinks.empty()) s.sinks = sinks.data();
    if (!query_factors.empty()) s.query_factors = {query_factors.data(), kFactorSpan};
    return s;
  }

  // Runs tokens [begin, begin + n) of the prompt.
  void run(lowbit::Host& host, int64_t begin, int64_t n) {
    const lowbit::Cache cache{type, keys.data(), values.data(), blocks()};
    const std::vector<float> exactly(token(begin), token(begin) + n * qkv_width());
    auto results = unwritten(n * out_width());
    const AttentionShape s = shape_with_weights();
    const std::vector<int32_t> table = block_table();
    const lowbit::Segment segment{n, begin, table.data()};
    lowbit::attention(host, exactly.data(), {&segment, 1}, cos.data(), sin.data(), s, cache,
                      results.data());
    std::copy(results.begin(), results.end(), out.begin() + begin * out_width());
  }
};

}  // namespace kernel_test
