#include "model/session.h"

#include <numeric>
#include <string>

#include "system/error.h"

namespace runner {

Session::Session(Model& model, int64_t prefill_chunk) : model_(model) {
  const int64_t most = model.metadata().max_chunk;
  prefill_chunk_ = prefill_chunk > 0 ? std::min(prefill_chunk, most) : most;
}

void Session::check(std::span<const int32_t> tokens) const {
  if (tokens.empty()) throw Error("there are no tokens to run; give a prompt");
  const int64_t needed = position() + std::ssize(tokens);
  if (needed > context_length()) {
    throw Error("the prompt needs " + std::to_string(needed) + " tokens, the context holds " +
                std::to_string(context_length()) +
                "; shorten the prompt or export with a larger --max-seq-length");
  }
  check_vocabulary(model_.metadata(), tokens);
}

bool Session::append(std::span<const int32_t> tokens, const RowSink& every_row,
                     const std::function<bool()>& interrupted) {
  check(tokens);
  const auto vocab_size = static_cast<size_t>(model_.metadata().vocab_size);
  const auto chunk_size = static_cast<size_t>(
      every_row ? std::min(prefill_chunk_, model_.metadata().max_rows) : prefill_chunk_);
  while (!tokens.empty()) {
    if (interrupted && interrupted()) return false;
    const size_t length = std::min(chunk_size, tokens.size());
    const auto chunk = tokens.first(length);
    chunk_.assign(chunk.begin(), chunk.end());
    tokens = tokens.subspan(length);
    // A forward must ask for at least one row; of all but the last chunk nobody reads it.
    rows_.resize(every_row ? length : 1);
    std::iota(rows_.begin(), rows_.end(), static_cast<int64_t>(length - rows_.size()));
    chunk_logits_.resize(rows_.size() * vocab_size);
    model_.forward(chunk_, position(), rows_, chunk_logits_);
    tokens_.insert(tokens_.end(), chunk.begin(), chunk.end());
    const std::span<const float> logits(chunk_logits_);
    if (every_row) {
      for (size_t row = 0; row < length; ++row) {
        every_row(logits.subspan(row * vocab_size, vocab_size));
      }
    }
    last_logits_ = logits.last(vocab_size);
  }
  return true;
}

}  // namespace runner
