#pragma once

#include <pybind11/pybind11.h>

#include "model/sampling_settings.h"

namespace runner::python {

// The settings that keyword arguments give; None is absent. Throws TypeError for an unknown name or
// a value of another type, Error for one out of range.
SamplingSettings settings_from(const pybind11::kwargs& arguments);

// Sampler and sampling_numbers.
void define_sampling(pybind11::module_& m);

}  // namespace runner::python
