#pragma once

#include <cstdio>
#include <string_view>

namespace runner {

// Writes to `file` at once, so that text streams. Throws Error when the reader is gone or the disk
// is full.
void write_text(std::FILE* file, std::string_view text);

}  // namespace runner
