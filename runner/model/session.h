#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace runner {

// A conversation with a model: a session of a state, the tokens at its positions, and what the model
// said after the last one.
class Session {
 public:
  using RowSink = std::function<void(std::span<const float>)>;

  // A new one. `prefill_chunk`: most tokens of one forward; 0: as many as the artifact takes.
  Session(Model& model, std::shared_ptr<OwnedState> state, int64_t prefill_chunk = 0);
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) = delete;

  // One of the same tokens; what both remember is shared until one of them goes on.
  // Throws StateError when the state has no session left.
  Session fork() const;

  Model& model() const { return model_; }
  const OwnedState& state() const { return *state_; }
  SessionId id() const { return id_; }
  int64_t position() const { return std::ssize(tokens_); }
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t context_length() const { return (*state_)->options().context_length; }

  // Runs `tokens` (at least one) at the next positions, in chunks. When `every_row` is given it
  // receives each position's logits in order. `interrupted` is asked between chunks.
  // Returns false when interrupted. Throws Error when the tokens do not fit the context or are
  // outside the vocabulary; the position is then unchanged.
  bool append(std::span<const int32_t> tokens, const RowSink& every_row = nullptr,
              const std::function<bool()>& interrupted = nullptr);

  // Forgets the positions from `position` on; logits() means nothing until the next append().
  void rewind(int64_t position);

  // Float32 logits [vocab] after the last position; none before the first append() of a session that was
  // restored.
  std::span<const float> logits() const { return last_logits_; }

  // What to do for a longer context, such as "give --max-seq-length, up to 8192".
  std::string longer_context() const;

  // Throws what append() would for these tokens, or would after rewind(position).
  void check(std::span<const int32_t> tokens) const { check_at(position(), tokens); }
  void check_at(int64_t position, std::span<const int32_t> tokens) const;

  // For what has run a forward of `tokens` of this session itself, and what it says after them.
  void note(std::span<const int32_t> tokens, std::span<const float> logits);

 private:
  friend class SavedSession;
  Session(Model& model, std::shared_ptr<OwnedState> state, int64_t prefill_chunk, SessionId id);

  Model& model_;
  std::shared_ptr<OwnedState> state_;
  int64_t prefill_chunk_;
  SessionId id_;  // 0: moved from
  std::vector<int32_t> tokens_;
  std::vector<int64_t> chunk_, rows_;  // one forward's inputs
  std::vector<float> room_, last_logits_;
};

// A session and the tokens that it runs in a forward with others.
struct Turn {
  Session* session;
  std::span<const int32_t> tokens;
};

// Runs the tokens of all turns in one forward; each session then has the logits after its last.
// Throws Error as Session::append() does, and where they are more than a forward takes; nothing has
// changed then.
void append_together(std::span<const Turn> turns);

// The same, and returns float32 logits [tokens of all turns, vocab], valid until the next forward; or in
// `room`. The tokens are at most max_rows.
std::span<const float> append_for_rows(std::span<const Turn> turns, std::vector<float>& room);

}  // namespace runner
