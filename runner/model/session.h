#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"

namespace runner {

// A conversation with a model: the tokens at the filled positions of its KV cache, and what the
// model said after the last one.
class Session {
 public:
  using RowSink = std::function<void(std::span<const float>)>;

  // `prefill_chunk`: most tokens of one forward; 0: as many as the artifact takes.
  explicit Session(Model& model, int64_t prefill_chunk = 0);

  int64_t position() const { return std::ssize(tokens_); }
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t context_length() const { return model_.metadata().context_length; }

  // Runs `tokens` (at least one) at the next positions, in chunks. When `every_row` is given it
  // receives each position's logits in order. `interrupted` is asked between chunks.
  // Returns false when interrupted. Throws Error when the tokens do not fit the context or are
  // outside the vocabulary; the position is then unchanged.
  bool append(std::span<const int32_t> tokens, const RowSink& every_row = nullptr,
              const std::function<bool()>& interrupted = nullptr);

  // Forgets the positions from `position` on; logits() means nothing until the next append().
  void rewind(int64_t position) {
    tokens_.resize(static_cast<size_t>(std::min(this->position(), position)));
  }

  // Float32 logits [vocab] after the last position.
  std::span<const float> logits() const { return last_logits_; }

  // Throws what append() would for these tokens.
  void check(std::span<const int32_t> tokens) const;

 private:
  Model& model_;
  int64_t prefill_chunk_;
  std::vector<int32_t> tokens_;
  std::vector<int64_t> chunk_, rows_;   // one forward's inputs
  std::vector<float> chunk_logits_;     // and output
  std::span<const float> last_logits_;  // its last row
};

}  // namespace runner
