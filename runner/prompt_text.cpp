#include "runner/prompt_text.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "runner/error.h"
#include "runner/utf8.h"

namespace runner {
namespace {

constexpr int kPatienceMs = 2000;

// The file's bytes to its end, or to an interrupt.
std::string read_to_end(int descriptor, const std::string& name) {
  std::string bytes;
  std::array<char, 1 << 16> block;
  while (true) {
    const ssize_t size = ::read(descriptor, block.data(), block.size());
    if (size > 0) {
      bytes.append(block.data(), static_cast<size_t>(size));
    } else if (size == 0 || errno == EINTR) {
      return bytes;
    } else {
      throw Error(name + " cannot be read: " + std::strerror(errno) + "; give a UTF-8 text file");
    }
  }
}

void check_is_text(const std::string& bytes, const std::string& name) {
  if (const size_t zero = bytes.find('\0'); zero != std::string::npos) {
    throw Error(name + " is not text (byte 0 at offset " + std::to_string(zero) +
                "); give UTF-8 text, as iconv -t UTF-8 makes of other encodings");
  }
  const size_t at = valid_utf8_prefix(bytes);
  if (at == bytes.size()) return;
  constexpr const char* kDigits = "0123456789abcdef";
  const auto byte = static_cast<unsigned char>(bytes[at]);
  throw Error(name + " is not UTF-8 (byte 0x" + kDigits[byte >> 4] + kDigits[byte & 15] +
              " at offset " + std::to_string(at) +
              "); convert it: iconv -f ENCODING -t UTF-8 FILE");
}

std::string as_prompt(std::string bytes, const std::string& name) {
  check_is_text(bytes, name);
  if (bytes.starts_with("\xef\xbb\xbf")) bytes.erase(0, 3);
  if (bytes.ends_with('\n')) bytes.pop_back();
  if (bytes.ends_with('\r')) bytes.pop_back();
  return bytes;
}

}  // namespace

std::string prompt_from_file(const std::string& path) {
  const std::string name = "the prompt file " + path;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw Error(name + " cannot be opened: " + std::strerror(errno) +
                "; give -f a UTF-8 text file, or the text itself with -i");
  }
  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } closer{descriptor};
  return as_prompt(read_to_end(descriptor, name), name);
}

std::optional<std::string> prompt_from_stdin(void (*waiting)()) {
  if (fcntl(STDIN_FILENO, F_GETFD) < 0 || isatty(STDIN_FILENO)) return std::nullopt;
  pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  if (poll(&input, 1, kPatienceMs) == 0) waiting();
  std::string bytes = read_to_end(STDIN_FILENO, "standard input");
  if (bytes.empty()) return std::nullopt;
  return as_prompt(std::move(bytes), "the prompt on standard input");
}

}  // namespace runner
