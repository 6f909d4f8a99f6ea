#pragma once

#include <cstdint>

namespace runner {

// PCG32 (XSH-RR 64/32, O'Neill 2014): the same numbers for a seed on every platform, which
// <random>'s distributions do not promise.
class Random {
 public:
  explicit Random(uint64_t seed) {
    next();
    state_ += seed;
    next();
  }

  uint32_t next() {
    const uint64_t old = state_;
    state_ = old * 6364136223846793005u + kIncrement;
    const auto shifted = static_cast<uint32_t>((old >> 18 ^ old) >> 27);
    const auto turn = static_cast<uint32_t>(old >> 59);
    return shifted >> turn | shifted << (-turn & 31);
  }

  // Uniform in [0, 1), with 53 random bits.
  double uniform() {
    const uint64_t high = next() >> 5, low = next() >> 6;
    return static_cast<double>(high << 26 | low) * 0x1p-53;
  }

 private:
  static constexpr uint64_t kIncrement = 1442695040888963407u;
  uint64_t state_ = 0;
};

}  // namespace runner
