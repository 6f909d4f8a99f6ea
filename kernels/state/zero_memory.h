#pragma once

#include <cstddef>
#include <span>

namespace lowbit {

// Memory that reads as zeros and takes no room until it is written: for KV caches and planned
// memory, whose sizes are bounds that few runs reach.
class ZeroMemory {
 public:
  explicit ZeroMemory(size_t bytes);  // throws std::bad_alloc
  ~ZeroMemory();
  ZeroMemory(ZeroMemory&& other) noexcept;
  ZeroMemory& operator=(ZeroMemory&&) = delete;

  std::span<unsigned char> bytes() const { return bytes_; }

 private:
  std::span<unsigned char> bytes_;
};

}  // namespace lowbit
