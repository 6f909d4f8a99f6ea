#pragma once

#include <string_view>

namespace runner {

// Throws Error for JSON whose lists and objects lie more than 100 deep: to copy or to print such a value
// would take a deeper stack than a program has.
void check_nesting(std::string_view json);

}  // namespace runner
