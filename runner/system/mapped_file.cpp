#include "system/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "system/error.h"

namespace runner {

MappedFile::MappedFile(const std::string& path) {
  const auto fail = [&]() -> void {
    throw Error("cannot read " + path + ": " + std::strerror(errno) +
                "; give the path of an exported model");
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail();
  struct stat info{};
  void* memory = MAP_FAILED;
  if (fstat(file, &info) == 0 && info.st_size > 0) {
    memory = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, file, 0);
  } else if (info.st_size == 0) {
    errno = ENODATA;
  }
  const int reason = errno;
  close(file);
  errno = reason;
  if (memory == MAP_FAILED) fail();
  bytes_ = {static_cast<const std::byte*>(memory), static_cast<size_t>(info.st_size)};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

}  // namespace runner
