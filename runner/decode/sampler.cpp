#include "decode/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>

#include "system/error.h"

namespace runner {
namespace {

struct Best {
  int32_t id = 0;
  bool valid = false;  // it is finite, and no logit is NaN
};

// The largest logit, the first among equals.
Best argmax(std::span<const float> logits) {
  size_t best = 0;
  bool damaged = logits.empty();
  for (size_t i = 0; i < logits.size(); ++i) {
    damaged |= std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  return {static_cast<int32_t>(best), !damaged && std::isfinite(logits[best])};
}

[[noreturn]] void fail(std::span<const float> logits) {
  if (argmax(logits).valid) {
    throw Error(
        "the sampling settings leave no token to choose: the limit on repeated n-grams, the logit bias "
        "and the model's own lists forbid all; loosen them (--no-repeat-ngram-size 0: off)");
  }
  throw Error(std::string("the model's output is not a number") + kNotNumbers);
}

}  // namespace

Sampler::Sampler(const SamplingSettings& settings, uint64_t seed)
    : processors_(settings),
      temperature_(settings.temperature.value_or(1)),
      top_p_(settings.top_p.value_or(1)),
      min_p_(settings.min_p.value_or(0)),
      typical_p_(settings.typical_p.value_or(1)),
      top_k_(static_cast<size_t>(settings.top_k.value_or(0))),
      random_(seed) {}

int32_t Sampler::sample(std::span<const float> logits, const History& history) {
  const auto left = candidates(logits, history);
  double rest = random_.uniform() * total_weight();
  for (const Candidate& c : left) {
    rest -= c.weight;
    if (rest < 0) return c.id;
  }
  return left.back().id;
}

std::span<const Sampler::Candidate> Sampler::candidates(std::span<const float> logits,
                                                        const History& history) {
  const std::span<const float> scores = processors_.apply(logits, history);
  const Best best = argmax(scores);
  if (!best.valid) fail(logits);
  const float largest = scores[static_cast<size_t>(best.id)];
  if (temperature_ == 0) {
    candidates_.assign(1, {largest, best.id, 1});
    return candidates_;
  }
  take_all(scores, largest);
  keep_top_k();
  keep_top_p();
  keep_min_p();
  keep_typical(largest);
  return candidates_;
}

void Sampler::take_all(std::span<const float> scores, float largest) {
  candidates_.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    const double below = static_cast<double>(largest) - static_cast<double>(scores[i]);
    const double weight = std::exp(-below / temperature_);
    if (weight > 0) candidates_.push_back({scores[i], static_cast<int32_t>(i), weight});
  }
}

double Sampler::total_weight() const {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  return total;
}

// What is as likely as the last of the k is kept too.
void Sampler::keep_top_k() {
  if (top_k_ == 0 || top_k_ >= candidates_.size()) return;
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(top_k_);
  std::partial_sort(candidates_.begin(), end, candidates_.end(), Likelier());
  const float least = std::prev(end)->logit;
  const auto less_likely = [&](const Candidate& c) { return c.logit < least; };
  candidates_.erase(std::remove_if(end, candidates_.end(), less_likely), candidates_.end());
}

void Sampler::keep_top_p() {
  if (top_p_ >= 1) return;
  // Most of a vocabulary is too unlikely to be kept and needs no sorting: n candidates, each
  // below (1 - p) / n, cannot reach 1 - p together.
  const double total = total_weight();
  const double floor = (1 - top_p_) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < floor; });
  std::sort(candidates_.begin(), candidates_.end(), Likelier());
  double sum = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || sum < top_p_ * total)) {
    sum += candidates_[kept++].weight;
  }
  candidates_.resize(kept);
}

void Sampler::keep_min_p() {
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < min_p_; });
}

// Locally typical sampling (Meister et al. 2022): the tokens whose information is nearest to the
// distribution's entropy, as few as reach the probability, and what is as near as the last of them.
void Sampler::keep_typical(float largest) {
  if (typical_p_ >= 1) return;
  const double total = total_weight(), log_total = std::log(total);
  const auto information = [&](const Candidate& c) {
    const double below = static_cast<double>(largest) - static_cast<double>(c.logit);
    return below / temperature_ + log_total;
  };
  double entropy = 0;
  for (const Candidate& c : candidates_) entropy += c.weight / total * information(c);
  const auto surprise = [&](const Candidate& c) { return std::abs(information(c) - entropy); };
  // As with top_p most need no sorting: what is farther than the likeliest can be, and too unlikely
  // to be kept, comes after enough others.
  const double floor = (1 - typical_p_) * total / static_cast<double>(candidates_.size());
  typical_.clear();
  for (const Candidate& c : candidates_) {
    if (c.weight >= floor || surprise(c) <= entropy) typical_.push_back({surprise(c), c.weight});
  }
  const auto farther = [](const Typical& a, const Typical& b) { return a.surprise > b.surprise; };
  std::ranges::make_heap(typical_, farther);
  double sum = 0, most = 0;
  while (!typical_.empty() && sum < typical_p_ * total) {
    std::ranges::pop_heap(typical_, farther);
    most = typical_.back().surprise;
    sum += typical_.back().weight;
    typical_.pop_back();
  }
  std::erase_if(candidates_, [&](const Candidate& c) { return surprise(c) > most; });
}

}  // namespace runner
