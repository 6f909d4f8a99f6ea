#include "python/model.h"

#include <algorithm>
#include <mutex>
#include <random>

#include "decode/score.h"
#include "decode/speed.h"
#include "model/saved_session.h"
#include "system/error.h"
#include "text/chat_template.h"

namespace py = pybind11;

namespace runner::python {
namespace {

// Held while a model works. The thread that has it may come back to it from a callback.
std::recursive_mutex& work_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

// Without the interpreter's lock, which comes first: who waits for work must not hold it.
class Work {
 public:
  Work() : lock_(work_mutex()) {}

 private:
  py::gil_scoped_release released_;
  std::unique_lock<std::recursive_mutex> lock_;
};

// Marks a reply as being generated, as long as this object lives.
class Replying {
 public:
  explicit Replying(bool& flag) : flag_(flag) { flag_ = true; }
  ~Replying() { flag_ = false; }
  Replying(const Replying&) = delete;
  Replying& operator=(const Replying&) = delete;

 private:
  bool& flag_;
};

void check_positions(const Session& session, const Ids& tokens, int64_t start) {
  const Metadata& metadata = session.model().metadata();
  const int64_t n = std::ssize(tokens), filled = session.position();
  if (n < 1 || n > metadata.max_chunk) {
    throw Error("a forward takes 1 to " + std::to_string(metadata.max_chunk) + " tokens, not " +
                std::to_string(n));
  }
  if (start < 0 || start > filled) {
    throw Error("start_pos is " + std::to_string(start) + " but only " + std::to_string(filled) +
                " positions have been run");
  }
  if (start + n > session.context_length()) {
    throw Error("the tokens end at position " + std::to_string(start + n) +
                ", the context holds " + std::to_string(session.context_length()) + "; " +
                session.longer_context());
  }
  check_vocabulary(metadata, tokens);
}

void check_rows(const Metadata& metadata, const std::vector<int64_t>& rows, int64_t tokens) {
  if (rows.empty() || std::ssize(rows) > metadata.max_rows) {
    throw Error("a forward gives the logits of 1 to " + std::to_string(metadata.max_rows) +
                " rows, not " + std::to_string(rows.size()));
  }
  for (const int64_t row : rows) {
    if (row >= 0 && row < tokens) continue;
    throw Error("there is no row " + std::to_string(row) + " in a chunk of " +
                std::to_string(tokens) + " tokens");
  }
}

}  // namespace

void check_signals() {
  const py::gil_scoped_acquire lock;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

BoundModel::BoundModel(std::unique_ptr<Model> model, std::string backend, const LoadChoice& choice)
    : model_(std::move(model)), backend_(std::move(backend)), runnable_(!choice.metadata_only) {
  if (runnable_) state_ = model_->make_state(choice.state);
}

void BoundModel::check_runnable() const {
  if (!runnable_) {
    throw Error(metadata().model_name +
                " was loaded with metadata_only: it cannot run; load it without");
  }
}

// It takes a session of the state when it is first asked for. Throws Error in a callback of a reply that it
// is in the middle of. Only for who has the Work.
Conversation& BoundModel::own() {
  check_runnable();
  if (replying_) {
    throw Error("a reply is being generated in this session: open another one with open_session()");
  }
  if (!own_) own_.emplace(Session(*model_, state_), *tokenizer());
  return *own_;
}

const std::shared_ptr<Tokenizer>& BoundModel::tokenizer() {
  if (tokenizer_ == nullptr) {
    tokenizer_ = std::make_shared<Tokenizer>(
        Tokenizer::from_table(std::string(model_->tokenizer_table())));
  }
  return tokenizer_;
}

std::optional<std::tm> day_or_none(const std::string& date) {
  if (date.empty()) return std::nullopt;
  const auto day = day_of(date);
  if (!day) throw Error("the date '" + date + "' is no day; give one as 2024-07-26");
  return day;
}

Ids BoundModel::chat_prompt(const std::string& messages, bool add_generation_prompt,
                            const std::string& variables, const std::string& date) {
  ChatInputs inputs{.now = day_or_none(date)};
  for (const auto& [name, value] : templates::value_from_json(variables, kContent).dict().items) {
    inputs.variables.emplace_back(name.bytes(), value);
  }
  return chat().encode(templates::value_from_json(messages, kContent), add_generation_prompt, inputs, *tokenizer());
}

Ids BoundModel::chat_turn(const std::string& messages, const ChatWishes& wishes) {
  const templates::Value list = templates::value_from_json(messages, kContent);
  return chat().encode(list, /*generation_prompt=*/true, inputs_of(wishes, chat()), *tokenizer());
}

const ChatTemplate& BoundModel::chat() {
  if (!chat_) chat_ = ChatTemplate::from_json(metadata().chat);
  return *chat_;
}

std::unique_ptr<BoundSession> BoundModel::open_session() {
  check_runnable();
  const Work work;
  return std::make_unique<BoundSession>(shared_from_this(), Session(*model_, state_));
}

std::unique_ptr<BoundSession> BoundModel::restore_session(const py::bytes& saved) {
  check_runnable();
  const std::string_view bytes = saved;
  const Work work;
  return std::make_unique<BoundSession>(shared_from_this(), load_session(*model_, state_, bytes));
}

std::vector<FloatArray> BoundModel::forward_together(
    const std::vector<std::pair<BoundSession*, Ids>>& turns, bool last_only) {
  check_runnable();
  const auto vocab_size = static_cast<size_t>(metadata().vocab_size);
  std::vector<float> logits;  // of all turns; arrays need the interpreter's lock
  {
    const Work work;
    std::vector<Turn> asked;
    for (const auto& [session, tokens] : turns) {
      if (session == nullptr) throw Error("a turn is a Session and its ids, not None");
      if (&session->model() != this) throw Error("a session is of another model than the forward");
      asked.push_back({&session->session(), tokens});
    }
    if (last_only) {
      append_together(asked);
      for (const Turn& turn : asked) {
        const auto row = turn.session->logits();
        logits.insert(logits.end(), row.begin(), row.end());
      }
    } else {
      std::vector<float> room;
      const auto rows = append_for_rows(asked, room);
      logits.assign(rows.begin(), rows.end());
    }
  }
  std::vector<FloatArray> arrays;
  const float* from = logits.data();
  for (const auto& [session, tokens] : turns) {
    const int64_t rows = last_only ? 1 : std::ssize(tokens);
    arrays.emplace_back(std::vector<py::ssize_t>{rows, metadata().vocab_size}, from);
    from += static_cast<size_t>(rows) * vocab_size;
  }
  return arrays;
}

FloatArray BoundModel::forward(const Ids& tokens, int64_t start_pos,
                               const std::vector<int64_t>& rows) {
  check_rows(metadata(), rows, std::ssize(tokens));
  FloatArray logits({std::ssize(rows), metadata().vocab_size});
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  const std::span<float> out(logits.mutable_data(), static_cast<size_t>(logits.size()));
  {
    const Work work;
    Session& session = own().session();
    check_positions(session, tokens, start_pos);
    session.rewind(start_pos);
    std::vector<float> room;
    const int64_t segment[] = {session.id(), std::ssize(ids)};
    std::ranges::copy(model_->run({ids, segment, rows}, *state_, room), out.begin());
    session.note(tokens, {});
  }
  return logits;
}

FloatArray BoundModel::score(const Ids& tokens, int64_t first, const Progress& progress) {
  std::vector<float> scores;
  {
    const Work work;
    scores = runner::score(own().session(), tokens, first, {.progress = [&](int64_t done) {
      check_signals();
      if (progress) progress(done, std::ssize(tokens));
    }});
  }
  return FloatArray(std::ssize(scores), scores.data());
}

std::vector<Reply> BoundModel::generate(const Ids& prompt, int64_t steps, int64_t num_samples,
                                        const SamplingSettings& choice, std::optional<uint64_t> seed,
                                        const std::optional<Ids>& stop_ids, const OnText& on_text,
                                        const OnToken& on_token) {
  if (steps < 0) throw Error("steps is " + std::to_string(steps) + "; give 0 or more");
  if (num_samples < 1 || num_samples > lowbit::kMostSessions) {
    throw Error("num_samples is " + std::to_string(num_samples) + "; give 1 to " +
                std::to_string(lowbit::kMostSessions));
  }
  const SamplingSettings settings = chosen_settings(choice, metadata().sampling);
  check_tokens(settings, metadata().vocab_size);
  ReplyOptions options{
      {.steps = steps, .interrupted = [] { return check_signals(), false; }},
      settings.stop_strings.value_or(std::vector<std::string>())};
  if (stop_ids) {
    options.generate.stop_ids = *stop_ids;
  } else {
    options.generate.stop_ids.assign(metadata().stop_ids.begin(), metadata().stop_ids.end());
  }
  const uint64_t first_seed = seed ? *seed : std::random_device()();
  std::vector<Sampler> samplers;
  for (int64_t i = 0; i < num_samples; ++i) {
    samplers.emplace_back(settings, first_seed + static_cast<uint64_t>(i));
  }
  const Work work;
  Conversation& conversation = own();
  const Replying replying(replying_);
  conversation.session().rewind(0);
  return conversation.replies(prompt, samplers, options, {on_token, on_text});
}

double BoundModel::time_prefill(int64_t tokens, int64_t depth) {
  const Work work;
  return runner::time_prefill(own().session(), tokens, depth, check_signals);
}

double BoundModel::time_decode(int64_t tokens, int64_t depth) {
  const Work work;
  return runner::time_decode(own().session(), tokens, depth, check_signals);
}

Session& BoundSession::session() {
  if (!session_) throw Error("the session was dropped; open another one");
  return *session_;
}

void BoundSession::drop() {
  const Work work;
  session_.reset();
}

Ids BoundSession::tokens() {
  const Work work;
  const auto held = session().tokens();
  return {held.begin(), held.end()};
}

int64_t BoundSession::position() {
  const Work work;
  return session().position();
}

void BoundSession::rewind(int64_t position) {
  const Work work;
  Session& own = session();
  if (position < 0 || position > own.position()) {
    throw Error("a session at position " + std::to_string(own.position()) +
                " cannot be rewound to " + std::to_string(position));
  }
  own.rewind(position);
}

std::unique_ptr<BoundSession> BoundSession::fork() {
  const Work work;
  return std::make_unique<BoundSession>(model_, session().fork());
}

py::bytes BoundSession::save() {
  std::string bytes;
  {
    const Work work;
    bytes = save_session(session());
  }
  return bytes;
}

}  // namespace runner::python
