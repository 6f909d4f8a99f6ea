// A token that holds NaN or infinity has results that are not finite, and no other token notices.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_attention.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;
using lowbit::ActivationScales;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kBad[] = {kNaN, -kNaN, kInfinity, -kInfinity};

constexpr int64_t kTokens = 6, kRows = 37, kColumns = 100, kBadToken = 2;

bool none_finite(const float* x, int64_t n) {
  return std::none_of(x, x + n, [](float y) { return std::isfinite(y); });
}

// compute(x, out) for tokens [T, K] to [T, N].
template <typename Compute>
void check_linear(const std::string& what, Compute compute) {
  Random random(24);
  const auto clean = random.values(kTokens * kColumns);
  auto expected = unwritten(kTokens * kRows);
  compute(clean.data(), expected.data());
  for (const float bad : kBad) {
    for (const int64_t column : {int64_t{0}, int64_t{50}, kColumns - 1}) {
      auto x = clean;
      x[static_cast<size_t>(kBadToken * kColumns + column)] = bad;
      std::vector<float> out(static_cast<size_t>(kTokens * kRows), 7.0f);
      compute(x.data(), out.data());
      for (int64_t t = 0; t < kTokens; ++t) {
        const float* row = &out[static_cast<size_t>(t * kRows)];
        if (t == kBadToken ? none_finite(row, kRows)
                           : same_bits(row, &expected[static_cast<size_t>(t * kRows)], kRows)) {
          continue;
        }
        check::fail(__FILE__, __LINE__,
                    what + ": token " + std::to_string(t) + " with " + std::to_string(bad) +
                        " in column " + std::to_string(column) + " of token 2");
      }
    }
  }
}

// Runs `compute` on activations at the ends of what float can hold. What comes out is not defined,
// but the same everywhere.
template <typename Compute>
void check_extremes(const std::string& what, Compute compute) {
  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  Hash hash;
  for (const float extreme : {kLargest, -kLargest, kSmallest, 1e-37f, 3e-36f, 1e30f}) {
    Random random(25);
    auto x = random.values(kTokens * kColumns);
    for (int64_t k = 0; k < kColumns; ++k) {
      x[static_cast<size_t>(k)] = extreme;
      x[static_cast<size_t>(kColumns + k)] = k % 2 == 0 ? extreme : -extreme;
      if (k % 32 == 0) x[static_cast<size_t>(2 * kColumns + k)] = extreme;
    }
    auto out = unwritten(kTokens * kRows);
    compute(x.data(), out.data());
    hash.add(out);
  }
  report(what + " at the ends of float", hash);
}

// A window that begins and ends within blocks of 16 positions.
Scene clean_scene(CacheType type, bool rich = false) {
  Random random(26);
  if (!rich) return Scene(random, {3, 1, 40, 40, false, 30}, type, 70);
  return Scene(random, {3, 1, 40, 40, false, 30, 0, 4, true}, type, 70,
               {Norm::by_head, Norm::by_head, true});
}

// The first index of the query, the key, the value or the gate of a token; one query head of three.
enum Part { kQuery = 40, kKey = 120, kValue = 160, kGate = 240 };

// Tokens before `token` come out as if nothing was wrong; so do those that look back less far.
void check_poisoned(CacheType type, bool rich, Part part, float bad, int64_t token, bool at_once,
                    Hash& hash) {
  SerialHost host;
  Scene clean = clean_scene(type, rich), scene = clean_scene(type, rich);
  scene.token(token)[part + 13] = bad;
  clean.run(host, 0, clean.positions);
  if (at_once) {
    scene.run(host, 0, scene.positions);
  } else {
    for (int64_t t = 0; t < scene.positions; ++t) scene.run(host, t, 1);
  }
  const int64_t width = clean.out_width();
  int64_t affected_end = token + 1;
  if (part == kKey || part == kValue) affected_end = token + scene.shape.window;
  std::string wrong;
  for (int64_t t = 0; t < scene.positions; ++t) {
    const float* row = &scene.out[static_cast<size_t>(t * width)];
    const bool same = same_bits(row, &clean.out[static_cast<size_t>(t * width)], width);
    if ((t < token || t >= affected_end) && !same) wrong += " " + std::to_string(t);
  }
  // The token itself: all of the head whose query is bad; at least the element that is bad.
  const float* own = &scene.out[static_cast<size_t>(token * width)];
  const bool shows = part == kQuery  ? none_finite(own + 40, 40)
                     : part == kGate ? none_finite(own + 40 + 13, 1)
                     : part == kValue
                         ? none_finite(own + 13, 1)
                         : none_finite(own, 1) || bad == -kInfinity || bad == kInfinity;
  if (!shows) wrong += " (the token itself is finite)";
  if (!wrong.empty()) {
    check::fail(__FILE__, __LINE__,
                std::string(name_of(type)) + " cache, " + std::to_string(bad) + " at " +
                    std::to_string(part) + " of token " + std::to_string(token) +
                    (at_once ? " in one chunk" : " one by one") + ": tokens" + wrong);
  }
  hash.add(scene.out);
}

void check_attention(Part part, const char* what, bool rich = false) {
  for (const CacheType type : kCacheTypes) {
    Hash one_by_one, at_once;
    for (const float bad : kBad) {
      for (const int64_t token : {0, 20, 69}) {
        check_poisoned(type, rich, part, bad, token, true, at_once);
        check_poisoned(type, rich, part, bad, token, false, one_by_one);
      }
    }
    CHECK_EQ(one_by_one.value(), at_once.value());
    report(what + std::string(", ") + name_of(type) + " cache", at_once);
  }
}

}  // namespace

TEST(linear_a8wx) {
  for (const ActivationScales scales : {ActivationScales::group, ActivationScales::token}) {
    for (const uint32_t bits : {1u, 3u, 4u, 8u}) {
      for (const uint32_t group_size : {16u, 32u, 112u}) {
        Random random(27);
        const Format format{Kind::integer, bits, group_size, Zeros::integer};
        const Weight w = random_weight(random, format, kRows, kColumns);
        const auto compute = [&](const float* x, float* out) {
          SerialHost host;
          lowbit::linear_a8wx(host, x, kTokens, w.packed, scales, nullptr, out);
        };
        const auto what = std::string(scales == ActivationScales::group ? "group" : "token") +
                          " scales, " + describe(format, kRows, kColumns);
        check_linear(what, compute);
        check_extremes(what, compute);
      }
    }
  }
}

TEST(linear_wx) {
  for (const uint32_t bits : {4u, 8u}) {
    for (const Zeros zeros : {Zeros::none, Zeros::integer, Zeros::real}) {
      Random random(28);
      const Format format{Kind::integer, bits, 32, zeros};
      const Weight w = random_weight(random, format, kRows, kColumns);
      const auto compute = [&](const float* x, float* out) {
        SerialHost host;
        lowbit::linear_wx(host, x, kTokens, w.packed, nullptr, out);
      };
      check_linear("linear_wx, " + describe(format, kRows, kColumns), compute);
      check_extremes("linear_wx, " + describe(format, kRows, kColumns), compute);
    }
  }
}

TEST(linear_fp) {
  for (const Kind kind : {Kind::float32, Kind::float16, Kind::bfloat16}) {
    Random random(29);
    const Format format{kind, kind == Kind::float32 ? 32u : 16u, 0, Zeros::none};
    const auto weights = random.values(kRows * kColumns);
    std::vector<uint8_t> bytes(lowbit::packed_size(format, kRows, kColumns));
    lowbit::pack_float(format, kRows, kColumns, weights.data(), bytes.data());
    PackedWeight packed;
    CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &packed), "");
    const auto compute = [&](const float* x, float* out) {
      SerialHost host;
      lowbit::linear_fp(host, x, kTokens, packed, nullptr, out);
    };
    check_linear("linear_fp, " + describe(format, kRows, kColumns), compute);
    check_extremes("linear_fp, " + describe(format, kRows, kColumns), compute);
  }
}

TEST(norm_and_gates) {
  SerialHost host;
  Random random(30);
  const auto clean = random.values(kTokens * 2 * kColumns), weight = random.values(kColumns);
  const auto check = [&](const char* what, int64_t width, auto compute) {
    auto expected = unwritten(kTokens * kColumns);
    compute(clean.data(), expected.data());
    for (const float bad : kBad) {
      auto x = clean;
      x[static_cast<size_t>(kBadToken * width + 5)] = bad;
      std::vector<float> out(expected.size(), 7.0f);
      compute(x.data(), out.data());
      const auto row = [&](std::vector<float>& y, int64_t t) {
        return &y[static_cast<size_t>(t * kColumns)];
      };
      for (int64_t t = 0; t < kTokens; ++t) {
        if (t == kBadToken ? none_finite(row(out, t) + 5, 1)
                           : same_bits(row(out, t), row(expected, t), kColumns)) {
          continue;
        }
        check::fail(__FILE__, __LINE__, std::string(what) + ": token " + std::to_string(t));
      }
    }
  };
  check("rms_norm", kColumns, [&](const float* x, float* out) {
    lowbit::rms_norm(host, x, kTokens, kColumns, weight.data(), 1e-5f, out);
  });
  check("layer_norm", kColumns, [&](const float* x, float* out) {
    lowbit::layer_norm(host, x, kTokens, kColumns, weight.data(), clean.data(), 1e-5f, out);
  });
  check("xielu", kColumns, [&](const float* x, float* out) {
    lowbit::xielu(host, x, kTokens * kColumns, kXielu, out);
  });
  for (const auto& [activation, name] : kActivations) {
    check(name, kColumns, [&, activate = activation](const float* x, float* out) {
      lowbit::activate(host, activate, x, kTokens * kColumns, out);
    });
    check(name, 2 * kColumns, [&, gate = activation](const float* x, float* out) {
      lowbit::gate_mul(host, gate, x, kTokens, kColumns, 0, 0, out);
    });
  }
}

TEST(attention_with_a_bad_query) { check_attention(kQuery, "attention with a bad query"); }
TEST(attention_with_a_bad_key) { check_attention(kKey, "attention with a bad key"); }
TEST(attention_with_a_bad_value) { check_attention(kValue, "attention with a bad value"); }

TEST(attention_with_all_its_parts) {
  check_attention(kQuery, "rich attention with a bad query", true);
  check_attention(kKey, "rich attention with a bad key", true);
  check_attention(kValue, "rich attention with a bad value", true);
  check_attention(kGate, "rich attention with a bad gate", true);
}

// A value beyond float16, as some models have them: infinite in that cache.
TEST(attention_with_a_value_beyond_float16) {
  for (const CacheType type : kCacheTypes) {
    for (const bool at_once : {true, false}) {
      SerialHost host;
      Scene clean = clean_scene(type), scene = clean_scene(type);
      scene.token(20)[kValue + 13] = 1e6f;
      clean.run(host, 0, 20);
      if (at_once) scene.run(host, 0, scene.positions);
      for (int64_t t = 0; !at_once && t < scene.positions; ++t) scene.run(host, t, 1);
      CHECK(same_bits(scene.out.data(), clean.out.data(), 20 * scene.out_width()));
    }
  }
}

KERNEL_TEST_MAIN()
