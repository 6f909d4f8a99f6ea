#include "python/python_model.h"

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

// What the runner sees is one session, whose cache lies behind the callable.
Metadata of_one_session(Metadata metadata) {
  metadata.lowbit = false;
  metadata.state = {};
  metadata.max_segments = 1;
  metadata.longest_context = metadata.context_length;
  return metadata;
}

std::string name_of(const StringMap& map) {
  const auto found = map.find(keys::kModelName);
  return found == map.end() ? "the model" : found->second;
}

py::array_t<int64_t> copied(std::span<const int64_t> values) {
  return py::array_t<int64_t>(std::ssize(values), values.data());
}

}  // namespace

PythonModel::PythonModel(StringMap metadata, py::object forward, int threads, lowbit::Library library)
    : metadata_(of_one_session(
          parse_metadata(with_backend(metadata), name_of(metadata), kPythonBackend))),
      forward_(std::move(forward)),
      threads_(thread_count(threads)),
      library_(library) {
  const auto table = metadata.find(keys::kTokenizer);
  if (table == metadata.end()) throw Error(name_of(metadata) + " has no tokenizer in its metadata");
  tokenizer_table_ = decode_base64(table->second);
}

PythonModel::~PythonModel() {
  const py::gil_scoped_acquire lock;
  output_ = py::object();
  forward_ = py::object();
}

std::span<const float> PythonModel::run_graph(const Batch& batch, const OwnedState& state,
                                              std::vector<float>&) {
  const py::gil_scoped_acquire lock;
  output_ = py::object();
  const py::object result = forward_(copied(batch.tokens), state->position(batch.segments[0]), copied(batch.rows));
  const auto array = py::array_t<float, py::array::c_style>::ensure(result);
  if (!array || !py::isinstance<py::array_t<float>>(result) || array.ndim() != 2 ||
      array.shape(0) != std::ssize(batch.rows) || array.shape(1) != metadata_.vocab_size) {
    PyErr_Clear();
    throw Error("forward() of " + metadata_.model_name + " must return float32 [" +
                std::to_string(batch.rows.size()) + ", " + std::to_string(metadata_.vocab_size) + "]");
  }
  output_ = array;
  return {array.data(), static_cast<size_t>(array.size())};
}

}  // namespace runner::python
