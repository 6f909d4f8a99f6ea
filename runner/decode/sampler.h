#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decode/logits_processors.h"
#include "decode/random.h"
#include "model/sampling_settings.h"

namespace runner {

// Chooses tokens: processes the logits, then draws among those that the filters leave. The filters
// apply in this order, each to what the one before left, as in transformers 5.23: temperature,
// top_k, top_p, min_p, typical_p. transformers computes in float32, the filters here in double.
class Sampler {
 public:
  explicit Sampler(const SamplingSettings& settings, uint64_t seed = 0);

  // The next token's id for the logits [vocab] after `history`. Throws Error when no logit is
  // finite or one is NaN, and when the settings forbid every token.
  int32_t sample(std::span<const float> logits, const History& history = {});

  // A token that may be chosen.
  struct Candidate {
    float logit;
    int32_t id;
    double weight;  // probability relative to the likeliest token's
  };

  // The tokens among which sample() draws, by their weights; the likeliest alone at temperature 0.
  // The span holds until the next call.
  std::span<const Candidate> candidates(std::span<const float> logits, const History& history = {});

  LogitsProcessors& processors() { return processors_; }

 private:
  struct Likelier {
    bool operator()(const Candidate& a, const Candidate& b) const {
      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    }
  };
  struct Typical {
    double surprise, weight;
  };

  void take_all(std::span<const float> scores, float largest);
  void keep_top_k();
  void keep_top_p();
  void keep_min_p();
  void keep_typical(float largest);
  double total_weight() const;

  LogitsProcessors processors_;
  double temperature_, top_p_, min_p_, typical_p_;
  size_t top_k_;
  Random random_;
  std::vector<Candidate> candidates_;  // scratch, kept to save allocations
  std::vector<Typical> typical_;       // so too
};

}  // namespace runner
