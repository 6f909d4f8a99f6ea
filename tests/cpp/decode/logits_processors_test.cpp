#include "decode/logits_processors.h"

#include <cmath>
#include <limits>

#include "decode/sampler.h"
#include "system/error.h"
#include "tests/cpp/check.h"

// That the numbers are transformers' is tests/runners/test_sampling.py's to show.

using namespace runner;

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
const std::vector<float> kLogits = {1, -2, 3, -4, 5};

std::vector<float> processed(const SamplingSettings& settings, const std::vector<int32_t>& tokens,
                             size_t prompt, const std::vector<float>& logits = kLogits) {
  LogitsProcessors processors(settings);
  const auto scores = processors.apply(logits, {tokens, prompt});
  return {scores.begin(), scores.end()};
}

}  // namespace

TEST(nothing_set_is_no_copy) {
  LogitsProcessors processors({.repetition_penalty = 1, .temperature = 0.5});
  CHECK(processors.apply(kLogits, {}).data() == kLogits.data());
}

TEST(repetition_counts_a_token_once_in_prompt_and_continuation) {
  const std::vector<int32_t> tokens = {0, 1, 1, 4, 4};
  CHECK_EQ(processed({.repetition_penalty = 2}, tokens, 3),
           (std::vector<float>{0.5, -4, 3, -4, 2.5}));
}

TEST(frequency_and_presence_count_the_continuation) {
  const std::vector<int32_t> tokens = {0, 1, 4, 4, 2};
  CHECK_EQ(processed({.frequency_penalty = 0.5, .presence_penalty = 1}, tokens, 2),
           (std::vector<float>{1, -2, 1.5, -4, 3}));
  CHECK_EQ(processed({.presence_penalty = -1}, tokens, 5), kLogits);
}

TEST(what_would_complete_an_ngram_again_is_forbidden) {
  const std::vector<int32_t> tokens = {1, 2, 3, 1, 2};
  CHECK_EQ(processed({.no_repeat_ngram_size = 3}, tokens, 5),
           (std::vector<float>{1, -2, 3, kNever, 5}));
  CHECK_EQ(processed({.no_repeat_ngram_size = 4}, tokens, 0), kLogits);
  CHECK_EQ(processed({.no_repeat_ngram_size = 1}, tokens, 0),
           (std::vector<float>{1, kNever, kNever, kNever, 5}));
  CHECK_EQ(processed({.no_repeat_ngram_size = 6}, tokens, 0), kLogits);
  // Overlapping itself.
  CHECK_EQ(processed({.no_repeat_ngram_size = 2}, {4, 4}, 0),
           (std::vector<float>{1, -2, 3, -4, kNever}));
}

TEST(biases_come_before_penalties) {
  CHECK_EQ(processed({.repetition_penalty = 2, .logit_bias = {{{{1}, 4}}}}, {1}, 1),
           (std::vector<float>{1, 1, 3, -4, 5}));
}

TEST(a_bias_of_several_tokens_waits_for_the_first_ones) {
  const SamplingSettings settings{.logit_bias = {{{{2, 3}, 8}, {{3}, 1}, {{0, 2, 3}, 16}}},
                                  .bad_words_ids = {{{2, 4}}}};
  CHECK_EQ(processed(settings, {}, 0), (std::vector<float>{1, -2, 3, -3, 5}));
  CHECK_EQ(processed(settings, {2}, 0), (std::vector<float>{1, -2, 3, 5, kNever}));
  CHECK_EQ(processed(settings, {0, 2}, 0), (std::vector<float>{1, -2, 3, 21, kNever}));
}

TEST(the_later_bias_for_a_token_counts) {
  CHECK_EQ(processed({.logit_bias = {{{{0}, 8}, {{0}, 2}}}}, {}, 0)[0], 3.0f);
}

TEST(some_tokens_never_begin) {
  const SamplingSettings settings{.begin_suppress_tokens = {{4}}};
  CHECK_EQ(processed(settings, {1, 2}, 2)[4], kNever);
  CHECK_EQ(processed(settings, {1, 2}, 1)[4], 5.0f);
}

TEST(calls_do_not_see_each_other) {
  LogitsProcessors processors({.repetition_penalty = 2, .frequency_penalty = 1});
  const std::vector<int32_t> tokens = {0, 0, 4};
  for (int i = 0; i < 3; ++i) CHECK_EQ(processors.apply(kLogits, {tokens, 2})[4], 1.5f);
  CHECK_EQ(processors.apply(kLogits, {})[4], 5.0f);
}

TEST(greedy_takes_what_the_processors_leave) {
  Sampler sampler({.temperature = 0, .bad_words_ids = {{{4}}}});
  CHECK_EQ(sampler.sample(kLogits), 2);
}

TEST(no_token_left_and_no_number_are_told_apart) {
  Sampler sampler({.no_repeat_ngram_size = 1, .temperature = 0});
  const std::vector<int32_t> all = {0, 1, 2, 3, 4};
  CHECK_THROWS(Error, sampler.sample(kLogits, {all, 0}), "no token", "--no-repeat-ngram-size");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(Error, sampler.sample(std::vector<float>{nan, 1}, {all, 0}), "not a number");
}

TEST(tokens_of_biases_are_checked) {
  check_tokens({.logit_bias = {{{{4}, 1}}}}, 5);
  CHECK_THROWS(Error, check_tokens({.logit_bias = {{{{5}, 1}}}}, 5), "5", "0 to 4");
  CHECK_THROWS(Error, check_tokens({.bad_words_ids = {{{1, 7}}}}, 5), "bad_words_ids", "7");
  CHECK_THROWS(Error, check_tokens({.begin_suppress_tokens = {{-1}}}, 5), "-1");
}

CHECK_MAIN()
