#pragma once

#include <pybind11/pybind11.h>

namespace runner::python {

// ChatTree: a chat template's tree alone, which the exporter compares with the template.
void define_chat_tree(pybind11::module_& m);

}  // namespace runner::python
