#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace runner {

// A file mapped read-only: its pages are read when they are touched, and shared between processes.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error when it cannot be read
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace runner
