#pragma once

#include "text/template_filters.h"

namespace runner::templates {

std::span<const NamedFunction> methods();

// Whether Python's values of that kind have a public attribute of that name.
bool has_method(const Value& value, std::string_view name);

}  // namespace runner::templates
