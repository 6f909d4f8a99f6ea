#include "runner/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "runner/error.h"

namespace runner {
namespace {

// Index of the largest logit, the first among equals.
int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  bool damaged = logits.empty();
  for (size_t i = 0; i < logits.size(); ++i) {
    damaged |= std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  if (damaged || !std::isfinite(logits[best])) {
    throw Error(
        "the model's output is not a number; export it again with --dtype fp32, and check the "
        "quantization recipe");
  }
  return static_cast<int32_t>(best);
}

}  // namespace

SamplingParams recommended_sampling(const SamplingDefaults& defaults) {
  SamplingParams params;
  if (!defaults.temperature && !defaults.top_k && !defaults.top_p && !defaults.min_p) {
    return params;
  }
  params.temperature = defaults.temperature.value_or(1.0);
  params.top_k = defaults.top_k.value_or(0);
  params.top_p = defaults.top_p.value_or(1.0);
  params.min_p = defaults.min_p.value_or(0.0);
  return params;
}

SamplingParams chosen_sampling(const SamplingChoice& choice, const SamplingDefaults& defaults) {
  SamplingParams params = recommended_sampling(defaults);
  if (choice.temperature) params.temperature = *choice.temperature;
  if (choice.top_k) params.top_k = *choice.top_k;
  if (choice.top_p) params.top_p = *choice.top_p;
  if (choice.min_p) params.min_p = *choice.min_p;
  params.seed = choice.seed ? *choice.seed : std::random_device()();
  return params;
}

int32_t Sampler::sample(std::span<const float> logits) {
  const int32_t best = argmax(logits);
  if (params_.temperature == 0) return best;
  return sample_random(logits, logits[static_cast<size_t>(best)]);
}

int32_t Sampler::sample_random(std::span<const float> logits, float largest) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const double below = static_cast<double>(largest) - static_cast<double>(logits[i]);
    const double weight = std::exp(-below / params_.temperature);
    if (weight > 0) candidates_.push_back({logits[i], static_cast<int32_t>(i), weight});
  }
  keep_top_k();
  keep_top_p();
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params_.min_p; });

  double left = random_.uniform() * total_weight();
  for (const Candidate& c : candidates_) {
    left -= c.weight;
    if (left < 0) return c.id;
  }
  return candidates_.back().id;
}

double Sampler::total_weight() const {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  return total;
}

void Sampler::keep_top_k() {
  if (params_.top_k == 0 || params_.top_k >= std::ssize(candidates_)) return;
  const auto end = candidates_.begin() + params_.top_k;
  std::partial_sort(candidates_.begin(), end, candidates_.end(), Likelier());
  candidates_.erase(end, candidates_.end());
}

void Sampler::keep_top_p() {
  if (params_.top_p >= 1) return;
  // Most of a vocabulary is too unlikely to be kept and needs no sorting: n candidates, each
  // below (1 - p) / n, cannot reach 1 - p together.
  const double total = total_weight();
  const double floor = (1 - params_.top_p) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < floor; });
  std::sort(candidates_.begin(), candidates_.end(), Likelier());
  double sum = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || sum < params_.top_p * total)) {
    sum += candidates_[kept++].weight;
  }
  candidates_.resize(kept);
}

}  // namespace runner
