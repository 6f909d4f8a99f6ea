#include "python/python_model.h"

#include <cstring>

#include "system/cpu_count.h"
#include "system/error.h"
#include "text/base64.h"

namespace py = pybind11;

namespace runner::python {
namespace {

// So that the checks of artifacts made for a runner apply to what has no backend yet.
StringMap with_backend(StringMap map) {
  map[keys::kBackend] = kPythonBackend;
  return map;
}

std::string name_of(const StringMap& map) {
  const auto found = map.find(keys::kModelName);
  return found == map.end() ? "the model" : found->second;
}

py::array_t<int64_t> copied(std::span<const int64_t> values) {
  return py::array_t<int64_t>(std::ssize(values), values.data());
}

}  // namespace

PythonModel::PythonModel(StringMap metadata, py::object forward, int threads)
    : metadata_(parse_metadata(with_backend(metadata), name_of(metadata), kPythonBackend)),
      forward_(std::move(forward)),
      threads_(thread_count(threads)) {
  const auto table = metadata.find(keys::kTokenizer);
  if (table == metadata.end()) throw Error(name_of(metadata) + " has no tokenizer in its metadata");
  tokenizer_table_ = decode_base64(table->second);
}

PythonModel::~PythonModel() {
  const py::gil_scoped_acquire lock;
  output_ = py::object();
  forward_ = py::object();
}

void PythonModel::forward(std::span<const int64_t> tokens, int64_t start_pos,
                          std::span<const int64_t> rows, std::span<float> logits) {
  std::vector<float> unused;
  const std::span<const float> output = run(tokens, start_pos, rows, unused);
  std::memcpy(logits.data(), output.data(), logits.size_bytes());
}

std::span<const float> PythonModel::run(std::span<const int64_t> tokens, int64_t start_pos,
                                        std::span<const int64_t> rows, std::vector<float>&) {
  const py::gil_scoped_acquire lock;
  output_ = py::object();
  const py::object result = forward_(copied(tokens), start_pos, copied(rows));
  const auto array = py::array_t<float, py::array::c_style>::ensure(result);
  if (!array || !py::isinstance<py::array_t<float>>(result) || array.ndim() != 2 ||
      array.shape(0) != std::ssize(rows) || array.shape(1) != metadata_.vocab_size) {
    PyErr_Clear();
    throw Error("forward() of " + metadata_.model_name + " must return float32 [" +
                std::to_string(rows.size()) + ", " + std::to_string(metadata_.vocab_size) + "]");
  }
  output_ = array;
  return {array.data(), static_cast<size_t>(array.size())};
}

}  // namespace runner::python
