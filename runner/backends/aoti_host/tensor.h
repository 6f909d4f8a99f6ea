#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace runner::aoti_host {

// Memory that tensors share: the last one frees it, unless it is somebody else's.
class Storage {
 public:
  Storage() = default;
  static Storage allocate(size_t bytes);           // 64-byte aligned; throws std::bad_alloc
  static Storage borrow(void* data, size_t bytes);  // the caller keeps it alive

  ~Storage() { release(); }
  Storage(const Storage& other) : block_(other.block_), data_(other.data_), bytes_(other.bytes_) {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Storage& operator=(Storage other) noexcept {
    std::swap(block_, other.block_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  // Lies before the memory that it counts.
  struct alignas(64) Block {
    std::atomic<int64_t> references{1};
  };

  static size_t with_block(size_t bytes);
  void release();

  Block* block_ = nullptr;  // null: borrowed
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// A strided view of a storage: what an AtenTensorHandle points to. Strides and the offset count
// elements.
struct Tensor {
  static constexpr size_t kMaxDims = 8;

  Storage storage;
  std::byte* data = nullptr;  // of the first element
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  int64_t dims = 0, offset = 0;
  int64_t sizes[kMaxDims] = {}, strides[kMaxDims] = {};
  bool kept = false;  // by KeptHandles, which deletes it

  int64_t numel() const;
  bool is_contiguous() const;  // row major without gaps
};

// Bytes of an element. Throws std::invalid_argument for a type that this host has no numbers of.
size_t element_size(c10::ScalarType dtype);

// A view of `storage`. Throws std::invalid_argument when it would reach beyond the storage.
Tensor view(Storage storage, c10::ScalarType dtype, std::span<const int64_t> sizes,
            std::span<const int64_t> strides, int64_t offset);

// A new tensor of that form; its elements are not set. Throws std::bad_alloc.
Tensor empty(c10::ScalarType dtype, std::span<const int64_t> sizes,
             std::span<const int64_t> strides);

// Copies the elements of `from` to those of `to`, of the same type and shape.
// Throws std::invalid_argument where those differ.
void copy(const Tensor& from, Tensor& to);

}  // namespace runner::aoti_host
