#include "runner/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "runner/error.h"

namespace runner {

// Not by fwrite(), which loses what a signal keeps it from writing.
void write_text(std::FILE* file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fileno(file), text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      throw Error(std::string("cannot write the output: ") + std::strerror(errno) +
                  "; check where standard output goes");
    }
  }
}

}  // namespace runner
