// Sessions of one model: alone, forked, in one forward, saved.

#include "model/session.h"

#include "model/saved_session.h"
#include "system/error.h"
#include "tests/cpp/check.h"
#include "tests/cpp/fake_model.h"

using namespace runner;
using lowbit::StateError;

namespace {

using Ids = std::vector<int32_t>;

const Ids kPrompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};

int32_t likeliest(const Session& session) {
  return static_cast<int32_t>(std::ranges::max_element(session.logits()) - session.logits().begin());
}

int32_t expected_after(const FakeModel& model, const Ids& tokens) { return model.expected(tokens, 1)[0]; }

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST(a_fork_goes_its_own_way) {
  FakeModel model;
  Session a = model.session(0, 3);
  a.append(kPrompt);
  Session b = a.fork();
  CHECK_EQ(likeliest(b), expected_after(model, kPrompt));
  b.append(Ids{7});
  a.append(Ids{8});
  CHECK_EQ(likeliest(a), expected_after(model, joined(kPrompt, {8})));
  CHECK_EQ(likeliest(b), expected_after(model, joined(kPrompt, {7})));
  b.rewind(2);
  b.append(Ids{9});
  CHECK_EQ(likeliest(b), expected_after(model, {3, 1, 9}));
  CHECK_THROWS(StateError, (a.fork(), b.fork(), a.fork()), "all 3 sessions");
}

TEST(a_session_that_ends_gives_its_place_back) {
  FakeModel model;
  const auto state = model.make_state({});
  for (int i = 0; i < 3; ++i) {
    Session session(model, state);
    session.append(kPrompt);
    CHECK_THROWS(StateError, Session(model, state), "all 1 sessions");
  }
  CHECK_EQ((*state)->open_sessions(), 0);
}

TEST(sessions_in_one_forward) {
  FakeModel model;
  const auto state = model.make_state({.sessions = 3});
  Session a(model, state), b(model, state), c(model, state);
  a.append(Ids{1, 2, 3});
  b.append(kPrompt);
  model.calls.clear();
  const Ids of_a = {4, 5}, of_b = {6}, of_c = {7, 8, 9};
  append_together(std::vector<Turn>{{&a, of_a}, {&b, of_b}, {&c, of_c}});
  CHECK_EQ(model.calls.size(), size_t{3});  // segments of one forward
  CHECK_EQ(likeliest(a), expected_after(model, {1, 2, 3, 4, 5}));
  CHECK_EQ(likeliest(b), expected_after(model, joined(kPrompt, {6})));
  CHECK_EQ(likeliest(c), expected_after(model, {7, 8, 9}));

  std::vector<float> room;
  const auto rows = append_for_rows(std::vector<Turn>{{&a, of_b}, {&c, of_c}}, room);
  CHECK_EQ(rows.size(), size_t{4 * 50});
  const auto row = [&](size_t i) {
    const auto part = rows.subspan(i * 50, 50);
    return static_cast<int32_t>(std::ranges::max_element(part) - part.begin());
  };
  CHECK_EQ(row(0), expected_after(model, {1, 2, 3, 4, 5, 6}));
  CHECK_EQ(row(1), expected_after(model, {7, 8, 9, 7}));
  CHECK_EQ(row(3), expected_after(model, {7, 8, 9, 7, 8, 9}));
}

TEST(forwards_of_sessions_that_cannot_run) {
  FakeModel model;
  const auto state = model.make_state({.sessions = 4});
  Session a(model, state), b(model, state), c(model, state), d(model, state);
  const Ids one = {1}, five = {1, 2, 3, 4, 5}, many(33, 1), foreign = {50};
  const auto run = [](std::vector<Turn> turns) { append_together(turns); };
  CHECK_THROWS(Error, run({{&a, one}, {&b, one}, {&c, one}, {&d, one}}), "up to 3 sessions");
  CHECK_THROWS(Error, run({{&a, five}, {&b, five}}), "up to 8 tokens");
  CHECK_THROWS(Error, run({{&a, one}, {&b, many}}), "33 tokens");
  CHECK_THROWS(Error, run({{&a, one}, {&b, foreign}}), "vocabulary");
  CHECK_THROWS(Error, run({{&a, one}, {&b, {}}}), "no tokens");
  CHECK_THROWS(StateError, run({{&a, one}, {&a, one}}), "twice");
  Session elsewhere = model.session();
  CHECK_THROWS(Error, run({{&a, one}, {&elsewhere, one}}), "of one state");
  std::vector<float> room;
  CHECK_THROWS(Error, append_for_rows(std::vector<Turn>{{&a, five}}, room), "up to 4 rows");
  CHECK_EQ(a.position(), 0);
  CHECK(model.calls.empty());
}

TEST(what_is_saved_goes_on_elsewhere) {
  FakeModel model, other;
  Session a = model.session();
  for (const Ids& prompt : {Ids{}, kPrompt, Ids(16, 7), Ids(32, 2)}) {
    a.rewind(0);
    if (!prompt.empty()) a.append(prompt);
    const std::string bytes = save_session(a);
    Session b = load_session(other, other.make_state({}), bytes);
    CHECK_EQ(Ids(b.tokens().begin(), b.tokens().end()), prompt);
    if (b.position() == 32) continue;
    b.append(Ids{9});
    CHECK_EQ(likeliest(b), expected_after(other, joined(prompt, {9})));
  }
}

TEST(bytes_that_are_no_session_of_this_model) {
  FakeModel model;
  Session a = model.session();
  a.append(kPrompt);
  const std::string bytes = save_session(a);
  const auto state = model.make_state({});
  const auto load = [&](const std::string& text) { load_session(model, state, text); };
  for (size_t n = 0; n < bytes.size(); ++n) CHECK_THROWS(Error, load(bytes.substr(0, n)), "session");
  for (size_t n = 0; n < bytes.size(); n += n < 200 ? 1 : 97) {
    std::string changed = bytes;
    changed[n] = static_cast<char>(changed[n] ^ 4);
    CHECK_THROWS(Error, load(changed), "session");
  }
  CHECK_THROWS(Error, load(bytes + "x"), "damaged");

  FakeModel heavier, deeper, shorter;
  heavier.meta_.model_digest = "others";
  CHECK_THROWS(Error, load_session(heavier, heavier.make_state({}), bytes), "other weights");
  deeper.meta_.raw["state"] = "others";
  CHECK_THROWS(Error, load_session(deeper, deeper.make_state({}), bytes), "other layers");
  const auto halves = model.make_state({.cache_type = lowbit::CacheType::float16});
  CHECK_THROWS(Error, load_session(model, halves, bytes), "a float32 cache", "float16");
  const auto few = shorter.make_state({.context_length = 10});
  CHECK_THROWS(StateError, load_session(shorter, few, bytes), "11 positions", "10");
  CHECK_EQ((*state)->open_sessions(), 0);
  load(bytes);
}

TEST(choices_that_a_model_does_not_allow) {
  FakeModel model;
  CHECK_THROWS(Error, model.make_state({.context_length = 33}), "33", "1..32", "--max-seq-length");
  CHECK_THROWS(Error, model.make_state({.context_length = 0}), "1..32");
  CHECK_THROWS(StateError, model.make_state({.sessions = 0}), "sessions is 0");
  model.meta_.longest_context = lowbit::kMostContext;
  model.meta_.state.layers.assign(200, {64, 512, lowbit::kNoRope});
  CHECK_THROWS(Error, model.make_state({.context_length = 65536}), "65536 tokens needs", "there are",
               "--cache-dtype");
}

TEST(stock_operators_have_one_session) {
  FakeModel model;
  model.meta_.lowbit = false;
  model.meta_.state = {};
  CHECK_THROWS(Error, model.make_state({.sessions = 2}), "in the graph", "not 2");
  CHECK_THROWS(Error, model.make_state({.context_length = 16}), "is of 32 positions, not 16");
  CHECK_THROWS(Error, model.make_state({.cache_type = lowbit::CacheType::int8}), "--cache-dtype");
  const auto state = model.make_state({.context_length = 32});
  CHECK_THROWS(Error, model.make_state({}), "one session at a time");
  Session session(model, state);
  CHECK_THROWS(StateError, session.fork(), "cannot be forked");
  CHECK_THROWS(StateError, save_session(session), "cannot be saved");
}

CHECK_MAIN()
