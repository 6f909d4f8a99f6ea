#pragma once

#include <string>

namespace runner {

// From here on a crash inside a framework or a model's compiled code ends the program with
// `line` on standard error and exit status 1: a damaged artifact can pass every check there is
// and still lead such code astray. Under a sanitizer, which reports crashes itself, does nothing.
void end_crashes_with(const std::string& line);

}  // namespace runner
