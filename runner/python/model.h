#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decode/conversation.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/chat_wishes.h"
#include "text/tokenizer.h"

namespace runner::python {

using Ids = std::vector<int32_t>;
using FloatArray = pybind11::array_t<float>;

// How a model is loaded: `context_length`, `cache_dtype` and `sessions` are its state's.
struct LoadChoice {
  int threads = 0;
  bool metadata_only = false;
  StateChoice state = {};
};

// The day "2024-07-26"; none of "". Throws Error for anything else.
std::optional<std::tm> day_or_none(const std::string& date);

class BoundModel;

// A session as Python sees it; it keeps its model.
class [[gnu::visibility("hidden")]] BoundSession {
 public:
  BoundSession(std::shared_ptr<BoundModel> model, Session session)
      : model_(std::move(model)), session_(std::move(session)) {}
  ~BoundSession() { drop(); }

  BoundModel& model() const { return *model_; }
  // Throws Error where it was dropped.
  Session& session();
  void drop();

  Ids tokens();
  int64_t position();
  void rewind(int64_t position);
  std::unique_ptr<BoundSession> fork();
  pybind11::bytes save();

 private:
  std::shared_ptr<BoundModel> model_;
  std::optional<Session> session_;
};

// A model as Python sees it. Native work runs without the interpreter's lock; one model of this
// library works at a time, since they share one thread pool.
class [[gnu::visibility("hidden")]] BoundModel : public std::enable_shared_from_this<BoundModel> {
 public:
  using OnText = std::function<void(const std::string&)>;
  using OnToken = std::function<void(int32_t)>;
  using Progress = std::function<void(int64_t, int64_t)>;

  BoundModel(std::unique_ptr<Model> model, std::string backend, const LoadChoice& choice);

  const Metadata& metadata() const { return model_->metadata(); }
  int threads() const { return model_->threads(); }
  // Most tokens of a session.
  int64_t context_length() const {
    return state_ ? (*state_)->options().context_length : metadata().context_length;
  }
  std::string isa() const { return runnable_ ? model_->isa() : ""; }
  const std::string& backend() const { return backend_; }
  const std::shared_ptr<Tokenizer>& tokenizer();

  // `messages` is a JSON list, `variables` a JSON object of what else the template may know; `date`,
  // where there is one, a day instead of the clock's.
  Ids chat_prompt(const std::string& messages, bool add_generation_prompt, const std::string& variables,
                  const std::string& date);
  // The same with what makes the model answer, told what a person wishes.
  Ids chat_turn(const std::string& messages, const ChatWishes& wishes);
  std::unique_ptr<BoundSession> open_session();
  std::unique_ptr<BoundSession> restore_session(const pybind11::bytes& saved);
  std::vector<FloatArray> forward_together(
      const std::vector<std::pair<BoundSession*, Ids>>& turns, bool last_only);
  FloatArray forward(const Ids& tokens, int64_t start_pos, const std::vector<int64_t>& rows);
  FloatArray score(const Ids& tokens, int64_t first, const Progress& progress);
  // `num_samples` continuations, of the seeds from `seed` on.
  std::vector<Reply> generate(const Ids& prompt, int64_t steps, int64_t num_samples,
                              const SamplingSettings& choice, std::optional<uint64_t> seed,
                              const std::optional<Ids>& stop_ids, const OnText& on_text,
                              const OnToken& on_token);
  double time_prefill(int64_t tokens, int64_t depth);
  double time_decode(int64_t tokens, int64_t depth);

 private:
  void check_runnable() const;
  Conversation& own();
  const ChatTemplate& chat();

  std::unique_ptr<Model> model_;
  std::string backend_;
  bool runnable_;
  std::shared_ptr<OwnedState> state_;  // none with metadata only
  bool replying_ = false;              // own_ is in the middle of a reply
  std::optional<Conversation> own_;    // of forward(), score(), generate() and the timings
  std::shared_ptr<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_;
};

// Throws what a signal's handler raises (KeyboardInterrupt); takes the interpreter's lock.
void check_signals();

}  // namespace runner::python
