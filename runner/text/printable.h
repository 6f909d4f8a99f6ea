#pragma once

#include <string>
#include <string_view>

namespace runner {

// `text` as one line for a terminal, valid UTF-8: control characters are blanks, and bytes that are no
// UTF-8, as file names may have, are written \xff.
std::string printable(std::string_view text);

}  // namespace runner
