#include "system/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "system/error.h"

namespace runner {

// Not by fwrite(), which loses what a signal keeps it from writing.
void write_text(std::FILE* file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fileno(file), text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EPIPE && file == stdout) {
      throw NoReader("nobody reads standard output");
    } else if (errno != EINTR) {
      const std::string name = file == stderr ? "standard error" : "standard output";
      throw Error("cannot write the output: " + std::string(std::strerror(errno)) + "; check where " +
                  name + " goes");
    }
  }
}

}  // namespace runner
