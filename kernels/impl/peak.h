#pragma once

#include <cstdint>

namespace lowbit {
namespace {

// Independent dot products back to back, for the benchmark's peak. Returns multiply-adds done;
// `sink` keeps the compiler honest.
template <class V>
int64_t dot_peak(int64_t rounds, int32_t* sink) {
  constexpr int kChains = 12;
  alignas(64) uint8_t bytes[64];
  int8_t quads[4] = {1, -2, 3, -4};
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i + *sink);
  const auto w = V::load_bytes(bytes);
  const auto a = V::quad(quads);
  typename V::I32 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = V::iset(i);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = V::dot(acc[i], w, a);
  }
  for (int i = 1; i < kChains; ++i) acc[0] = V::iadd(acc[0], acc[i]);
  *sink += V::isum(acc[0]);
  return rounds * kChains * 64;
}

// Reads memory [bytes], a multiple of 512, doing nothing but an addition for each vector.
template <class V>
int32_t read_peak(const uint8_t* memory, int64_t bytes) {
  constexpr int kChains = 8;
  typename V::I32 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = V::iset(0);
  for (int64_t at = 0; at < bytes; at += 64 * kChains) {
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) {
      acc[i] = V::iadd(acc[i], V::words(V::load_bytes(memory + at + 64 * i)));
    }
  }
  for (int i = 1; i < kChains; ++i) acc[0] = V::iadd(acc[0], acc[i]);
  return V::isum(acc[0]);
}

}  // namespace
}  // namespace lowbit
