#pragma once

#include <pybind11/pybind11.h>

namespace runner::python {

// Adds the function read_raw_tokenizer.
void define_raw_tokenizer(pybind11::module_& m);

}  // namespace runner::python
