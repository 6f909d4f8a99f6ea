#include "kernels/state/rotary_table.h"

#include <string>
#include <utility>

#include "kernels/state/layout.h"
#include "kernels/state/sin_cos.h"

namespace lowbit {
namespace {

size_t table_bytes(const std::vector<float>& frequencies, int64_t positions) {
  return frequencies.size() * static_cast<size_t>(positions) * sizeof(float);
}

}  // namespace

RotaryTable::RotaryTable(std::vector<float> frequencies, float factor, int64_t positions)
    : frequencies_(std::move(frequencies)),
      factor_(factor),
      cos_(table_bytes(frequencies_, positions)),
      sin_(table_bytes(frequencies_, positions)) {
  for (const float frequency : frequencies_) {
    if (frequency >= 0 && double{frequency} * static_cast<double>(positions) < kLargestAngle) continue;
    throw StateError("a rotary frequency of " + std::to_string(frequency) + " and " +
                     std::to_string(positions) +
                     " positions give angles beyond what sine and cosine are made for; choose a "
                     "smaller context");
  }
}

void RotaryTable::fill(int64_t end) {
  for (; filled_ < end; ++filled_) {
    const int64_t row = filled_ * pairs();
    for (int64_t i = 0; i < pairs(); ++i) {
      const float angle = static_cast<float>(filled_) * frequencies_[static_cast<size_t>(i)];
      const SinCos of = sin_cos(angle);
      floats(cos_)[row + i] = static_cast<float>(of.cos * factor_);
      floats(sin_)[row + i] = static_cast<float>(of.sin * factor_);
    }
  }
}

}  // namespace lowbit
