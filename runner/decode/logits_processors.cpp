#include "decode/logits_processors.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace runner {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The biases that are given, of two for the same tokens the later value, in the order in which
// transformers adds them up: those of one token first, then by lengths as they first appear.
std::vector<TokenBias> in_order(const std::vector<TokenBias>& given) {
  std::vector<TokenBias> biases;
  std::vector<size_t> lengths = {1};
  for (const TokenBias& bias : given) {
    const auto same = std::ranges::find(biases, bias.tokens, &TokenBias::tokens);
    if (same != biases.end()) {
      same->bias = bias.bias;
    } else if (!bias.tokens.empty()) {
      biases.push_back(bias);
      lengths.push_back(bias.tokens.size());
    }
  }
  std::ranges::stable_sort(
      biases, {}, [&](const TokenBias& b) { return std::ranges::find(lengths, b.tokens.size()); });
  return biases;
}

float number(const std::optional<double>& setting, double neutral) {
  return static_cast<float>(setting.value_or(neutral));
}

}  // namespace

LogitsProcessors::LogitsProcessors(const SamplingSettings& settings)
    : not_first_(settings.begin_suppress_tokens.value_or(std::vector<int32_t>())),
      repetition_(number(settings.repetition_penalty, 1)),
      frequency_(number(settings.frequency_penalty, 0)),
      presence_(number(settings.presence_penalty, 0)),
      ngram_(static_cast<size_t>(settings.no_repeat_ngram_size.value_or(0))) {
  if (settings.logit_bias) biases_ = in_order(*settings.logit_bias);
  if (settings.bad_words_ids) {
    for (const auto& tokens : *settings.bad_words_ids) {
      if (!tokens.empty()) biases_.push_back({tokens, kNever});
    }
  }
  std::ranges::stable_sort(biases_, {}, [](const TokenBias& b) { return b.tokens.back(); });
}

bool LogitsProcessors::any() const {
  return !biases_.empty() || !not_first_.empty() || repetition_ != 1 || frequency_ != 0 ||
         presence_ != 0 || ngram_ != 0;
}

std::span<const float> LogitsProcessors::apply(std::span<const float> logits,
                                               const History& history) {
  if (!any()) return logits;
  scores_.assign(logits.begin(), logits.end());
  counts_.resize(logits.size());
  const auto generated = history.tokens.subspan(std::min(history.prompt, history.tokens.size()));
  add_biases(history.tokens);
  if (repetition_ != 1) penalize_repetition(history.tokens);
  if (frequency_ != 0 || presence_ != 0) penalize_generated(generated);
  if (ngram_ != 0) forbid_ngrams(history.tokens);
  if (generated.empty()) std::ranges::for_each(not_first_, [this](int32_t id) { forbid(id); });
  return scores_;
}

// The biases of one token, which lie together, are added up first.
void LogitsProcessors::add_biases(std::span<const int32_t> tokens) {
  for (size_t i = 0; i < biases_.size();) {
    const int32_t id = biases_[i].tokens.back();
    float sum = 0;
    for (; i < biases_.size() && biases_[i].tokens.back() == id; ++i) {
      const auto before = std::span(biases_[i].tokens).first(biases_[i].tokens.size() - 1);
      const bool fits =
          before.size() <= tokens.size() && std::ranges::equal(before, tokens.last(before.size()));
      if (fits) sum += biases_[i].bias;
    }
    if (static_cast<size_t>(id) < scores_.size()) scores_[static_cast<size_t>(id)] += sum;
  }
}

template <class F>
void LogitsProcessors::each_distinct(std::span<const int32_t> tokens, F f) {
  for (const int32_t id : tokens) {
    if (static_cast<size_t>(id) < counts_.size()) ++counts_[static_cast<size_t>(id)];
  }
  for (const int32_t id : tokens) {
    if (static_cast<size_t>(id) >= counts_.size()) continue;
    uint32_t& count = counts_[static_cast<size_t>(id)];
    if (count != 0) f(scores_[static_cast<size_t>(id)], count);
    count = 0;
  }
}

void LogitsProcessors::penalize_repetition(std::span<const int32_t> tokens) {
  each_distinct(tokens, [this](float& score, uint32_t) {
    score = score < 0 ? score * repetition_ : score / repetition_;
  });
}

void LogitsProcessors::penalize_generated(std::span<const int32_t> generated) {
  each_distinct(generated, [this](float& score, uint32_t count) {
    score -= frequency_ * static_cast<float>(count);
    score -= presence_;
  });
}

void LogitsProcessors::forbid_ngrams(std::span<const int32_t> tokens) {
  if (tokens.size() < ngram_) return;
  const auto last = tokens.last(ngram_ - 1);
  for (size_t next = ngram_ - 1; next < tokens.size(); ++next) {
    if (ngram_ > 1 && tokens[next - 1] != last.back()) continue;  // most of the time
    if (std::ranges::equal(tokens.subspan(next - last.size(), last.size()), last)) {
      forbid(tokens[next]);
    }
  }
}

// A sum, so that what is not a number stays so and is noticed.
void LogitsProcessors::forbid(int32_t id) {
  if (static_cast<size_t>(id) < scores_.size()) scores_[static_cast<size_t>(id)] += kNever;
}

}  // namespace runner
