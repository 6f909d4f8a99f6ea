#pragma once

#include <cstdio>
#include <stdexcept>
#include <string_view>

namespace runner {

// Nobody reads standard output any more, as after `| head`: the program ends, and there is nothing to say.
class NoReader : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Writes to `file` at once, so that text streams. Throws NoReader when standard output's reader is
// gone, and Error when the text cannot be written otherwise, as where the disk is full.
void write_text(std::FILE* file, std::string_view text);

}  // namespace runner
