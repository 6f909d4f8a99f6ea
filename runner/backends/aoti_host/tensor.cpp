#include "backends/aoti_host/tensor.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace runner::aoti_host {
namespace {

// Freed memory, kept for the next tensor of its size: each forward makes the same ones again. Few are
// alive at a time, so a few are enough, and those of another form soon make room.
class FreeBlocks {
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kMost = 0;  // so that a use after free is found
#else
  static constexpr size_t kMost = 8;
#endif

 public:
  void* take(size_t bytes) {
    if (busy_.test_and_set(std::memory_order_acquire)) return nullptr;  // another thread is here
    void* found = nullptr;
    for (size_t i = count_; i-- > 0;) {
      if (blocks_[i].bytes != bytes) continue;
      found = blocks_[i].memory;
      std::copy(blocks_.begin() + i + 1, blocks_.begin() + count_, blocks_.begin() + i);
      blocks_[--count_] = {};
      break;
    }
    busy_.clear(std::memory_order_release);
    return found;
  }

  void give(void* memory, size_t bytes) {
    if (kMost == 0 || busy_.test_and_set(std::memory_order_acquire)) return std::free(memory);
    if (count_ == kMost) {
      std::free(blocks_[0].memory);
      std::copy(blocks_.begin() + 1, blocks_.end(), blocks_.begin());
      --count_;
    }
    blocks_[count_++] = {bytes, memory};
    busy_.clear(std::memory_order_release);
  }

 private:
  struct Block {
    size_t bytes = 0;
    void* memory = nullptr;
  };
  std::atomic_flag busy_;
  std::array<Block, kMost> blocks_{};
  size_t count_ = 0;
};

FreeBlocks& free_blocks() {
  static auto* blocks = new FreeBlocks;  // never deleted: a tensor may outlive it
  return *blocks;
}

// Elements that a view spans in its storage, from its offset on; 0 for an empty one.
int64_t extent(std::span<const int64_t> sizes, std::span<const int64_t> strides) {
  int64_t last = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || strides[i] < 0) {
      throw std::invalid_argument("a tensor has a negative size or stride");
    }
    if (sizes[i] == 0) return 0;
    int64_t part = 0;
    if (__builtin_mul_overflow(sizes[i] - 1, strides[i], &part) ||
        __builtin_add_overflow(last, part, &last)) {
      throw std::invalid_argument("a tensor is larger than memory");
    }
  }
  return last + 1;
}

// Copies `dims` dimensions; both are strided.
void copy_strided(const std::byte* from, const int64_t* from_strides, std::byte* to,
                  const int64_t* to_strides, const int64_t* sizes, int64_t dims, size_t bytes) {
  if (dims == 0) {
    std::memcpy(to, from, bytes);
    return;
  }
  const auto step = static_cast<int64_t>(bytes);
  for (int64_t i = 0; i < sizes[0]; ++i) {
    copy_strided(from + i * from_strides[0] * step, from_strides + 1, to + i * to_strides[0] * step,
                 to_strides + 1, sizes + 1, dims - 1, bytes);
  }
}

}  // namespace

// A block and the memory behind it, in whole blocks.
size_t Storage::with_block(size_t bytes) {
  return (bytes + 2 * sizeof(Block) - 1) / sizeof(Block) * sizeof(Block);
}

Storage Storage::allocate(size_t bytes) {
  const size_t whole = with_block(bytes);
  if (whole < bytes) throw std::bad_alloc();
  void* memory = free_blocks().take(whole);
  if (memory == nullptr) memory = std::aligned_alloc(alignof(Block), whole);
  if (memory == nullptr) throw std::bad_alloc();
  Storage storage;
  storage.block_ = new (memory) Block;
  storage.data_ = static_cast<std::byte*>(memory) + sizeof(Block);
  storage.bytes_ = bytes;
  return storage;
}

Storage Storage::borrow(void* data, size_t bytes) {
  Storage storage;
  storage.data_ = static_cast<std::byte*>(data);
  storage.bytes_ = bytes;
  return storage;
}

void Storage::release() {
  if (block_ != nullptr && block_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    block_->~Block();
    free_blocks().give(block_, with_block(bytes_));
  }
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (int64_t i = 0; i < dims; ++i) count *= sizes[i];
  return count;
}

bool Tensor::is_contiguous() const {
  int64_t dense = 1;
  for (int64_t i = dims; i-- > 0;) {
    if (sizes[i] == 0) return true;
    if (sizes[i] > 1 && strides[i] != dense) return false;
    dense *= sizes[i];
  }
  return true;
}

size_t element_size(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Byte:
    case c10::ScalarType::Char:
    case c10::ScalarType::Bool:
      return 1;
    case c10::ScalarType::Short:
    case c10::ScalarType::UInt16:
    case c10::ScalarType::Half:
    case c10::ScalarType::BFloat16:
      return 2;
    case c10::ScalarType::Int:
    case c10::ScalarType::UInt32:
    case c10::ScalarType::Float:
      return 4;
    case c10::ScalarType::Long:
    case c10::ScalarType::UInt64:
    case c10::ScalarType::Double:
      return 8;
    default:
      throw std::invalid_argument("a tensor has the type " +
                                  std::to_string(static_cast<int>(dtype)) +
                                  ", which this host does not know");
  }
}

Tensor view(Storage storage, c10::ScalarType dtype, std::span<const int64_t> sizes,
            std::span<const int64_t> strides, int64_t offset) {
  if (sizes.size() > Tensor::kMaxDims) {
    throw std::invalid_argument("a tensor has " + std::to_string(sizes.size()) +
                                " dimensions, this host knows up to " +
                                std::to_string(Tensor::kMaxDims));
  }
  int64_t end = extent(sizes, strides);
  const auto elements = static_cast<int64_t>(storage.bytes() / element_size(dtype));
  if (offset < 0 || (end > 0 && (end > elements || offset > elements - end))) {
    throw std::invalid_argument("a tensor reaches beyond its memory");
  }
  Tensor tensor;
  tensor.data = storage.data() + offset * static_cast<int64_t>(element_size(dtype));
  tensor.storage = std::move(storage);
  tensor.dtype = dtype;
  tensor.dims = static_cast<int64_t>(sizes.size());
  tensor.offset = offset;
  std::copy(sizes.begin(), sizes.end(), tensor.sizes);
  std::copy(strides.begin(), strides.end(), tensor.strides);
  return tensor;
}

Tensor empty(c10::ScalarType dtype, std::span<const int64_t> sizes,
             std::span<const int64_t> strides) {
  size_t bytes = 0;
  const auto elements = static_cast<size_t>(extent(sizes, strides));
  if (__builtin_mul_overflow(elements, element_size(dtype), &bytes)) throw std::bad_alloc();
  return view(Storage::allocate(bytes), dtype, sizes, strides, 0);
}

void copy(const Tensor& from, Tensor& to) {
  const bool same = from.dtype == to.dtype && from.dims == to.dims &&
                    std::equal(from.sizes, from.sizes + from.dims, to.sizes);
  if (!same) throw std::invalid_argument("a copy between tensors of two types or shapes");
  const size_t bytes = element_size(from.dtype);
  if (from.is_contiguous() && to.is_contiguous()) {
    // memmove: an unused copy onto itself is allowed.
    std::memmove(to.data, from.data, static_cast<size_t>(from.numel()) * bytes);
  } else {
    copy_strided(from.data, from.strides, to.data, to.strides, from.sizes, from.dims, bytes);
  }
}

}  // namespace runner::aoti_host
