#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runner/metadata.h"
#include "runner/random.h"

namespace runner {

// How the next token is chosen. The filters apply in this order, each to what the one before left,
// as in Hugging Face's generate().
struct SamplingParams {
  double temperature = 0.8;  // 0: greedy, the filters play no part
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  double top_p = 0.9;        // keep the likeliest whose probabilities reach p; 1: all
  double min_p = 0;          // keep those at least this fraction as likely as the likeliest
  uint64_t seed = 0;
};

// The model's own recommendation, where it has one: what it leaves out is then off. The values of
// SamplingParams itself otherwise.
SamplingParams recommended_sampling(const SamplingDefaults& defaults);

// What a caller asks for; what is absent is as the model recommends, the seed random.
struct SamplingChoice {
  std::optional<double> temperature, top_p, min_p;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
};

SamplingParams chosen_sampling(const SamplingChoice& choice, const SamplingDefaults& defaults);

class Sampler {
 public:
  explicit Sampler(const SamplingParams& params) : params_(params), random_(params.seed) {}

  // The next token's id for the logits [vocab]. Throws Error when no logit is finite or one is NaN.
  int32_t sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    int32_t id;
    double weight;  // probability relative to the likeliest token's
  };
  struct Likelier {
    bool operator()(const Candidate& a, const Candidate& b) const {
      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    }
  };

  int32_t sample_random(std::span<const float> logits, float largest);
  void keep_top_k();
  void keep_top_p();
  double total_weight() const;

  SamplingParams params_;
  Random random_;
  std::vector<Candidate> candidates_;  // scratch, kept to save allocations
};

}  // namespace runner
