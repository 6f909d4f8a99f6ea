#include "model/session.h"

#include <numeric>
#include <string>
#include <utility>

#include "system/error.h"

namespace runner {

Session::Session(Model& model, std::shared_ptr<OwnedState> state, int64_t prefill_chunk)
    : Session(model, state, prefill_chunk, (*state)->open()) {}

Session::Session(Model& model, std::shared_ptr<OwnedState> state, int64_t prefill_chunk, SessionId id)
    : model_(model), state_(std::move(state)), id_(id) {
  const int64_t most = model.metadata().max_chunk;
  prefill_chunk_ = prefill_chunk > 0 ? std::min(prefill_chunk, most) : most;
}

Session::Session(Session&& other) noexcept
    : model_(other.model_),
      state_(std::move(other.state_)),
      prefill_chunk_(other.prefill_chunk_),
      id_(std::exchange(other.id_, 0)),
      tokens_(std::move(other.tokens_)),
      last_logits_(std::move(other.last_logits_)) {}

Session::~Session() {
  if (id_ == 0) return;
  try {
    (*state_)->drop(id_);
  } catch (const lowbit::StateError&) {  // a forward runs: it goes with the state
  }
}

Session Session::fork() const {
  Session copy(model_, state_, prefill_chunk_, (*state_)->fork(id_));
  copy.tokens_ = tokens_;
  copy.last_logits_ = last_logits_;
  return copy;
}

void Session::rewind(int64_t position) {
  if (position >= this->position()) return;
  (*state_)->rewind(id_, position);
  tokens_.resize(static_cast<size_t>(position));
}

std::string Session::longer_context() const {
  const Metadata& m = model_.metadata();
  if (!m.lowbit) return "export with a larger --max-seq-length";
  if (m.longest_context <= context_length()) return "use a model made for longer contexts";
  return "give --max-seq-length, up to " + std::to_string(m.longest_context);
}

void Session::check_at(int64_t position, std::span<const int32_t> tokens) const {
  if (tokens.empty()) throw Error("there are no tokens to run; give a prompt");
  const int64_t needed = position + std::ssize(tokens);
  if (needed > context_length()) {
    throw Error("the prompt needs " + std::to_string(needed) + " tokens, the context holds " +
                std::to_string(context_length()) + "; shorten the prompt, or " + longer_context());
  }
  check_vocabulary(model_.metadata(), tokens);
}

void Session::note(std::span<const int32_t> tokens, std::span<const float> logits) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  last_logits_.assign(logits.begin(), logits.end());
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
    const int64_t segment[] = {id_, std::ssize(chunk_)};
    const std::span<const float> logits = model_.run({chunk_, segment, rows_}, *state_, room_);
    note(chunk, logits.last(vocab_size));
    if (every_row) {
      for (size_t row = 0; row < length; ++row) {
        every_row(logits.subspan(row * vocab_size, vocab_size));
      }
    }
  }
  return true;
}

namespace {

// The inputs of a forward of several sessions, with the rows of all tokens or of each session's last.
class Together {
 public:
  Together(std::span<const Turn> turns, bool every_row) : turns_(turns) {
    for (const Turn& turn : turns) {
      if (&turn.session->state() != &turns[0].session->state()) {
        throw Error("the sessions of a forward are of one state; run others by themselves");
      }
      turn.session->check(turn.tokens);
      tokens_.insert(tokens_.end(), turn.tokens.begin(), turn.tokens.end());
      segments_.insert(segments_.end(), {turn.session->id(), std::ssize(turn.tokens)});
      last_.push_back(std::ssize(tokens_) - 1);
    }
    rows_ = last_;
    if (every_row) {
      rows_.resize(tokens_.size());
      std::iota(rows_.begin(), rows_.end(), 0);
    }
    check_size();
  }

  std::span<const float> run(std::vector<float>& room) const {
    const auto logits = model().run({tokens_, segments_, rows_}, turns_[0].session->state(), room);
    const auto vocab_size = static_cast<size_t>(model().metadata().vocab_size);
    const bool every_row = rows_.size() != last_.size();
    for (size_t i = 0; i < turns_.size(); ++i) {
      const size_t row = every_row ? static_cast<size_t>(last_[i]) : i;
      turns_[i].session->note(turns_[i].tokens, logits.subspan(row * vocab_size, vocab_size));
    }
    return logits;
  }

 private:
  Model& model() const { return turns_[0].session->model(); }

  void check_size() const {
    const Metadata& m = model().metadata();
    const auto most = [&](const char* what, size_t n, int64_t limit) {
      if (static_cast<int64_t>(n) <= limit) return;
      throw Error("a forward takes up to " + std::to_string(limit) + " " + what + ", not " +
                  std::to_string(n));
    };
    most("sessions", turns_.size(), m.max_segments);
    most("tokens", tokens_.size(), m.max_chunk);
    most("rows of logits", rows_.size(), m.max_rows);
  }

  std::span<const Turn> turns_;
  std::vector<int64_t> tokens_, segments_, rows_, last_;
};

}  // namespace

void append_together(std::span<const Turn> turns) {
  std::vector<float> room;
  if (!turns.empty()) Together(turns, false).run(room);
}

std::span<const float> append_for_rows(std::span<const Turn> turns, std::vector<float>& room) {
  if (turns.empty()) return {};
  return Together(turns, true).run(room);
}

}  // namespace runner
