// The checks of attention's calls: what does not fit is a CallError that names the operator.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kernels/bindings/calls.h"
#include "kernels/state/state.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_calls.h"
#include "tests/cpp/kernel_data.h"

using namespace kernel_test;

namespace {

// 6 heads over 2 key/value heads of width 24, a context of 40 positions, a forward of 3 tokens at position
// 5 in the first of a model's two layers.
struct Attention {
  int64_t layer = 0, heads = 6, kv_heads = 2, head_dim = 24, window = 0;
  bool gated = false;
  double eps = 1e-5, scale = 0.2, softcap = 0;
  Tensor qkv = floats({3, 240}), out = floats({3, 144});
  std::optional<Tensor> q_norm, k_norm, sinks, state, segments;  // of the last two the right ones if none
  lowbit::LayerLayout layout{2, 24, 0};
  lowbit::CacheType cache = lowbit::CacheType::float32;
  int64_t start = 5, tokens = 3;
  bool begins = true;

  void call() {
    const std::vector<float> angles(12, 0.0f);  // every rotation is by 0
    const lowbit::OwnedState own(lowbit::Library::executorch, {{layout, {1, 16, lowbit::kNoRope}}, {{angles}}},
                                 {40, cache, 1});
    const int64_t blocks = (start + 15) / 16 * block_bytes(own->layout(), cache);
    const auto session = own->restore(std::vector<uint8_t>(static_cast<size_t>(blocks)), start);
    if (begins) own->begin(std::vector<int64_t>{session, tokens});
    if (!state) state = integers({1}, {own.handle()});
    if (!segments) segments = integers({1, 2}, {session, tokens});
    SerialHost host;
    TensorRef refs[3];
    const auto optional = [&](int i, std::optional<Tensor>& t) {
      if (t) refs[i] = *t;
      return t ? &refs[i] : nullptr;
    };
    lowbit::call_attention(host, qkv, *segments, *state, optional(0, q_norm), optional(1, k_norm),
                           optional(2, sinks), layer, heads, kv_heads, head_dim, window, false, gated,
                           eps, scale, softcap, out);
  }
};

// The call with one thing altered.
Wrong wrong(const char* what, const std::function<void(Attention&)>& alter) {
  return {what, [=] {
            Attention a;
            alter(a);
            a.call();
          }};
}

}  // namespace

TEST(attention_calls_that_fit) {
  Attention{}.call();
  const auto fits = [](const std::function<void(Attention&)>& alter) {
    Attention a;
    alter(a);
    a.call();
  };
  fits([](Attention& a) { a.start = 37; });  // up to the last position
  fits([](Attention& a) { a.window = INT64_MAX; });
  fits([](Attention& a) { a.layout.rope = lowbit::kNoRope; });
  fits([](Attention& a) { a.gated = true, a.qkv = floats({3, 16 * 24}); });
  fits([](Attention& a) { a.q_norm = floats({24}), a.k_norm = floats({48}); });
  fits([](Attention& a) { a.q_norm = floats({144}), a.k_norm = floats({24}); });
  fits([](Attention& a) { a.sinks = floats({6}), a.softcap = 50, a.scale = -1; });
  fits([](Attention& a) {
    a.heads = 2, a.kv_heads = 1, a.head_dim = 512, a.qkv = floats({3, 4 * 512});
    a.layout = {1, 512, 0}, a.out = floats({3, 1024});
  });
  fits([](Attention& a) { a.cache = lowbit::CacheType::float16; });
  fits([](Attention& a) { a.cache = lowbit::CacheType::int8; });
}

// 6 heads and 2 key/value heads of 24: queries are the first 144 of a token's 240 numbers. A
// float16 rounds to infinity from 65520 on.
TEST(numbers_beyond_a_float16_cache) {
  using lowbit::CacheType;
  const auto call = [](CacheType cache, int64_t start, size_t token, size_t column, float value) {
    Attention a;
    a.cache = cache;
    a.start = start;
    reinterpret_cast<float*>(a.qkv.bytes.data())[token * 240 + column] = value;
    a.call();
  };
  for (const int64_t start : {0, 13, 14, 15, 16, 37}) {
    for (const size_t token : {0, 2}) {
      for (const size_t column : {144, 167, 168, 191, 192, 215, 216, 239}) {
        for (const float value : {65504.0f, -65519.0f, NAN, INFINITY}) {
          call(CacheType::float16, start, token, column, value);  // fits, or was none before
        }
        for (const float value : {65520.0f, -7e4f, 1e30f}) {
          call(CacheType::float32, start, token, column, value);
          call(CacheType::int8, start, token, column, value);
          CHECK_THROWS(CallError, call(CacheType::float16, start, token, column, value),
                       "lowbit::attention: ", "65504", "--cache-dtype fp32");
        }
      }
      call(CacheType::float16, start, token, 143, 1e30f);  // a query
    }
  }
}

TEST(attention_calls_that_do_not) {
  using A = Attention&;
  Attention named;
  named.q_norm = floats({23});
  CHECK_THROWS(CallError, named.call(), "q_norm has shape [23]", "[144] is wanted");
  named = {};
  named.softcap = -2;
  CHECK_THROWS(CallError, named.call(), "softcap is -2");
  check_refused(
      "attention",
      {
          wrong("no tokens", [](A a) { a.qkv = floats({0, 240}), a.out = floats({0, 144}); }),
          wrong("a width that heads do not divide", [](A a) { a.qkv = floats({3, 241}); }),
          wrong("qkv float16", [](A a) { a.qkv = {Type::float16, {3, 240}}; }),
          wrong("no width", [](A a) { a.qkv = floats({3, 0}), a.out = floats({3, 0}); }),
          wrong("heads too wide",
                [](A a) {
                  a.head_dim = 513, a.qkv = floats({3, 10 * 513}), a.out = floats({3, 6 * 513});
                }),
          wrong("another head width", [](A a) { a.head_dim = 23; }),
          wrong("a head width of 0", [](A a) { a.head_dim = 0; }),
          wrong("a head width of -24", [](A a) { a.head_dim = -24; }),
          wrong("the largest head width", [](A a) { a.head_dim = INT64_MAX; }),
          wrong("gates that are not there", [](A a) { a.gated = true; }),
          wrong("gates that are not said", [](A a) { a.qkv = floats({3, 16 * 24}); }),
          wrong("a q_norm too short", [](A a) { a.q_norm = floats({23}); }),
          wrong("a q_norm for other heads", [](A a) { a.q_norm = floats({48}); }),
          wrong("a k_norm for all heads", [](A a) { a.k_norm = floats({144}); }),
          wrong("a k_norm of two dimensions", [](A a) { a.k_norm = floats({2, 24}); }),
          wrong("a q_norm float16", [](A a) { a.q_norm = Tensor(Type::float16, {24}); }),
          wrong("sinks for other heads", [](A a) { a.sinks = floats({2}); }),
          wrong("sinks of two dimensions", [](A a) { a.sinks = floats({1, 6}); }),
          wrong("sinks int64", [](A a) { a.sinks = integers({6}, {0, 0, 0, 0, 0, 0}); }),
          wrong("an epsilon of -1", [](A a) { a.eps = -1; }),
          wrong("a scale NaN", [](A a) { a.scale = NAN; }),
          wrong("a scale of 1e39", [](A a) { a.scale = 1e39; }),
          wrong("a soft cap of -1", [](A a) { a.softcap = -1; }),
          wrong("an infinite soft cap", [](A a) { a.softcap = INFINITY; }),
          wrong("7 heads over 2", [](A a) { a.heads = 7; }),
          wrong("no heads", [](A a) { a.heads = 0; }),
          wrong("-6 heads", [](A a) { a.heads = -6; }),
          wrong("no key/value heads", [](A a) { a.kv_heads = 0; }),
          wrong("-2 key/value heads", [](A a) { a.kv_heads = -2; }),
          wrong("too many heads", [](A a) { a.heads = INT64_MAX / 2 * 2, a.kv_heads = 2; }),
          wrong("too many key/value heads", [](A a) { a.heads = a.kv_heads = INT64_MAX; }),
          wrong("a window of -1", [](A a) { a.window = -1; }),
          wrong("other heads than the state's", [](A a) { a.layout.kv_heads = 3; }),
          wrong("heads of another width than the state's", [](A a) { a.layout.head_dim = 32; }),
          wrong("the second layer first", [](A a) { a.layer = 1; }),
          wrong("layer 2 of 2", [](A a) { a.layer = 2; }),
          wrong("layer -1", [](A a) { a.layer = -1; }),
          wrong("the least layer", [](A a) { a.layer = INT64_MIN; }),
          wrong("a forward that was not begun", [](A a) { a.begins = false; }),
          wrong("other tokens than the forward's", [](A a) { a.tokens = 2; }),
          wrong("other segments than the forward's",
                [](A a) { a.segments = integers({1, 2}, {1, 2}); }),
          wrong("two segments", [](A a) { a.segments = integers({2, 2}, {1, 3, 1, 3}); }),
          wrong("no segments", [](A a) { a.segments = integers({0, 2}, {}); }),
          wrong("segments of three numbers", [](A a) { a.segments = integers({1, 3}, {1, 3, 0}); }),
          wrong("float segments", [](A a) { a.segments = floats({1, 2}); }),
          wrong("no state", [](A a) { a.state = integers({1}, {0}); }),
          wrong("a made-up state", [](A a) { a.state = integers({1}, {INT64_MAX}); }),
          wrong("a negative state", [](A a) { a.state = integers({1}, {-1}); }),
          wrong("two states", [](A a) { a.state = integers({2}, {1, 1}); }),
          wrong("a float state", [](A a) { a.state = floats({1}); }),
          wrong("out too narrow", [](A a) { a.out = floats({3, 143}); }),
          wrong("out too short", [](A a) { a.out = floats({2, 144}); }),
      });
}

CHECK_MAIN()
