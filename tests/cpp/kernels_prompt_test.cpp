// Attention gives the same bits for a prompt in one chunk, in several and token by token, and after
// a position was rewound.

#include <algorithm>
#include <functional>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_attention.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;

namespace {

struct Case {
  AttentionShape shape;
  int64_t positions;
};

// heads, key/value heads, width, rotary width, interleaved, window. The longest cross the borders
// of two chunks of the cache.
constexpr Case kCases[] = {
    {{3, 1, 16, 16, false, 0}, 300},   {{2, 2, 40, 40, false, 33}, 300},
    {{4, 1, 64, 64, false, 20}, 270},  {{7, 1, 80, 40, true, 20}, 270},
    {{9, 1, 128, 128, false, 5}, 260}, {{1, 1, 256, 256, false, 0}, 40},
    {{2, 1, 5, 4, true, 300}, 520},    {{18, 2, 16, 16, false, 17}, 270},
};

// The lengths of a prompt's parts, one after the other.
using Parts = std::function<int64_t(int64_t begin)>;

int64_t one_by_one(int64_t) { return 1; }

int64_t mixed(int64_t begin) {
  constexpr int64_t kLengths[] = {1, 7, 1, 1, 2, 17, 5, 3, 64, 9};
  return kLengths[begin * 7 % 10];
}

void run_in_parts(Scene& scene, int64_t begin, int64_t end, const Parts& parts) {
  SerialHost host;
  while (begin < end) {
    const int64_t n = std::min(parts(begin), end - begin);
    scene.run(host, begin, n);
    begin += n;
  }
}

// Every case on every type of cache, run in one chunk.
const std::vector<Scene>& whole_scenes() {
  static const std::vector<Scene> scenes = [] {
    std::vector<Scene> result;
    for (const CacheType type : kCacheTypes) {
      Random random(15);
      for (const Case& c : kCases) {
        Scene& scene = result.emplace_back(random, c.shape, type, c.positions);
        run_in_parts(scene, 0, scene.positions, [&](int64_t) { return scene.positions; });
      }
      for (const RichCase& c : kRichCases) {
        Scene& scene = result.emplace_back(random, c.shape, type, c.positions, c.extras);
        run_in_parts(scene, 0, scene.positions, [&](int64_t) { return scene.positions; });
      }
    }
    return result;
  }();
  return scenes;
}

void check_same(const Scene& scene, const Scene& other, const char* what) {
  if (same_bits(scene.out, other.out) && scene.keys == other.keys && scene.values == other.values) {
    return;
  }
  check::fail(__FILE__, __LINE__,
              std::string(what) + ": other bits with " + describe(scene.shape, scene.type));
}

}  // namespace

TEST(a_prompt_in_parts) {
  for (const Scene& whole : whole_scenes()) {
    Scene scene = whole;
    scene.clear(0);
    run_in_parts(scene, 0, scene.positions, one_by_one);
    check_same(whole, scene, "token by token");
    scene.clear(0);
    run_in_parts(scene, 0, scene.positions, mixed);
    check_same(whole, scene, "in parts");
  }
}

// What was there before must not show, be it NaN.
TEST(a_cache_that_was_not_cleared) {
  for (const Scene& whole : whole_scenes()) {
    Scene scene = whole;
    Random random(16);
    for (std::vector<uint8_t>* bytes : {&scene.keys, &scene.values}) {
      for (uint8_t& byte : *bytes) byte = static_cast<uint8_t>(random.next());
    }
    run_in_parts(scene, 0, scene.positions, mixed);
    if (same_bits(whole.out, scene.out)) continue;
    check::fail(__FILE__, __LINE__,
                "what was there shows with " + describe(scene.shape, scene.type));
  }
}

TEST(a_rewound_position) {
  for (const Scene& whole : whole_scenes()) {
    Scene scene = whole;
    for (const int64_t back : {scene.positions - 1, scene.positions / 2, int64_t{17}, int64_t{0}}) {
      const int64_t end = std::min(scene.positions, back + 20);
      Random random(17);  // another continuation first
      for (auto i = back * scene.qkv_width(); i < end * scene.qkv_width(); ++i) {
        scene.qkv[static_cast<size_t>(i)] = random.value();
      }
      run_in_parts(scene, back, end, mixed);
      scene.qkv = whole.qkv;
      run_in_parts(scene, back, end, back % 2 == 0 ? Parts(one_by_one) : Parts(mixed));
      check_same(whole, scene, "rewound");
    }
  }
}

// Sessions that read one prompt at different paces, their blocks scattered over one cache.
TEST(several_sessions_in_a_forward) {
  constexpr int64_t kSessions = 4;
  SerialHost host;
  for (const Scene& whole : whole_scenes()) {
    Random random(18);
    const int64_t blocks = kSessions * whole.blocks(), width = whole.out_width();
    const auto bytes = static_cast<size_t>(
        whole.shape.kv_heads * blocks * lowbit::cache_block_bytes(whole.type, whole.shape.head_dim));
    std::vector<uint8_t> keys(bytes, 0xff), values(bytes, 0xff);
    const lowbit::Cache cache{whole.type, keys.data(), values.data(), blocks};
    std::vector<int32_t> tables[kSessions];
    for (int64_t i = 0; i < blocks; ++i) {
      tables[i % kSessions].push_back(static_cast<int32_t>((i * 7 + 3) % blocks));
    }
    if (blocks % 7 == 0) {  // then 7 is no step through all blocks
      for (auto& table : tables) table.clear();
      for (int64_t i = 0; i < blocks; ++i) tables[i % kSessions].push_back(static_cast<int32_t>(i));
    }
    int64_t at[kSessions] = {};
    while (*std::ranges::min_element(at) < whole.positions) {
      std::vector<lowbit::Segment> segments;
      std::vector<float> qkv, expected;
      for (int64_t s = 0; s < kSessions; ++s) {
        const int64_t most = random.below(3) == 0 ? 40 : 2, left = whole.positions - at[s];
        const int64_t n = std::min<int64_t>(random.below(most + 1), left);
        if (n == 0) continue;
        const auto from = whole.qkv.begin() + at[s] * whole.qkv_width();
        qkv.insert(qkv.end(), from, from + n * whole.qkv_width());
        const auto out = whole.out.begin() + at[s] * width;
        expected.insert(expected.end(), out, out + n * width);
        segments.push_back({n, at[s], tables[s].data()});
        at[s] += n;
      }
      if (segments.empty()) continue;
      auto out = unwritten(std::ssize(expected));
      lowbit::attention(host, qkv.data(), segments, whole.cos.data(), whole.sin.data(),
                        whole.shape_with_weights(), cache, out.data());
      if (same_bits(out, expected)) continue;
      check::fail(__FILE__, __LINE__,
                  "others in a forward show with " + describe(whole.shape, whole.type));
      break;
    }
  }
}

KERNEL_TEST_MAIN()
