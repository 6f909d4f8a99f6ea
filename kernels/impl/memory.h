#pragma once

// Reading and writing the first n of 16 lanes.

#include <cstdint>
#include <cstring>

namespace lowbit {
namespace {

// `rest` in the other lanes.
template <class V>
typename V::F32 load_first(const float* p, int64_t n, float rest = 0) {
  if (n >= 16) return V::load(p);
  float lanes[16];
  for (float& lane : lanes) lane = rest;
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
  return V::load(lanes);
}

template <class V>
void store_first(float* p, typename V::F32 a, int64_t n) {
  if (n >= 16) {
    V::store(p, a);
    return;
  }
  float lanes[16];
  V::store(lanes, a);
  std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

}  // namespace
}  // namespace lowbit
