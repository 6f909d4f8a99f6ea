// Each operator gives the same bits on every number of threads. What it reports is compared across
// instruction sets, and by scripts/test_aarch64.sh across machines.

#include <functional>

#include "kernels/lowbit.h"
#include "system/thread_pool.h"
#include "tests/cpp/kernel_attention.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;
using lowbit::ActivationScales;

namespace {

// Runs `compute` on 1, 2, 3 and 5 threads, and reports the results' hash.
void check_threads(const std::string& what,
                   const std::function<void(lowbit::Host&, std::vector<float>& out)>& compute) {
  runner::ThreadPool one(1);
  std::vector<float> expected;
  compute(one, expected);
  for (const int threads : {2, 3, 5}) {
    if (kSanitized && threads != 3) continue;
    runner::ThreadPool pool(threads);
    std::vector<float> out;
    compute(pool, out);
    if (!same_bits(out, expected)) {
      check::fail(__FILE__, __LINE__,
                  what + ": other bits on " + std::to_string(threads) + " threads");
    }
  }
  Hash hash;
  hash.add(expected);
  report(what, hash);
}

// Appends n floats to `out` and returns the first.
float* more(std::vector<float>& out, int64_t n) {
  const auto room = unwritten(n);
  out.insert(out.end(), room.begin(), room.end());
  return out.data() + (static_cast<int64_t>(out.size()) - n);
}

constexpr int64_t kRows = 330, kColumns = 176;  // 21 panels

void check_linears(const char* name, uint32_t bits, auto linear) {
  Random random(18);
  std::vector<Weight> weights;
  for (const uint32_t group_size : {16u, 32u, 176u}) {
    for (const Zeros zeros : {Zeros::none, Zeros::integer, Zeros::real}) {
      weights.push_back(
          random_weight(random, {Kind::integer, bits, group_size, zeros}, kRows, kColumns));
    }
  }
  const auto x = random.values(17 * kColumns), bias = random.values(kRows);
  check_threads(name + std::string(", ") + std::to_string(bits) + " bits",
                [&](lowbit::Host& host, std::vector<float>& out) {
                  for (const Weight& w : weights) {
                    for (const int64_t tokens : {1, 3, 17}) {
                      linear(host, x.data(), tokens, w.packed, bias.data(),
                             more(out, tokens * kRows));
                    }
                  }
                });
}

}  // namespace

TEST(linear_a8wx) {
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    check_linears("linear_a8wx, group scales", bits,
                  [](lowbit::Host& host, const float* x, int64_t tokens, const PackedWeight& w,
                     const float* bias, float* out) {
                    lowbit::linear_a8wx(host, x, tokens, w, ActivationScales::group, bias, out);
                  });
    check_linears("linear_a8wx, token scales", bits,
                  [](lowbit::Host& host, const float* x, int64_t tokens, const PackedWeight& w,
                     const float* bias, float* out) {
                    lowbit::linear_a8wx(host, x, tokens, w, ActivationScales::token, bias, out);
                  });
  }
}

// A tile so wide that threads share out the groups of its activations.
TEST(wide_linear_a8wx) {
  constexpr int64_t kFew = 20, kWide = 20010;
  Random random(24);
  const auto x = random.values(4 * kWide);
  for (const uint32_t group_size : {32u, 48u}) {
    const Weight w = random_weight(
        random, {Kind::integer, 4, group_size, Zeros::integer}, kFew, kWide);
    check_threads("linear_a8wx, wide, groups of " + std::to_string(group_size),
                  [&](lowbit::Host& host, std::vector<float>& out) {
                    for (const int64_t tokens : {1, 3, 4}) {
                      lowbit::linear_a8wx(host, x.data(), tokens, w.packed, ActivationScales::group,
                                          nullptr, more(out, tokens * kFew));
                    }
                  });
  }
}

TEST(linear_wx) {
  for (const uint32_t bits : {4u, 8u}) check_linears("linear_wx", bits, lowbit::linear_wx);
}

TEST(linear_fp) {
  const std::pair<Kind, const char*> kinds[] = {
      {Kind::float32, "float32"}, {Kind::float16, "float16"}, {Kind::bfloat16, "bfloat16"}};
  for (const auto& [kind, name] : kinds) {
    Random random(19);
    const Format format{kind, kind == Kind::float32 ? 32u : 16u, 0, Zeros::none};
    const auto weights = random.values(kRows * 600), x = random.values(13 * 600);
    std::vector<uint8_t> bytes(lowbit::packed_size(format, kRows, 600));
    lowbit::pack_float(format, kRows, 600, weights.data(), bytes.data());
    PackedWeight packed;
    CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &packed), "");
    check_threads(
        std::string("linear_fp, ") + name, [&](lowbit::Host& host, std::vector<float>& out) {
          for (const int64_t tokens : {1, 2, 13}) {
            lowbit::linear_fp(host, x.data(), tokens, packed, nullptr, more(out, tokens * kRows));
          }
        });
  }
}

TEST(embedding) {
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    Random random(20);
    const Weight w = random_weight(random, {Kind::integer, bits, 32, Zeros::integer}, kRows, 2000);
    std::vector<int64_t> tokens;
    for (int i = 0; i < 40; ++i) tokens.push_back(random.below(kRows));
    check_threads("embedding, " + std::to_string(bits) + " bits", [&](lowbit::Host& host,
                                                                      std::vector<float>& out) {
      CHECK(lowbit::embedding(host, tokens.data(), 40, w.packed, more(out, 40 * 2000)));
    });
  }
}

TEST(norm_gates_and_sums) {
  Random random(21);
  constexpr int64_t kTokens = 29, kWidth = 1000;
  const auto x = random.values(2 * kTokens * kWidth, 8), weight = random.values(kWidth);
  check_threads("rms_norm", [&](lowbit::Host& host, std::vector<float>& out) {
    lowbit::rms_norm(host, x.data(), kTokens, kWidth, weight.data(), 1e-5f,
                     more(out, kTokens * kWidth));
  });
  check_threads("layer_norm", [&](lowbit::Host& host, std::vector<float>& out) {
    lowbit::layer_norm(host, x.data(), kTokens, kWidth, weight.data(), weight.data(), 1e-5f,
                       more(out, kTokens * kWidth));
  });
  check_threads("xielu", [&](lowbit::Host& host, std::vector<float>& out) {
    lowbit::xielu(host, x.data(), kTokens * kWidth, kXielu, more(out, kTokens * kWidth));
  });
  for (const auto& [activation, name] : kActivations) {
    check_threads(name, [&, one = activation](lowbit::Host& host, std::vector<float>& out) {
      lowbit::activate(host, one, x.data(), kTokens * kWidth, more(out, kTokens * kWidth));
    });
    check_threads(name, [&, gate = activation](lowbit::Host& host, std::vector<float>& out) {
      lowbit::gate_mul(host, gate, x.data(), kTokens, kWidth, 0, 0, more(out, kTokens * kWidth));
    });
  }
  check_threads("add", [&](lowbit::Host& host, std::vector<float>& out) {
    const float* other = x.data() + kTokens * kWidth;
    lowbit::add(host, x.data(), other, kTokens * kWidth, more(out, kTokens * kWidth));
    lowbit::add(host, x.data(), other, 33, more(out, 33));
  });
}

TEST(attention) {
  struct Rotary {
    int64_t width;
    bool interleaved;
  };
  for (const CacheType type : kCacheTypes) {
    Random random(22);
    for (const int64_t head_dim : {16, 40, 64, 80, 128, 256}) {
      std::vector<Scene> scenes;
      const Rotary kinds[] = {{head_dim, false}, {head_dim, true}, {head_dim / 2 / 2 * 2, false}};
      for (const int64_t heads_each : {1, 3, 4, 7, 9}) {
        const Rotary rotary = kinds[heads_each % 3];
        const AttentionShape shape{2 * heads_each,     2,
                                   head_dim,           rotary.width,
                                   rotary.interleaved, heads_each % 4 == 3 ? 21 : 0};
        scenes.emplace_back(random, shape, type, 25);
      }
      check_threads(
          "attention, width " + std::to_string(head_dim) + ", " + name_of(type) + " cache",
          [&](lowbit::Host& host, std::vector<float>& out) {
            for (Scene& scene : scenes) {
              scene.clear(0);
              scene.run(host, 0, 24);
              scene.run(host, 24, 1);
              out.insert(out.end(), scene.out.begin(), scene.out.end());
            }
          });
    }
  }
}

TEST(attention_with_all_its_parts) {
  for (const CacheType type : kCacheTypes) {
    Random random(42);
    std::vector<Scene> scenes;
    for (const RichCase& c : kRichCases) {
      scenes.emplace_back(random, c.shape, type, c.positions, c.extras);
    }
    check_threads(std::string("attention with all its parts, ") + name_of(type) + " cache",
                  [&](lowbit::Host& host, std::vector<float>& out) {
                    for (Scene& scene : scenes) {
                      scene.clear(0);
                      scene.run(host, 0, scene.positions - 3);
                      for (int64_t i = 3; i > 0; --i) scene.run(host, scene.positions - i, 1);
                      out.insert(out.end(), scene.out.begin(), scene.out.end());
                    }
                  });
  }
}

// Past the cache's first chunk, where one token's work is split by chunks.
TEST(attention_over_several_chunks) {
  for (const CacheType type : kCacheTypes) {
    Random random(23);
    std::vector<Scene> scenes;
    for (const int64_t window : {0, 33, 270}) {
      scenes.emplace_back(random, AttentionShape{3, 1, 16, 16, false, window}, type, 301);
    }
    check_threads(std::string("attention over several chunks, ") + name_of(type) + " cache",
                  [&](lowbit::Host& host, std::vector<float>& out) {
                    for (Scene& scene : scenes) {
                      scene.clear(0);
                      scene.run(host, 0, 291);
                      for (int64_t t = 291; t < 301; ++t) scene.run(host, t, 1);
                      out.insert(out.end(), scene.out.begin(), scene.out.end());
                    }
                  });
  }
}

KERNEL_TEST_MAIN()
