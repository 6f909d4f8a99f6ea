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

KERNEL_TEST_MAIN()
