#include "decode/sampler.h"

#include <cmath>
#include <limits>
#include <map>

#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

// Logits of these probabilities.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + 3));
  return logits;
}

const std::vector<double> kProbabilities = {0.05, 0.4, 0.15, 0.1, 0.3};

std::vector<double> frequencies(const SamplingSettings& settings,
                                const std::vector<double>& probabilities = kProbabilities,
                                int draws = 40000) {
  Sampler sampler(settings, 1);
  const auto logits = logits_of(probabilities);
  std::vector<double> result(probabilities.size());
  for (int i = 0; i < draws; ++i) {
    result[static_cast<size_t>(sampler.sample(logits))] += 1.0 / draws;
  }
  return result;
}

void check_close(const std::vector<double>& actual, std::vector<double> expected) {
  double total = 0;
  for (double e : expected) total += e;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (expected[i] == 0) {
      CHECK_EQ(actual[i], 0.0);
    } else if (std::abs(actual[i] - expected[i] / total) > 0.012) {  // over 4 standard deviations
      CHECK_EQ(actual[i], expected[i] / total);
    }
  }
}

}  // namespace

TEST(temperature_zero_takes_the_likeliest_the_first_among_equals) {
  Sampler sampler({.temperature = 0});
  CHECK_EQ(sampler.sample(logits_of(kProbabilities)), 1);
  CHECK_EQ(sampler.sample(std::vector<float>{1, 7, 7, 2}), 1);
}

TEST(plain_sampling_follows_the_probabilities) { check_close(frequencies({}), kProbabilities); }

TEST(temperature_sharpens_and_flattens) {
  for (double temperature : {0.5, 2.0}) {
    SamplingSettings settings;
    settings.temperature = temperature;
    std::vector<double> expected;
    for (double p : kProbabilities) expected.push_back(std::pow(p, 1 / temperature));
    check_close(frequencies(settings), expected);
  }
}

TEST(top_k_keeps_k) {
  SamplingSettings settings;
  settings.top_k = 3;
  check_close(frequencies(settings), {0, 0.4, 0.15, 0, 0.3});
  settings.top_k = 1;
  check_close(frequencies(settings), {0, 1, 0, 0, 0});
  settings.top_k = 100;
  check_close(frequencies(settings), kProbabilities);
}

TEST(top_p_keeps_the_fewest_that_reach_p) {
  SamplingSettings settings;
  settings.top_p = 0.6;
  check_close(frequencies(settings), {0, 0.4, 0, 0, 0.3});
  settings.top_p = 0.75;
  check_close(frequencies(settings), {0, 0.4, 0.15, 0, 0.3});
  settings.top_p = 1e-9;
  check_close(frequencies(settings), {0, 1, 0, 0, 0});
}

TEST(min_p_is_relative_to_the_likeliest) {
  SamplingSettings settings;
  settings.min_p = 0.3;  // of 0.4: 0.12
  check_close(frequencies(settings), {0, 0.4, 0.15, 0, 0.3});
  settings.min_p = 1;
  check_close(frequencies(settings), {0, 1, 0, 0, 0});
}

TEST(filters_work_on_what_the_one_before_left) {
  // top-k leaves 0.4, 0.3, 0.15 of 0.85; top-p 0.8 of that is 0.68: the first two.
  SamplingSettings settings;
  settings.top_k = 3;
  settings.top_p = 0.8;
  check_close(frequencies(settings), {0, 0.4, 0, 0, 0.3});
  settings.top_p = 0.83;
  check_close(frequencies(settings), {0, 0.4, 0.15, 0, 0.3});
}

TEST(top_p_over_many_unlikely_tokens) {
  std::vector<double> probabilities(1000, 0.5 / 998);
  probabilities[17] = 0.3;
  probabilities[500] = 0.2;
  SamplingSettings settings;
  settings.top_p = 0.49;
  const auto actual = frequencies(settings, probabilities, 10000);
  CHECK(std::abs(actual[17] - 0.6) < 0.02);
  CHECK(std::abs(actual[500] - 0.4) < 0.02);
  settings.top_p = 0.75;  // half of the flat rest belongs to it
  double rest = 0;
  const auto wide = frequencies(settings, probabilities, 10000);
  for (size_t i = 0; i < wide.size(); ++i) rest += i == 17 || i == 500 ? 0 : wide[i];
  CHECK(std::abs(rest - 0.25 / 0.75) < 0.02);
}

TEST(a_seed_repeats_and_another_differs) {
  const auto draw = [](uint64_t seed) {
    Sampler sampler({}, seed);
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.sample(logits_of(kProbabilities)));
    return ids;
  };
  CHECK(draw(7) == draw(7));
  CHECK(draw(7) != draw(8));
  CHECK(draw(0) != draw(uint64_t{1} << 63));
}

TEST(the_generator_is_pcg32) {
  // Computed from the paper's definition in exact integers, for our stream.
  Random random(42);
  const std::vector<uint32_t> first = {random.next(), random.next(), random.next(), random.next()};
  CHECK_EQ(first, (std::vector<uint32_t>{3270867926, 1795671209, 1924641435, 1143034755}));
  for (int i = 0; i < 1000; ++i) {
    const double u = random.uniform();
    CHECK(u >= 0 && u < 1);
  }
}

TEST(what_is_not_a_number_is_an_error) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    CHECK_THROWS(Error, sampler.sample(std::vector<float>{1, nan, 2}), "not a number", "export");
    CHECK_THROWS(Error, sampler.sample(std::vector<float>{nan, nan}), "not a number");
    CHECK_THROWS(Error, sampler.sample(std::vector<float>{1, infinity}), "not a number");
    CHECK_THROWS(Error, sampler.sample(std::vector<float>{-infinity, -infinity}), "not a number");
    CHECK_EQ(sampler.sample(std::vector<float>{-infinity, 0, -infinity}), 1);
  }
}

TEST(top_k_keeps_what_is_as_likely_as_the_last) {
  SamplingSettings settings;
  settings.top_k = 2;
  check_close(frequencies(settings, {0.2, 0.4, 0.2, 0.2}), {0.2, 0.4, 0.2, 0.2});
  settings.top_k = 1;
  check_close(frequencies(settings, {0.2, 0.4, 0.2, 0.2}), {0, 1, 0, 0});
}

TEST(typical_p_keeps_what_is_nearest_to_the_entropy) {
  // The entropy is 1.39 nats; the tokens' information 3.00, 0.92, 1.90, 2.30, 1.20.
  SamplingSettings settings;
  settings.typical_p = 0.2;
  check_close(frequencies(settings), {0, 0, 0, 0, 0.3});
  settings.typical_p = 0.5;
  check_close(frequencies(settings), {0, 0.4, 0, 0, 0.3});
  settings.typical_p = 0.75;
  check_close(frequencies(settings), {0, 0.4, 0.15, 0, 0.3});
}

TEST(each_setting_takes_its_default_from_the_model) {
  const SamplingSettings own = chosen_settings({}, {});
  CHECK_EQ(*own.temperature, 0.8);
  CHECK_EQ(*own.top_p, 0.9);
  const SamplingSettings models = chosen_settings({}, {.temperature = 0.6});
  CHECK_EQ(*models.temperature, 0.6);
  CHECK(!models.top_p && !models.top_k);
  const SamplingSettings both =
      chosen_settings({.temperature = 0, .stop_strings = {{}}}, {.repetition_penalty = 1.2,
                                                                 .top_p = 0.5,
                                                                 .logit_bias = {{{{3}, -1}}},
                                                                 .stop_strings = {{"x"}}});
  CHECK_EQ(*both.temperature, 0);
  CHECK_EQ(*both.top_p, 0.5);
  CHECK_EQ(*both.repetition_penalty, 1.2);
  CHECK_EQ(both.logit_bias->size(), 1u);
  CHECK(both.stop_strings->empty());
  // A penalty says nothing of how to draw.
  const SamplingSettings penalty = chosen_settings({}, {.repetition_penalty = 1.2});
  CHECK_EQ(*penalty.temperature, 0.8);
  CHECK_EQ(flags_of(penalty), "--repetition-penalty 1.2 -t 0.8 -p 0.9");
  CHECK_EQ(flags_of({.temperature = 0, .top_k = 40}), "-t 0 --top-k 40");
}

TEST(numbers_have_ranges) {
  for (const NumberSetting& setting : number_settings()) {
    CHECK(setting.allows(setting.neutral) && setting.allows(setting.example));
    CHECK(!setting.allows(std::numeric_limits<double>::quiet_NaN()));
    CHECK(!setting.allows(setting.high + 1) && !setting.allows(setting.low - 1));
    CHECK_EQ(setting.allows(setting.low), !setting.above_low);
  }
}

CHECK_MAIN()
