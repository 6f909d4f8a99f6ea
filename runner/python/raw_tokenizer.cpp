#include "python/raw_tokenizer.h"

#include <string>
#include <string_view>

#include "text/tokenizer_raw.h"

namespace py = pybind11;

namespace runner::python {
namespace {

py::dict token_of(const AddedEntry& entry) {
  return py::dict(py::arg("id") = *entry.id, py::arg("content") = entry.content,
                  py::arg("special") = entry.special, py::arg("normalized") = entry.normalized,
                  py::arg("lstrip") = entry.lstrip, py::arg("rstrip") = entry.rstrip,
                  py::arg("single_word") = entry.single_word);
}

py::tuple read_as_python(const py::bytes& data, const std::string& beside) {
  const RawTokenizer raw = read_raw_tokenizer(std::string_view(data), beside);
  py::list added;
  for (const AddedEntry& entry : raw.added) added.append(token_of(entry));
  return py::make_tuple(raw.kind, py::bytes(serialize_table(raw.table)), added);
}

}  // namespace

void define_raw_tokenizer(py::module_& m) {
  m.def("read_raw_tokenizer", &read_as_python, py::arg("data"), py::arg("beside") = "",
        "The tokenizer of a file's bytes and of the files beside the path `beside`, where one is given: "
        "(kind, the canonical table's bytes, the added tokens as dicts in the order of their ids). Raises "
        "ValueError for what is damaged or not supported.");
}

}  // namespace runner::python
