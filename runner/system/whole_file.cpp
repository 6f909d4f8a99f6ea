#include "system/whole_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

namespace runner {
namespace {

[[noreturn]] void fail() { throw std::system_error(errno, std::generic_category()); }

constexpr mode_t kMode = 0666;  // less what the umask takes away

int open_itself(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (descriptor < 0) fail();
  return descriptor;
}

// Creates a file beside `path` whose name no file and no link has; sets `name`.
int create_beside(const std::string& path, std::string& name) {
  for (int n = 0;; ++n) {
    name = path + "." + std::to_string(getpid()) + "-" + std::to_string(n) + ".tmp";
    const int descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
    if (descriptor >= 0) return descriptor;
    if (errno != EEXIST) fail();
  }
}

}  // namespace

WholeFile::WholeFile(const std::string& path) : path_(path) {
  std::error_code absent;
  const auto status = std::filesystem::status(path, absent);
  const bool is_special = std::filesystem::exists(status) && !is_regular_file(status);
  descriptor_ = is_special ? open_itself(path) : create_beside(path, temporary_path_);
}

WholeFile::~WholeFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_path_.empty()) std::remove(temporary_path_.c_str());
}

void WholeFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      fail();
    }
  }
}

void WholeFile::commit() {
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail();
  if (temporary_path_.empty()) return;
  if (std::rename(temporary_path_.c_str(), path_.c_str()) != 0) fail();
  temporary_path_.clear();
}

}  // namespace runner
