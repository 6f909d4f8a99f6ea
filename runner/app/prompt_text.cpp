#include "app/prompt_text.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "system/error.h"
#include "system/interrupt.h"
#include "text/utf8.h"

namespace runner {
namespace {

constexpr int kSliceMs = 100, kPatienceMs = 2000;
constexpr size_t kMost = 64 << 20;  // bytes of a prompt

// Waits until read() does not; false after an interrupt. In slices, since one that comes just before
// poll() does not end it. `waiting`, where there is one, is called when nothing has come for long.
bool wait_for_bytes(int descriptor, void (*waiting)()) {
  pollfd input = {.fd = descriptor, .events = POLLIN, .revents = 0};
  for (int waited = 0; !interrupted();) {
    const int ready = poll(&input, 1, kSliceMs);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;  // what is wrong read() says
    if (waiting && ready == 0 && (waited += kSliceMs) == kPatienceMs) {
      waiting();
      waiting = nullptr;
    }
  }
  return false;
}

// Checks `bytes` from `begin` on, the rest of them or what has come so far. Returns where the next
// check begins: before a character that may only be cut off.
size_t check_is_text(std::string_view bytes, size_t begin, bool is_whole, const std::string& name) {
  if (const size_t zero = bytes.find('\0', begin); zero != bytes.npos) {
    throw Error(name + " is not text (byte 0 at offset " + std::to_string(zero) +
                "); give UTF-8 text, as iconv -t UTF-8 makes of other encodings");
  }
  const std::string_view rest = bytes.substr(begin);
  const size_t valid = valid_utf8_prefix(rest);
  const size_t at = begin + valid;
  if (valid == (is_whole ? rest.size() : complete_utf8_prefix(rest))) return at;
  constexpr const char* kDigits = "0123456789abcdef";
  const auto byte = static_cast<unsigned char>(bytes[at]);
  throw Error(name + " is not UTF-8 (byte 0x" + kDigits[byte >> 4] + kDigits[byte & 15] +
              " at offset " + std::to_string(at) +
              "); convert it: iconv -f ENCODING -t UTF-8 FILE");
}

[[noreturn]] void refuse_size(int descriptor, const std::string& name) {
  struct stat status;
  const bool is_file = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  const std::string size = is_file ? std::to_string(status.st_size) : "more than " + std::to_string(kMost);
  throw Error(name + " has " + size + " bytes, and a prompt at most " + std::to_string(kMost) +
              " (64 MiB); give a shorter text");
}

// The text to its end. Each block is checked as it comes: some files have no end.
std::string read_text(int descriptor, const std::string& name, void (*waiting)() = nullptr) {
  std::string text;
  size_t checked = 0;
  std::array<char, 1 << 16> block;
  while (wait_for_bytes(descriptor, waiting)) {
    const ssize_t size = ::read(descriptor, block.data(), block.size());
    if (size < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      throw Error(name + " cannot be read: " + std::strerror(errno) + "; give a UTF-8 text file");
    }
    text.append(block.data(), static_cast<size_t>(size));
    checked = check_is_text(text, checked, /*is_whole=*/size == 0, name);
    if (size == 0) break;
    if (text.size() > kMost) refuse_size(descriptor, name);
    waiting = nullptr;
  }
  return text;
}

std::string without_mark_and_line_end(std::string text) {
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  if (text.ends_with('\n')) {
    text.pop_back();
    if (text.ends_with('\r')) text.pop_back();
  }
  return text;
}

}  // namespace

std::string prompt_from_file(const std::string& path) {
  return text_from_file(path, "the prompt file " + path,
                        "; give -f a UTF-8 text file, or the text itself with -i");
}

std::string text_from_file(const std::string& path, const std::string& name, const std::string& remedy) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    if (interrupted()) return "";  // while a pipe had no writer
    throw Error(name + " cannot be opened: " + std::strerror(errno) + remedy);
  }
  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } closer{descriptor};
  return without_mark_and_line_end(read_text(descriptor, name));
}

std::optional<std::string> prompt_from_stdin(void (*waiting)()) {
  if (fcntl(STDIN_FILENO, F_GETFD) < 0 || isatty(STDIN_FILENO)) return std::nullopt;
  std::string text = read_text(STDIN_FILENO, "the prompt on standard input", waiting);
  if (text.empty() || interrupted()) return std::nullopt;
  return without_mark_and_line_end(std::move(text));
}

}  // namespace runner
