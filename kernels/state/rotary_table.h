#pragma once

#include <cstdint>
#include <vector>

#include "kernels/state/zero_memory.h"

namespace lowbit {

// cos and sin of a rotary embedding, float32 [positions, frequencies]: of the angles position times
// frequency, each rounded to float32, as transformers has them, times a factor. Rows are made when they
// are asked for.
class RotaryTable {
 public:
  // `frequencies` in radians a position, not negative. Throws StateError where an angle would be too
  // large.
  RotaryTable(std::vector<float> frequencies, float factor, int64_t positions);

  // Makes the rows below `end`.
  void fill(int64_t end);

  const float* cos() const { return floats(cos_); }
  const float* sin() const { return floats(sin_); }
  int64_t pairs() const { return static_cast<int64_t>(frequencies_.size()); }

 private:
  static float* floats(const ZeroMemory& memory) {
    return reinterpret_cast<float*>(memory.bytes().data());
  }

  std::vector<float> frequencies_;
  double factor_;
  ZeroMemory cos_, sin_;
  int64_t filled_ = 0;
};

}  // namespace lowbit
