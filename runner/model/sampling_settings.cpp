#include "model/sampling_settings.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "system/error.h"

namespace runner {
namespace {

using S = SamplingSettings;

constexpr double kMostCandidates = 1 << 24;

// In the order in which they act.
constexpr NumberSetting kNumbers[] = {
    {&S::repetition_penalty, "repetition_penalty", "", "R", 0.01, 100, false, false, 1, 1.1,
     "make the text's tokens less likely, by the factor R of their logits; 1: off"},
    {&S::frequency_penalty, "frequency_penalty", "", "F", -2, 2, false, false, 0, 0.5,
     "take F off a token's logit for each time it was generated; 0: off"},
    {&S::presence_penalty, "presence_penalty", "", "F", -2, 2, false, false, 0, 0.5,
     "take F off the logits of tokens that were generated; 0: off"},
    {&S::no_repeat_ngram_size, "no_repeat_ngram_size", "", "N", 0, kMostCandidates, false, true, 0,
     3, "write no N tokens in a row that the text has; 0: off"},
    {&S::temperature, "temperature", "-t", "T", 0, 100, false, false, 1, 0.8, "0: greedy"},
    {&S::top_k, "top_k", "", "K", 0, kMostCandidates, false, true, 0, 40,
     "keep the K likeliest tokens; 0: off"},
    {&S::top_p, "top_p", "-p", "P", 0, 1, false, false, 1, 0.9,
     "keep the likeliest tokens that reach probability P; 1: off"},
    {&S::min_p, "min_p", "", "M", 0, 1, false, false, 0, 0.05,
     "keep tokens at least M times as likely as the likeliest; 0: off"},
    {&S::typical_p, "typical_p", "", "P", 0, 1, true, false, 1, 0.95,
     "keep the most typical tokens that reach probability P; 1: off"},
};

template <class T>
void fill(std::optional<T>& setting, const std::optional<T>& otherwise) {
  if (!setting) setting = otherwise;
}

std::string shortest(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

}  // namespace

std::string NumberSetting::flag() const {
  std::string flag = std::string("--") + name;
  std::ranges::replace(flag, '_', '-');
  return flag;
}

bool NumberSetting::allows(double value) const {
  return value >= low && value <= high && !(above_low && value == low) &&
         (!whole || value == std::floor(value));
}

std::string NumberSetting::wanted() const {
  const std::string kind = whole ? "a whole number " : "a number ";
  const std::string most = std::to_string(static_cast<int64_t>(high));
  const std::string range = above_low ? "above " + shortest(low) + " and at most " + most
                                      : "from " + shortest(low) + " to " + most;
  return kind + range + ", such as " + shortest(example);
}

double NumberSetting::of(const SamplingSettings& settings) const {
  return (settings.*member).value_or(neutral);
}

std::span<const NumberSetting> number_settings() { return kNumbers; }

SamplingSettings chosen_settings(const SamplingSettings& choice,
                                 const SamplingSettings& recommended) {
  SamplingSettings settings = choice;
  for (const NumberSetting& number : kNumbers) {
    fill(settings.*number.member, recommended.*number.member);
  }
  fill(settings.logit_bias, recommended.logit_bias);
  fill(settings.bad_words_ids, recommended.bad_words_ids);
  fill(settings.begin_suppress_tokens, recommended.begin_suppress_tokens);
  fill(settings.stop_strings, recommended.stop_strings);
  const SamplingSettings& r = recommended;
  if (!r.temperature && !r.top_k && !r.top_p && !r.min_p && !r.typical_p) {
    fill(settings.temperature, std::optional(0.8));
    fill(settings.top_p, std::optional(0.9));
  }
  return settings;
}

std::string flags_of(const SamplingSettings& settings) {
  std::string flags;
  for (const NumberSetting& number : kNumbers) {
    const double value = number.of(settings);
    if (value == number.neutral) continue;
    flags += (flags.empty() ? "" : " ") +
             (*number.short_flag ? std::string(number.short_flag) : number.flag()) + " " +
             shortest(value);
  }
  return flags;
}

void check_tokens(const SamplingSettings& settings, int64_t vocab_size) {
  const auto check = [&](int32_t id, const char* what) {
    if (id >= 0 && id < vocab_size) return;
    throw Error(std::string(what) + ": token id " + std::to_string(id) +
                " is outside the vocabulary; give ids from 0 to " + std::to_string(vocab_size - 1));
  };
  if (settings.logit_bias) {
    for (const TokenBias& entry : *settings.logit_bias) {
      for (const int32_t id : entry.tokens) check(id, "logit bias");
    }
  }
  if (settings.bad_words_ids) {
    for (const auto& tokens : *settings.bad_words_ids) {
      for (const int32_t id : tokens) check(id, "bad_words_ids");
    }
  }
  if (settings.begin_suppress_tokens) {
    for (const int32_t id : *settings.begin_suppress_tokens) check(id, "begin_suppress_tokens");
  }
}

}  // namespace runner
