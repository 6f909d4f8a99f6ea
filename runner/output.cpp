#include "runner/output.h"

#include <cerrno>
#include <cstring>
#include <string>

#include "runner/error.h"

namespace runner {

void write_text(std::FILE* file, std::string_view text) {
  if (text.empty()) return;
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (!written || std::fflush(file) != 0) {
    throw Error(std::string("cannot write the output: ") + std::strerror(errno ? errno : EIO) +
                "; check where standard output goes");
  }
}

}  // namespace runner
