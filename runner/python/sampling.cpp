#include "python/sampling.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "decode/sampler.h"
#include "system/error.h"

namespace py = pybind11;

namespace runner::python {
namespace {

using Ids = std::vector<int32_t>;
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

double number(const NumberSetting& setting, const py::handle& value) {
  const auto given = py::cast<double>(value);
  if (setting.allows(given)) return given;
  throw Error(std::string(setting.name) + " is " + py::cast<std::string>(py::str(value)) +
              "; give " + setting.wanted());
}

// {id: bias} or {(id, ..., id): bias}.
std::vector<TokenBias> biases(const py::handle& given) {
  if (!py::isinstance<py::dict>(given)) throw py::cast_error();
  std::vector<TokenBias> biases;
  for (const auto& [key, value] : py::cast<py::dict>(given)) {
    const bool one = py::isinstance<py::int_>(key);
    const auto bias = py::cast<float>(value);
    if (std::isnan(bias) || bias == INFINITY)
      throw Error("logit_bias: give finite numbers or -inf");
    biases.push_back({one ? Ids{py::cast<int32_t>(key)} : py::cast<Ids>(key), bias});
  }
  return biases;
}

bool set_number(SamplingSettings& settings, const std::string& name, const py::handle& value) {
  for (const NumberSetting& setting : number_settings()) {
    if (name != setting.name) continue;
    settings.*setting.member = number(setting, value);
    return true;
  }
  return false;
}

bool set_list(SamplingSettings& settings, const std::string& name, const py::handle& value) {
  if (name == "logit_bias") {
    settings.logit_bias = biases(value);
  } else if (name == "bad_words_ids") {
    settings.bad_words_ids = py::cast<std::vector<Ids>>(value);
  } else if (name == "begin_suppress_tokens") {
    settings.begin_suppress_tokens = py::cast<Ids>(value);
  } else if (name == "stop_strings") {
    settings.stop_strings = py::cast<std::vector<std::string>>(value);
  } else {
    return false;
  }
  return true;
}

std::span<const float> as_span(const FloatArray& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

FloatArray processed(Sampler& sampler, const FloatArray& logits, const Ids& tokens, size_t prompt) {
  const auto scores = sampler.processors().apply(as_span(logits), {tokens, prompt});
  return FloatArray(std::ssize(scores), scores.data());
}

py::dict probabilities(Sampler& sampler, const FloatArray& logits, const Ids& tokens,
                       size_t prompt) {
  const auto candidates = sampler.candidates(as_span(logits), {tokens, prompt});
  double total = 0;
  for (const auto& candidate : candidates) total += candidate.weight;
  py::dict result;
  for (const auto& candidate : candidates) {
    result[py::int_(candidate.id)] = candidate.weight / total;
  }
  return result;
}

int32_t sampled(Sampler& sampler, const FloatArray& logits, const Ids& tokens, size_t prompt) {
  return sampler.sample(as_span(logits), {tokens, prompt});
}

}  // namespace

SamplingSettings settings_from(const py::kwargs& arguments) {
  SamplingSettings settings;
  for (const auto& [key, value] : arguments) {
    const auto name = py::cast<std::string>(key);
    if (value.is_none()) continue;
    try {
      if (set_number(settings, name, value) || set_list(settings, name, value)) continue;
    } catch (const py::cast_error&) {
      throw py::type_error(name + " is " + py::cast<std::string>(py::repr(value)) +
                           ", of another type than it takes");
    }
    throw py::type_error("there is no setting '" + name + "'; see the help of Model.generate");
  }
  return settings;
}

void define_sampling(py::module_& m) {
  py::class_<Sampler>(m, "Sampler", py::module_local(),
                      "Logits processors and filters without a model, for tests of what they do.")
      .def(py::init([](uint64_t seed, const py::kwargs& settings) {
             return std::make_unique<Sampler>(settings_from(settings), seed);
           }),
           py::arg("seed") = 0)
      .def("processed", &processed, py::arg("logits"), py::arg("tokens"), py::arg("prompt"),
           "Logits float32 [vocab] after biases, penalties and limits: `tokens` came before, the "
           "first `prompt` of them given, the others chosen.")
      .def("probabilities", &probabilities, py::arg("logits"), py::arg("tokens"), py::arg("prompt"),
           "The tokens that may be chosen: {id: probability}.")
      .def("sample", &sampled, py::arg("logits"), py::arg("tokens"), py::arg("prompt"),
           "One of them.");
  m.def(
      "sampling_numbers",
      [] {
        py::list rows;
        for (const NumberSetting& s : number_settings()) {
          rows.append(py::make_tuple(s.name, s.placeholder, s.low, s.high, s.neutral, s.example,
                                     s.help, s.above_low, s.whole));
        }
        return rows;
      },
      "Settings that are numbers, as exporter.model.generation_settings.NumberSetting has them.");
}

}  // namespace runner::python
