#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decode/generate.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace runner::python {

using Ids = std::vector<int32_t>;
using FloatArray = pybind11::array_t<float>;

struct Generated {
  std::string text;
  Ids ids;
  GenerateResult counts;
};

// A model as Python sees it. Native work runs without the interpreter's lock; one model of this
// library works at a time, since they share one thread pool.
class [[gnu::visibility("hidden")]] BoundModel {
 public:
  using OnText = std::function<void(const std::string&)>;
  using OnToken = std::function<void(int32_t)>;
  using Progress = std::function<void(int64_t, int64_t)>;

  BoundModel(std::unique_ptr<Model> model, std::string backend, bool runnable);

  const Metadata& metadata() const { return model_->metadata(); }
  int threads() const { return model_->threads(); }
  std::string isa() const { return runnable_ ? model_->isa() : ""; }
  const std::string& backend() const { return backend_; }
  const std::shared_ptr<Tokenizer>& tokenizer();

  Ids chat_prompt(const std::vector<std::pair<std::string, std::string>>& messages,
                  bool add_generation_prompt);
  FloatArray forward(const Ids& tokens, int64_t start_pos, const std::vector<int64_t>& rows);
  FloatArray score(const Ids& tokens, int64_t first, const Progress& progress);
  Generated generate(const Ids& prompt, int64_t steps, const SamplingSettings& choice,
                     std::optional<uint64_t> seed, const std::optional<Ids>& stop_ids,
                     const OnText& on_text, const OnToken& on_token);
  double time_prefill(int64_t tokens, int64_t depth);
  double time_decode(int64_t tokens, int64_t depth);

 private:
  void check_runnable() const;

  std::unique_ptr<Model> model_;
  std::string backend_;
  bool runnable_;
  int64_t filled_ = 0;  // positions that forward() may build on
  std::shared_ptr<Tokenizer> tokenizer_;
};

// Throws what a signal's handler raises (KeyboardInterrupt); takes the interpreter's lock.
void check_signals();

}  // namespace runner::python
