// Which forwards score() and the timers ask for, and what they make of the logits.

#include "decode/score.h"

#include <cmath>
#include <limits>

#include "decode/speed.h"
#include "system/error.h"
#include "tests/cpp/check.h"
#include "tests/cpp/fake_model.h"

using runner::Error;
using runner::Session;
using Call = FakeModel::Call;

namespace {

// FakeModel's logits: 10 for the next token, else -(id % 7).
float expected(const FakeModel& model, const std::vector<int32_t>& tokens, size_t i) {
  const std::vector<int64_t> seen(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(i));
  const int64_t next = model.next(seen);
  double total = 0;
  const auto logit = [&](int64_t id) { return id == next ? 10.0 : -static_cast<double>(id % 7); };
  for (int64_t id = 0; id < model.meta_.vocab_size; ++id) total += std::exp(logit(id));
  return static_cast<float>(logit(tokens[i]) - std::log(total));
}

std::vector<float> score(FakeModel& model, const std::vector<int32_t>& tokens, int64_t first,
                         const runner::ScoreOptions& options = {}) {
  Session session = model.session();
  return runner::score(session, tokens, first, options);
}

std::vector<int32_t> some_tokens(int n) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(i * 13 % 50);
  return tokens;
}

}  // namespace

TEST(every_score_is_of_its_own_token) {
  for (const int n : {2, 3, 8, 9, 10, 31, 32}) {
    const std::vector<int32_t> tokens = some_tokens(n);
    for (int64_t first = 1; first < n; ++first) {
      FakeModel model;
      const std::vector<float> scores = score(model, tokens, first);
      CHECK_EQ(std::ssize(scores), n - first);
      for (size_t i = 0; i < scores.size(); ++i) {
        const float wanted = expected(model, tokens, i + static_cast<size_t>(first));
        CHECK(std::fabs(scores[i] - wanted) < 1e-5);
      }
    }
  }
}

TEST(rows_are_asked_for_where_they_are_scored) {
  FakeModel model;  // chunks of 8, 4 rows
  (void)score(model, some_tokens(20), 10);
  // Nobody reads the first chunk; the second ends with its fourth row; the last token is not run.
  CHECK_EQ(model.calls, (std::vector<Call>{{8, 0, {7}}, {5, 8, {1, 2, 3, 4}}, {4, 13, {0, 1, 2, 3}},
                                           {2, 17, {0, 1}}}));
}

TEST(a_chunk_of_rows_at_once) {
  FakeModel model(50, 32, 8, 8);
  (void)score(model, some_tokens(17), 8);
  CHECK_EQ(model.calls,
           (std::vector<Call>{{8, 0, {7}}, {8, 8, {0, 1, 2, 3, 4, 5, 6, 7}}}));
}

TEST(progress_comes_before_each_chunk_and_may_end_it) {
  FakeModel model;
  std::vector<int64_t> seen;
  (void)score(model, some_tokens(20), 18, {.progress = [&](int64_t n) { seen.push_back(n); }});
  CHECK_EQ(seen, (std::vector<int64_t>{0, 8, 16}));
  const auto stop = [](int64_t done) {
    if (done > 0) throw Error("enough");
  };
  model.calls.clear();
  CHECK_THROWS(Error, score(model, some_tokens(20), 18, {.progress = stop}), "enough");
  CHECK_EQ(model.calls.size(), size_t{1});
}

TEST(bad_requests_run_nothing) {
  FakeModel model;
  CHECK_THROWS(Error, score(model, some_tokens(4), 0), "from token 0 of 4", "1 to 3");
  CHECK_THROWS(Error, score(model, some_tokens(4), 4), "from token 4 of 4");
  CHECK_THROWS(Error, score(model, some_tokens(1), 1), "1 token:", "two or more");
  CHECK_THROWS(Error, score(model, {}, 1), "0 tokens", "two or more");
  CHECK_THROWS(Error, score(model, some_tokens(33), 1), "33 tokens", "holds 32");
  CHECK_THROWS(Error, score(model, std::vector<int32_t>{1, 50, 2}, 1), "50", "0 to 49");
  CHECK_THROWS(Error, score(model, std::vector<int32_t>{1, 2, -1}, 1), "-1", "vocabulary");
  CHECK(model.calls.empty());
}

TEST(logits_that_are_not_numbers_are_an_error) {
  struct Broken : FakeModel {
    std::span<const float> run_graph(const runner::Batch& batch, const runner::OwnedState& state,
                                     std::vector<float>& room) override {
      FakeModel::run_graph(batch, state, room);
      room.back() = std::numeric_limits<float>::quiet_NaN();
      return room;
    }
  } model;
  CHECK_THROWS(Error, score(model, some_tokens(6), 2), "position 4", "not numbers");
}

TEST(timers_run_what_they_say) {
  FakeModel model;
  Session session = model.session();
  CHECK(runner::time_prefill(session, 10, 9) >= 0);
  CHECK_EQ(model.calls,
           (std::vector<Call>{{8, 0, {7}}, {1, 8, {0}}, {8, 9, {7}}, {2, 17, {1}}}));
  model.calls.clear();
  CHECK(runner::time_decode(session, 2, 3) >= 0);
  CHECK_EQ(model.calls, (std::vector<Call>{{3, 0, {2}}, {1, 3, {0}}, {1, 4, {0}}}));
  CHECK_THROWS(Error, runner::time_prefill(session, 30, 3), "30 tokens", "depth of 3", "holds 32");
  CHECK_THROWS(Error, runner::time_decode(session, 0, 0), "0 tokens");
}

CHECK_MAIN()
