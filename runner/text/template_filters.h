#pragma once

#include <span>
#include <string_view>

#include "text/template_functions.h"

namespace runner::templates {

inline constexpr size_t kAnyNumber = static_cast<size_t>(-1);

struct NamedFunction {
  std::string_view name;
  size_t n_arguments;
  Function function;
};

// Those that there are; exporter/chat/functions.py has the same with Jinja's defaults.
std::span<const NamedFunction> filters();
std::span<const NamedFunction> tests();

}  // namespace runner::templates
