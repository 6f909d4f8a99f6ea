// States: sessions, blocks that are shared until written, handles, and the rotary tables.

#include "kernels/state/state.h"

#include <cmath>
#include <map>
#include <random>

#include "kernels/state/sin_cos.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace lowbit;

namespace {

// Two layers, of 2 and 1 key/value heads.
const StateLayout kLayout{{{2, 4, kNoRope}, {1, 20, 0}}, {{{1.0f, 0.5f}}}};
const StateOptions kOptions{100, CacheType::float16, 3};

OwnedState make(StateOptions options = kOptions, Library library = Library::executorch) {
  return OwnedState(library, kLayout, options);
}

// The bytes of one position's part of a block: of each head's keys and values, of all layers.
template <class F>
void each_byte(const LayerState& layer, const Segment& segment, int64_t position, F f) {
  const int64_t bytes = cache_block_bytes(layer.cache.type, layer.layout.head_dim);
  for (void* all : {layer.cache.keys, layer.cache.values}) {
    for (int64_t head = 0; head < layer.layout.kv_heads; ++head) {
      auto* block = static_cast<uint8_t*>(all) +
                    (head * layer.cache.blocks + segment.blocks[position / kBlock]) * bytes;
      f(block[position % kBlock]);
    }
  }
}

// Reads tokens of a session; the layers write each token's number to the caches. Returns what the last
// token sees there, a number a position, and CHECKs that all layers and heads agree.
std::vector<uint8_t> read(State& state, const std::vector<std::pair<SessionId, std::vector<uint8_t>>>& turns) {
  std::vector<int64_t> segments;
  for (const auto& [session, tokens] : turns) {
    segments.insert(segments.end(), {session, std::ssize(tokens)});
  }
  state.begin(segments);
  std::vector<uint8_t> seen;
  for (int64_t l = 0; l < 2; ++l) {
    const LayerState layer = state.enter(l, segments);
    size_t at = 0;
    for (size_t s = 0; s < turns.size(); ++s) {
      const Segment& segment = layer.segments[s];
      for (int64_t i = 0; i < segment.tokens; ++i) {
        each_byte(layer, segment, segment.start + i,
                  [&](uint8_t& byte) { byte = turns[s].second[static_cast<size_t>(i)]; });
      }
      for (int64_t p = 0; p < segment.start + segment.tokens; ++p, ++at) {
        each_byte(layer, segment, p, [&](uint8_t byte) {
          if (at == seen.size()) seen.push_back(byte);
          CHECK_EQ(byte, seen[at]);
        });
      }
    }
  }
  state.end();
  return seen;
}

std::vector<uint8_t> numbers(size_t n, uint8_t first) {
  std::vector<uint8_t> list(n);
  for (size_t i = 0; i < n; ++i) list[i] = static_cast<uint8_t>(first + i);
  return list;
}

}  // namespace

TEST(a_session_keeps_what_it_read) {
  const auto state = make();
  const SessionId a = state->open();
  read(*state, {{a, numbers(20, 1)}});
  CHECK_EQ(state->position(a), 20);
  CHECK_EQ(read(*state, {{a, numbers(5, 21)}}), numbers(25, 1));
  state->rewind(a, 3);
  auto expected = numbers(3, 1);
  expected.push_back(99);
  CHECK_EQ(read(*state, {{a, {99}}}), expected);
}

TEST(forks_share_until_one_writes) {
  for (const size_t length : {5u, 16u, 17u, 40u}) {
    const auto state = make();
    const SessionId a = state->open();
    read(*state, {{a, numbers(length, 1)}});
    const SessionId b = state->fork(a);
    CHECK_EQ(state->position(b), std::ssize(numbers(length, 1)));
    auto expected = numbers(length, 1);
    expected.push_back(200);
    CHECK_EQ(read(*state, {{b, {200}}}), expected);
    expected.back() = 100;
    CHECK_EQ(read(*state, {{a, {100}}}), expected);
    state->drop(a);
    expected.back() = 200;
    expected.push_back(201);
    CHECK_EQ(read(*state, {{b, {201}}}), expected);
  }
}

// Sessions against a list of numbers each, through all that can be done with them.
TEST(any_sequence_of_what_can_be_done) {
  std::mt19937 random(7);
  for (int run = 0; run < 60; ++run) {
    const auto state = make();
    std::map<SessionId, std::vector<uint8_t>> model;
    const auto any = [&] {
      auto at = model.begin();
      std::advance(at, random() % model.size());
      return at;
    };
    for (int step = 0; step < 80; ++step) {
      const unsigned what = random() % 8;
      if (model.empty() || (what == 0 && model.size() < 3)) {
        model[state->open()] = {};
      } else if (what == 1 && model.size() < 3) {
        const auto from = any();
        model[state->fork(from->first)] = from->second;
      } else if (what == 2) {
        const auto gone = any();
        state->drop(gone->first);
        model.erase(gone);
      } else if (what == 3) {
        const auto it = any();
        const size_t left = random() % (it->second.size() + 1);
        state->rewind(it->first, static_cast<int64_t>(left));
        it->second.resize(left);
      } else if (what == 4 && model.size() < 3) {
        const auto from = any();
        const std::vector<uint8_t> saved = state->save(from->first);
        model[state->restore(saved, std::ssize(from->second))] = from->second;
      } else {
        std::vector<std::pair<SessionId, std::vector<uint8_t>>> turns;
        std::vector<uint8_t> expected;
        for (auto& [session, tokens] : model) {
          const size_t n = std::min<size_t>(random() % 24, 100 - tokens.size());
          if (n == 0) continue;
          const auto more = numbers(n, static_cast<uint8_t>(random()));
          turns.emplace_back(session, more);
          tokens.insert(tokens.end(), more.begin(), more.end());
          expected.insert(expected.end(), tokens.begin(), tokens.end());
        }
        if (!turns.empty()) CHECK_EQ(read(*state, turns), expected);
      }
      for (const auto& [session, tokens] : model) {
        CHECK_EQ(state->position(session), std::ssize(tokens));
      }
    }
  }
}

TEST(what_cannot_be_asked_for_changes_nothing) {
  const auto state = make();
  const SessionId a = state->open(), b = state->open();
  read(*state, {{a, numbers(90, 0)}});
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{a, 11}), "11 tokens at position 90", "100");
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{b, 1, b, 1}), "twice");
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{b, 0}), "0 tokens");
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{b, INT64_MAX}), "context");
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{b}), "session and its number");
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{}), "one segment or more");
  CHECK_THROWS(StateError, state->begin(std::vector<int64_t>{77, 1}), "no session 77");
  CHECK_THROWS(StateError, state->rewind(a, 91), "rewound to 91");
  CHECK_THROWS(StateError, state->rewind(a, -1), "rewound to -1");
  CHECK_THROWS(StateError, state->restore({}, 101), "101 positions");
  CHECK_THROWS(StateError, state->restore(std::vector<uint8_t>(7), 3), "not 7");
  const SessionId c = state->fork(a);
  CHECK_THROWS(StateError, state->open(), "all 3 sessions");
  CHECK_THROWS(StateError, state->fork(a), "all 3 sessions");
  state->drop(c);
  CHECK_THROWS(StateError, state->drop(c), "dropped");
  CHECK_THROWS(StateError, state->position(c), "dropped");
  CHECK_EQ(state->position(a), 90);
}

TEST(a_forward_is_whole_or_none) {
  const auto state = make();
  const SessionId a = state->open();
  const std::vector<int64_t> segments{a, 4};
  CHECK_THROWS(StateError, state->enter(0, segments), "no forward was begun");
  CHECK_THROWS(StateError, state->end(), "no forward");
  state->begin(segments);
  CHECK_THROWS(StateError, state->begin(segments), "is running");
  CHECK_THROWS(StateError, state->open(), "is running");
  CHECK_THROWS(StateError, state->rewind(a, 0), "is running");
  CHECK_THROWS(StateError, state->drop(a), "is running");
  CHECK_THROWS(StateError, state->enter(1, segments), "layer 1 came where layer 0 of 2");
  CHECK_THROWS(StateError, state->enter(0, std::vector<int64_t>{a, 5}), "not those");
  state->enter(0, segments);
  CHECK_THROWS(StateError, state->enter(0, segments), "layer 0 came where layer 1");
  CHECK_THROWS(StateError, state->end(), "1 of 2 layers");
  CHECK_EQ(state->position(a), 0);
  const std::vector<int64_t> many{a, 40};  // several blocks
  read(*state, {{a, numbers(5, 1)}});
  state->begin(many);
  state->enter(0, many);
  state->abandon();
  CHECK_EQ(state->position(a), 5);
  const SessionId b = state->fork(a);
  read(*state, {{a, numbers(40, 50)}});
  read(*state, {{b, numbers(40, 150)}});
  auto expected = numbers(5, 1), more = numbers(41, 50);
  more.back() = 7;
  expected.insert(expected.end(), more.begin(), more.end());
  CHECK_EQ(read(*state, {{a, {7}}}), expected);
  state->restore(state->save(b), 45);
  state->rewind(a, 0);
  CHECK_EQ(read(*state, {{a, numbers(4, 9)}}), numbers(4, 9));
}

TEST(a_handle_is_known_as_long_as_its_state_lives) {
  int64_t handle = 0;
  {
    const auto state = make();
    handle = state.handle();
    CHECK(find_state(handle).get() == &*state);
    CHECK_THROWS(StateError, find_state(handle + 1), "no such state was made");
    CHECK_THROWS(StateError, find_state(handle + (int64_t{1} << 16)), "no such state was made");
    const int64_t generations = int64_t{1} << 56;  // the next library's numbers
    CHECK_THROWS(StateError, find_state(handle + generations), "of the AOTInductor runner");
    CHECK_THROWS(StateError, find_state(handle + 2 * generations), "of PyTorch's library");
    for (const int64_t none : {int64_t{0}, int64_t{-1}, INT64_MAX, INT64_MIN, int64_t{1}}) {
      CHECK_THROWS(StateError, find_state(none), "no library makes such a number");
    }
  }
  CHECK_THROWS(StateError, find_state(handle), "was dropped");
  const auto other = make();
  CHECK(other.handle() != handle);
  CHECK_THROWS(StateError, find_state(handle), "was dropped");
}

TEST(layouts_and_options_that_cannot_be) {
  const auto refused = [](const StateLayout& layout, const StateOptions& options, const char* word) {
    CHECK_THROWS(StateError, OwnedState(Library::executorch, layout, options), word);
  };
  refused(kLayout, {0, CacheType::float16, 1}, "context length is 0");
  refused(kLayout, {kMostContext + 1, CacheType::float16, 1}, "context length");
  refused(kLayout, {16, CacheType::float16, 0}, "sessions is 0");
  refused(kLayout, {16, CacheType::float16, kMostSessions + 1}, "sessions");
  refused({{{1, 0, kNoRope}}, {}}, kOptions, "head width is 0");
  refused({{{1, 513, kNoRope}}, {}}, kOptions, "head width is 513");
  refused({{{0, 8, kNoRope}}, {}}, kOptions, "key/value heads is 0");
  refused({{{1, 8, 0}}, {}}, kOptions, "rotary embedding is 0");
  refused({{{1, 8, -2}}, {}}, kOptions, "rotary embedding is -2");
  refused({{{1, 8, 0}}, {{std::vector<float>(5)}}}, kOptions, "rotary width is 10");
  refused({{{1, 8, 0}}, {{{1e30f}}}}, kOptions, "frequency");
  refused({{{1, 8, 0}}, {{{-1.0f}}}}, kOptions, "frequency");
  refused({{{1, 8, 0}}, {{{NAN}}}}, kOptions, "frequency");
  refused({{{1, 8, 0}}, {{{1.0f}, 1, 16, {}}}}, kOptions, "1 frequencies for short contexts and 0");
  refused({{{1, 8, 0}}, {{.frequencies = {1.0f}, .query_factors = {1.0f, 1.5f}, .query_span = 49}}}, kOptions,
          "2 factors of queries, each of 49 positions, are fewer than a context of 100 needs");
  refused({{{1, 8, 0}}, {{.frequencies = {1.0f}, .query_factors = {1.0f}, .query_span = 0}}}, kOptions,
          "share a factor of queries is 0");
  refused({std::vector<LayerLayout>(1000, {1 << 16, 512, kNoRope}), {}},
          {kMostContext, CacheType::float32, 1000}, "larger than any memory");
}

TEST(memory_is_as_the_arithmetic_says) {
  // float16: keys and values, 2 heads of 4 (16 with padding) and one of 20 (32).
  CHECK_EQ(block_bytes(kLayout, CacheType::float16), 2 * 16 * 2 * (2 * 16 + 32));
  CHECK_EQ(block_bytes(kLayout, CacheType::int8), 2 * (16 * (2 * 16 + 32) + 3 * 64));
  CHECK_EQ(state_bytes(kLayout, kOptions),
           3 * 7 * block_bytes(kLayout, CacheType::float16) + 2 * 2 * 4 * 100);
}

// Against the C library's, which is off by less than a bit of double; and a hash, which every machine gives.
TEST(sine_and_cosine) {
  std::mt19937 random(3);
  kernel_test::Hash hash;
  for (int i = 0; i < 300000; ++i) {
    const auto digits = static_cast<float>(random());
    const int exponent = static_cast<int>(random() % 40) - 44;
    const float x = i < 1000 ? static_cast<float>(i) : std::ldexp(digits, exponent);
    if (x > kLargestAngle) continue;
    const SinCos found = sin_cos(x);
    CHECK(std::fabs(found.sin - std::sin(double{x})) < 1e-15);
    CHECK(std::fabs(found.cos - std::cos(double{x})) < 1e-15);
    const float both[] = {static_cast<float>(found.sin), static_cast<float>(found.cos)};
    hash.add(both);
  }
  kernel_test::report("sine and cosine", hash);
}

TEST(rotary_tables_are_of_rounded_angles) {
  RotaryTable table({1.0f, 0.1f, 0.0f}, 1, 3000);
  table.fill(10);
  table.fill(2500);
  for (const int64_t p : {0, 1, 9, 10, 777, 2499}) {
    const float angle = static_cast<float>(p) * 0.1f;
    CHECK_EQ(table.cos()[3 * p + 1], static_cast<float>(std::cos(double{angle})));
    CHECK_EQ(table.sin()[3 * p + 1], static_cast<float>(std::sin(double{angle})));
    CHECK_EQ(table.cos()[3 * p + 2], 1.0f);
    CHECK_EQ(table.sin()[3 * p + 2], 0.0f);
  }
}

TEST(rotary_tables_are_multiplied_before_they_are_rounded) {
  RotaryTable table({0.1f}, 1.25f, 100);
  table.fill(50);
  for (const int64_t p : {0, 1, 49}) {
    const float angle = static_cast<float>(p) * 0.1f;
    CHECK_EQ(table.cos()[p], static_cast<float>(1.25 * std::cos(double{angle})));
    CHECK_EQ(table.sin()[p], static_cast<float>(1.25 * std::sin(double{angle})));
  }
}

TEST(longer_contexts_may_have_other_frequencies) {
  const Rope rope{{0.5f, 0.25f}, 1, 16, {0.125f, 0.0625f}};
  CHECK_EQ(rope.of_context(16), rope.frequencies);
  CHECK_EQ(rope.of_context(17), rope.long_frequencies);
  CHECK_EQ(kLayout.ropes[0].of_context(kMostContext), kLayout.ropes[0].frequencies);
  for (const int64_t context : {16, 17}) {
    const OwnedState state(Library::executorch, {{{1, 4, 0}}, {rope}}, {context, CacheType::float32, 1});
    const SessionId id = state->open();
    const int64_t segments[] = {id, 2};
    state->begin(segments);
    const float angle = rope.of_context(context)[0];
    CHECK_EQ(state->enter(0, segments).cos[2], static_cast<float>(std::cos(double{angle})));
    state->end();
  }
}

TEST(a_layer_has_the_factors_of_its_rotation) {
  const Rope plain{{0.5f}}, growing{.frequencies = {0.5f}, .query_factors = {1.0f, 1.25f}, .query_span = 8};
  const OwnedState state(Library::executorch, {{{1, 4, 0}, {1, 4, 1}, {1, 4, kNoRope}}, {plain, growing}},
                         {16, CacheType::float32, 1});
  const int64_t segments[] = {state->open(), 1};
  state->begin(segments);
  std::vector<float> found;
  for (int64_t layer = 0; layer < 3; ++layer) {
    const QueryFactors factors = state->enter(layer, segments).query_factors;
    for (const int64_t p : {0, 7, 8, 15}) found.push_back(factors.at(p));
  }
  CHECK_EQ(found, (std::vector<float>{1, 1, 1, 1, 1, 1, 1.25f, 1.25f, 1, 1, 1, 1}));
  state->end();
}

CHECK_MAIN()
