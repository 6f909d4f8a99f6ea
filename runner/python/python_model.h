#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace runner::python {

// A Model whose forward is a Python callable: forward(tokens int64 [T], start_pos, rows int64 [R])
// -> float32 [R, vocabulary]; what it remembers is its own, of one session. The caller of run() does not hold the interpreter's lock.
class [[gnu::visibility("hidden")]] PythonModel final : public Model {
 public:
  // `metadata` as artifacts hold it, with the tokenizer's table in base64. Throws Error where a key
  // is missing or wrong.
  PythonModel(StringMap metadata, pybind11::object forward, int threads, lowbit::Library library);
  ~PythonModel() override;

  const Metadata& metadata() const override { return metadata_; }
  std::string_view tokenizer_table() const override { return tokenizer_table_; }
  int threads() const override { return threads_; }
  std::string isa() const override { return "python"; }

 protected:
  lowbit::Library library() const override { return library_; }
  std::span<const float> run_graph(const Batch& batch, const OwnedState& state,
                                   std::vector<float>& room) override;

 private:
  Metadata metadata_;
  std::string tokenizer_table_;
  pybind11::object forward_, output_;  // the output is the last one, whose memory was handed out
  int threads_;
  lowbit::Library library_;
};

inline constexpr std::string_view kPythonBackend = "python";

}  // namespace runner::python
