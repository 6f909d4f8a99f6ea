#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/sampling_settings.h"

namespace runner {

// The tokens before the one that is to be chosen: all that the model has seen of this text, of
// which the first `prompt` were given and the others chosen.
struct History {
  std::span<const int32_t> tokens = {};
  size_t prompt = 0;
};

// What changes logits by the tokens that came before: biases, penalties, n-gram limits. They act,
// with temperature 0 too, in the order and in the float32 arithmetic of transformers 5.23
// (generation/logits_process.py): logit biases, repetition penalty over all tokens, n-gram limit
// over all tokens, tokens that must not begin. Frequency and presence penalties, which transformers
// has not, follow the repetition penalty, as in vLLM, and count the tokens that were chosen, as
// OpenAI defines them: logit[j] - count[j] * frequency - (count[j] > 0) * presence.
class LogitsProcessors {
 public:
  explicit LogitsProcessors(const SamplingSettings& settings);

  // The processed logits [vocab]: `logits` itself where nothing is set, else memory of this object
  // that the next call overwrites. What is forbidden is minus infinity.
  std::span<const float> apply(std::span<const float> logits, const History& history);

 private:
  bool any() const;
  void add_biases(std::span<const int32_t> tokens);
  void penalize_repetition(std::span<const int32_t> tokens);
  void penalize_generated(std::span<const int32_t> generated);
  void forbid_ngrams(std::span<const int32_t> tokens);
  void forbid(int32_t id);

  // Calls f(score, count) with the score of each distinct token and how often it is there.
  template <class F>
  void each_distinct(std::span<const int32_t> tokens, F f);

  std::vector<TokenBias> biases_;  // by the token whose logit they change
  std::vector<int32_t> not_first_;
  float repetition_, frequency_, presence_;
  size_t ngram_;

  // Scratch, kept to save allocations.
  std::vector<float> scores_;
  std::vector<uint32_t> counts_;  // by token; all 0 between uses
};

}  // namespace runner
