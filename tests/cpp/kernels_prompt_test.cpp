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

// heads, key/value heads, width, rotary width, interleaved, window. The longest cross the borders of
// two chunks of the cache.
constexpr Case kCases[] = {
    {{3, 1, 16, 16, false, 0}, 530},  {{2, 2, 40, 40, false, 33}, 300},
    {{4, 1, 64, 64, false, 0}, 270},  {{7, 1, 80, 40, true, 20}, 270},
    {{9, 1, 128, 128, false, 5}, 260}, {{1, 1, 256, 256, false, 0}, 40},
    {{4, 2, 5, 4, true, 300}, 520},   {{18, 2, 16, 16, false, 17}, 270},
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

template <typename Check>
void for_each_scene(Check check) {
  for (const CacheType type : kCacheTypes) {
    Random random(15);
    for (const Case& c : kCases) {
      Scene scene(random, c.shape, type, c.positions);
      run_in_parts(scene, 0, scene.positions, [&](int64_t) { return scene.positions; });
      check(scene);
    }
  }
}

void check_same(const Scene& scene, const Scene& other, const char* what) {
  if (same_bits(scene.out, other.out) && scene.keys == other.keys && scene.values == other.values) {
    return;
  }
  check::fail(__FILE__, __LINE__, std::string(what) + ": other bits with " +
              describe(scene.shape, scene.type));
}

}  // namespace

TEST(a_prompt_in_parts) {
  for_each_scene([](const Scene& whole) {
    Scene scene = whole;
    const auto in_parts = [&](const char* what, const Parts& parts) {
      scene.clear(0);
      run_in_parts(scene, 0, scene.positions, parts);
      check_same(whole, scene, what);
    };
    in_parts("token by token", one_by_one);
    in_parts("mixed", mixed);
    in_parts("chunks of 256", [](int64_t) { return 256; });
    in_parts("100 and the rest one by one", [](int64_t begin) { return begin == 0 ? 100 : 1; });
  });
}

// What was there before must not show: positions that a token may not see weigh nothing.
TEST(a_cache_with_other_contents) {
  for_each_scene([](const Scene& whole) {
    Scene scene = whole;
    Random random(16);
    scene.qkv = random.values(static_cast<int64_t>(scene.qkv.size()), 3);
    run_in_parts(scene, 0, scene.positions, mixed);
    scene.qkv = whole.qkv;
    run_in_parts(scene, 0, scene.positions, mixed);
    check_same(whole, scene, "a used cache");
  });
}

// A cache that nobody has written to may hold anything, as NaN.
TEST(a_cache_that_was_not_cleared) {
  for_each_scene([](const Scene& whole) {
    Scene scene = whole;
    for (const Parts& parts : {Parts(one_by_one), Parts(mixed)}) {
      scene.clear(0xff);
      run_in_parts(scene, 0, scene.positions, parts);
      if (same_bits(whole.out, scene.out)) continue;
      check::fail(__FILE__, __LINE__, "a cache full of NaN shows with " +
                  describe(scene.shape, scene.type));
    }
  });
}

TEST(a_rewound_position) {
  for_each_scene([](const Scene& whole) {
    Scene scene = whole;
    for (const int64_t back : {scene.positions - 1, scene.positions / 2, int64_t{17}, int64_t{0}}) {
      const int64_t end = std::min(scene.positions, back + 20);
      Random random(17);  // another continuation first
      const auto tokens = scene.qkv;
      for (auto i = back * scene.qkv_width(); i < end * scene.qkv_width(); ++i) {
        scene.qkv[static_cast<size_t>(i)] = random.value();
      }
      run_in_parts(scene, back, end, mixed);
      scene.qkv = tokens;
      run_in_parts(scene, back, end, back % 2 == 0 ? Parts(one_by_one) : Parts(mixed));
      check_same(whole, scene, "rewound");
    }
  });
}

KERNEL_TEST_MAIN()
