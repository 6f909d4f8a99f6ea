#include "python/model.h"

#include <mutex>
#include <random>

#include "decode/score.h"
#include "decode/speed.h"
#include "decode/text_stream.h"
#include "system/error.h"
#include "text/chat.h"

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

void check_positions(const Metadata& metadata, const Ids& tokens, int64_t start, int64_t filled) {
  const int64_t n = std::ssize(tokens);
  if (n < 1 || n > metadata.max_chunk) {
    throw Error("a forward takes 1 to " + std::to_string(metadata.max_chunk) + " tokens, not " +
                std::to_string(n));
  }
  if (start < 0 || start > filled) {
    throw Error("start_pos is " + std::to_string(start) + " but only " + std::to_string(filled) +
                " positions have been run");
  }
  if (start + n > metadata.context_length) {
    throw Error("the tokens end at position " + std::to_string(start + n) +
                ", the context holds " + std::to_string(metadata.context_length) +
                "; export with a larger --max-seq-length");
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

BoundModel::BoundModel(std::unique_ptr<Model> model, std::string backend, bool runnable)
    : model_(std::move(model)), backend_(std::move(backend)), runnable_(runnable) {}

void BoundModel::check_runnable() const {
  if (!runnable_) {
    throw Error(metadata().model_name +
                " was loaded with metadata_only: it cannot run; load it without");
  }
}

const std::shared_ptr<Tokenizer>& BoundModel::tokenizer() {
  if (tokenizer_ == nullptr) {
    tokenizer_ = std::make_shared<Tokenizer>(
        Tokenizer::from_table(std::string(model_->tokenizer_table())));
  }
  return tokenizer_;
}

Ids BoundModel::chat_prompt(const std::vector<std::pair<std::string, std::string>>& messages,
                            bool add_generation_prompt) {
  std::vector<Message> list;
  for (const auto& [role, content] : messages) list.push_back({role, content});
  return ChatFormat::from_json(metadata().chat).encode(list, add_generation_prompt, *tokenizer());
}

FloatArray BoundModel::forward(const Ids& tokens, int64_t start_pos,
                               const std::vector<int64_t>& rows) {
  check_runnable();
  check_positions(metadata(), tokens, start_pos, filled_);
  check_rows(metadata(), rows, std::ssize(tokens));
  FloatArray logits({std::ssize(rows), metadata().vocab_size});
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  const std::span<float> out(logits.mutable_data(), static_cast<size_t>(logits.size()));
  {
    const Work work;
    filled_ = 0;
    model_->forward(ids, start_pos, rows, out);
    filled_ = start_pos + std::ssize(tokens);
  }
  return logits;
}

FloatArray BoundModel::score(const Ids& tokens, int64_t first, const Progress& progress) {
  check_runnable();
  std::vector<float> scores;
  {
    const Work work;
    filled_ = 0;
    scores = runner::score(*model_, tokens, first, {.progress = [&](int64_t done) {
      check_signals();
      if (progress) progress(done, std::ssize(tokens));
    }});
    filled_ = std::ssize(tokens) - 1;
  }
  return FloatArray(std::ssize(scores), scores.data());
}

Generated BoundModel::generate(const Ids& prompt, int64_t steps, const SamplingSettings& choice,
                               std::optional<uint64_t> seed, const std::optional<Ids>& stop_ids,
                               const OnText& on_text, const OnToken& on_token) {
  check_runnable();
  if (steps < 0) throw Error("steps is " + std::to_string(steps) + "; give 0 or more");
  const Tokenizer& words = *tokenizer();
  GenerateOptions options{.steps = steps, .interrupted = [] { return check_signals(), false; }};
  if (stop_ids) {
    options.stop_ids = *stop_ids;
  } else {
    options.stop_ids.assign(metadata().stop_ids.begin(), metadata().stop_ids.end());
  }
  Generated result;
  const auto add = [&](const std::string& piece) {
    if (piece.empty()) return;
    result.text += piece;
    if (on_text) on_text(piece);
  };
  const Work work;
  filled_ = 0;
  Session session(*model_);
  session.check(prompt);
  const SamplingSettings settings = chosen_settings(choice, metadata().sampling);
  check_tokens(settings, metadata().vocab_size);
  TextStream text(words, settings.stop_strings.value_or(std::vector<std::string>()), prompt,
                  TextStream::Start::inside);
  Sampler sampler(settings, seed ? *seed : std::random_device()());
  result.counts = runner::generate(session, sampler, prompt, options, [&](int32_t id) {
    result.ids.push_back(id);
    if (on_token) on_token(id);
    add(text.push(id));
    return !text.stopped();
  });
  add(text.finish());
  filled_ = session.position();
  return result;
}

double BoundModel::time_prefill(int64_t tokens, int64_t depth) {
  check_runnable();
  const Work work;
  filled_ = 0;
  return runner::time_prefill(*model_, tokens, depth, check_signals);
}

double BoundModel::time_decode(int64_t tokens, int64_t depth) {
  check_runnable();
  const Work work;
  filled_ = 0;
  return runner::time_decode(*model_, tokens, depth, check_signals);
}

}  // namespace runner::python
