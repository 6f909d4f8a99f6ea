#include "kernels/state/zero_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

namespace lowbit {

ZeroMemory::ZeroMemory(size_t bytes) {
  const size_t size = std::max<size_t>(bytes, 1);
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  bytes_ = {static_cast<unsigned char*>(memory), size};
}

ZeroMemory::~ZeroMemory() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

ZeroMemory::ZeroMemory(ZeroMemory&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

}  // namespace lowbit
