#pragma once

// How operators divide their work among threads, and the scratch memory that they ask for.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/lowbit.h"

namespace lowbit {

// Calls f(begin, end) for parts of 0..n.
template <class F>
void parallel(Host& host, int64_t n, int64_t grain, const F& f) {
  host.parallel_for(
      n, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&f));
}

// Divides one block of scratch memory.
class Arena {
 public:
  template <class T>
  void reserve(T*& pointer, int64_t count) {
    offsets_[used_++] = {&pointer, size_};
    size_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  void allocate(Host& host) {
    auto* memory = static_cast<uint8_t*>(host.scratch(size_));
    for (int i = 0; i < used_; ++i) {
      uint8_t* at = memory + offsets_[i].at;
      std::memcpy(offsets_[i].pointer, &at, sizeof(at));
    }
  }

 private:
  struct Slot {
    void* pointer;  // to the pointer
    size_t at;
  };
  Slot offsets_[8];
  int used_ = 0;
  size_t size_ = 0;
};

// Rows of an elementwise operator that are worth a thread's wake-up.
inline int64_t row_grain(int64_t width) { return 8192 / std::clamp<int64_t>(width, 1, 8192); }

// What linear_wx reads: x [T, K] with its rows filled up with zeros to [T, padded_columns], and the
// sums of their groups, of which there are `float_sums`: none but for real zeros, since the others
// are in the integers.
int64_t float_sums(const PackedWeight& weight, int64_t tokens);
void pad_rows(Host& host, const float* x, int64_t tokens, const PackedWeight& weight, float* padded,
              float* sums);

}  // namespace lowbit
