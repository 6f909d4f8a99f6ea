#include "decode/generate.h"

#include "system/error.h"
#include "tests/cpp/check.h"
#include "tests/cpp/fake_model.h"

using namespace runner;

namespace {

struct Output {
  GenerateResult result;
  std::vector<int32_t> tokens;
};

// `stop_at` stands for a token that completes a stop string.
Output run_greedy(FakeModel& model, const std::vector<int32_t>& prompt, GenerateOptions options = {},
                  int64_t prefill_chunk = 0, int32_t stop_at = -1) {
  Session session = model.session(prefill_chunk);
  Sampler sampler({.temperature = 0});
  Output output;
  output.result = generate(session, sampler, prompt, options, [&](int32_t token) {
    output.tokens.push_back(token);
    return token != stop_at;
  });
  return output;
}

const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};

}  // namespace

TEST(same_tokens_whatever_the_chunks) {
  FakeModel model;
  const auto expected = model.expected(kPrompt, 10);
  for (int64_t chunk : {0, 1, 2, 3, 7, 8, 100}) {
    const Output output = run_greedy(model, kPrompt, {.steps = 10}, chunk);
    CHECK_EQ(output.tokens, expected);
    CHECK(output.result.reason == StopReason::steps);
    CHECK_EQ(output.result.prompt_tokens, 11);
    CHECK_EQ(output.result.generated_tokens, 10);
    CHECK_EQ(output.result.decode_forwards, 9);
  }
}

TEST(prefill_takes_whole_chunks_and_one_row_each) {
  FakeModel model;
  run_greedy(model, kPrompt, {.steps = 2});
  const std::vector<FakeModel::Call> expected = {{8, 0, {7}}, {3, 8, {2}}, {1, 11, {0}}};
  CHECK(model.calls == expected);
}

TEST(every_row_is_delivered_in_order) {
  FakeModel model;
  std::vector<int32_t> likeliest;
  GenerateOptions options{.every_prompt_row = [&](std::span<const float> row) {
    CHECK_EQ(row.size(), 50u);
    likeliest.push_back(static_cast<int32_t>(std::ranges::max_element(row) - row.begin()));
  }};
  options.prompt_only = true;
  const Output output = run_greedy(model, kPrompt, options);
  CHECK(output.tokens.empty());
  std::vector<int32_t> expected;
  for (size_t n = 1; n <= kPrompt.size(); ++n) {
    expected.push_back(model.expected({kPrompt.begin(), kPrompt.begin() + n}, 1)[0]);
  }
  CHECK_EQ(likeliest, expected);
  CHECK_EQ(model.calls.size(), 3u);  // 4 + 4 + 3: as many rows as one forward may return
}

TEST(stops_at_a_stop_token_without_showing_it) {
  FakeModel model;
  const auto expected = model.expected(kPrompt, 6);
  const Output output = run_greedy(model, kPrompt, {.stop_ids = {49, expected[4]}});
  CHECK(output.result.reason == StopReason::stop_token);
  const auto first = std::ranges::find(expected, expected[4]);
  CHECK_EQ(output.tokens, std::vector<int32_t>(expected.begin(), first));
}

TEST(stops_after_what_completes_a_stop_string) {
  FakeModel model;
  const auto expected = model.expected(kPrompt, 6);
  const Output output = run_greedy(model, kPrompt, {.steps = 6}, 0, expected[3]);
  CHECK(output.result.reason == StopReason::stop_string);
  const auto last = std::ranges::find(expected, expected[3]) + 1;
  CHECK_EQ(output.tokens, std::vector<int32_t>(expected.begin(), last));
  CHECK_EQ(output.result.generated_tokens, std::ssize(output.tokens));
}

TEST(stops_at_the_contexts_end) {
  for (size_t length : {1, 30, 31, 32}) {
    FakeModel model;
    const std::vector<int32_t> prompt(length, 1);
    const Output output = run_greedy(model, prompt);
    CHECK(output.result.reason == StopReason::context);
    CHECK_EQ(length + output.tokens.size(), 32u);
    CHECK_EQ(output.tokens, model.expected(prompt, 32 - length));
  }
}

TEST(zero_steps_is_no_limit_and_one_is_one) {
  FakeModel model;
  CHECK_EQ(run_greedy(model, kPrompt, {.steps = 1}).tokens.size(), 1u);
  CHECK_EQ(run_greedy(model, kPrompt, {.steps = 0}).tokens.size(), 21u);
  CHECK_EQ(run_greedy(model, kPrompt, {.steps = 1000}).tokens.size(), 21u);
}

TEST(prompts_that_cannot_run_are_refused_before_anything_runs) {
  FakeModel model;
  CHECK_THROWS(Error, run_greedy(model, std::vector<int32_t>(33, 1)), "33", "32");
  CHECK_THROWS(Error, run_greedy(model, {1, 50}), "50", "0 to 49");
  CHECK_THROWS(Error, run_greedy(model, {-1}), "-1");
  CHECK_THROWS(Error, run_greedy(model, {}), "no tokens");
  CHECK(model.calls.empty());
}

TEST(an_interrupt_ends_prefill_and_decoding) {
  FakeModel model;
  int forwards = 0;
  GenerateOptions options{.interrupted = [&] { return ++forwards > 1; }};
  Output output = run_greedy(model, kPrompt, options);
  CHECK(output.result.reason == StopReason::interrupted);
  CHECK_EQ(output.result.prompt_tokens, 8);
  CHECK(output.tokens.empty());

  forwards = -3;
  output = run_greedy(model, kPrompt, options);
  CHECK(output.result.reason == StopReason::interrupted);
  CHECK_EQ(output.tokens.size(), 3u);
}

TEST(limits_count_the_sessions_tokens_and_none_that_were_rewound) {
  FakeModel model;
  model.next = [](const auto&) { return 7; };
  Session session = model.session();
  Sampler sampler({.no_repeat_ngram_size = 1, .temperature = 0});
  const auto first = [&](const std::vector<int32_t>& prompt) {
    int32_t chosen = -1;
    generate(session, sampler, prompt, {.steps = 1}, [&](int32_t token) {
      chosen = token;
      return true;
    });
    return chosen;
  };
  CHECK_EQ(first({1, 7}), 0);       // 7 was there
  CHECK_EQ(first({14, 0, 2}), 21);  // of those with the second largest logit, 0, 7 and 14 were
  session.rewind(1);
  CHECK_EQ(first({2}), 7);
}

TEST(penalties_of_what_was_generated_leave_the_prompt_alone) {
  FakeModel model;
  model.next = [](const auto&) { return 7; };  // its logit is 10, the next one's 0
  Session session = model.session();
  Sampler sampler({.frequency_penalty = 2, .temperature = 0});
  std::vector<int32_t> tokens;
  generate(session, sampler, std::vector<int32_t>{7, 7, 7, 7, 7, 7, 7}, {.steps = 8},
           [&](int32_t token) {
             tokens.push_back(token);
             return true;
           });
  CHECK_EQ(tokens, (std::vector<int32_t>{7, 7, 7, 7, 7, 0, 7, 14}));
}

TEST(a_session_goes_on_and_rewinds) {
  FakeModel model;
  Session session = model.session();
  session.append(std::vector<int32_t>{1, 2, 3});
  session.append(std::vector<int32_t>{4, 5});
  CHECK_EQ(session.position(), 5);
  session.rewind(2);
  Sampler sampler({.temperature = 0});
  session.append(std::vector<int32_t>{9});
  CHECK_EQ(std::vector<int32_t>(session.tokens().begin(), session.tokens().end()),
           (std::vector<int32_t>{1, 2, 9}));
  CHECK_EQ(sampler.sample(session.logits()), model.expected({1, 2, 9}, 1)[0]);
}

CHECK_MAIN()
