#pragma once

// The integer products of linear_a8wx: weights of 1 to 8 bits, unpacked, times int8 activations.

#include <cstdint>

#include "kernels/isa.h"

namespace lowbit {
namespace {

// The width is known at run time only, and below 8.
constexpr int kAnyBits = 0;

// Quad `j` (0 to 7) of a block of 32 columns: 64 bytes.
template <class V, int Bits, int J>
typename V::Bytes weight_quad(const uint8_t* p) {
  using Bytes = typename V::Bytes;
  if constexpr (Bits == 8) {
    return V::load_bytes(p + 64 * J);
  } else if constexpr (Bits == 4) {
    return V::mask(V::template bytes_right<J % 2 * 4>(V::load_bytes(p + 64 * (J / 2))), 0x0f);
  } else if constexpr (Bits == 2) {
    return V::mask(V::template bytes_right<J % 4 * 2>(V::load_bytes(p + 64 * (J / 4))), 0x03);
  } else if constexpr (Bits == 1) {
    return V::mask(V::template bytes_right<J>(V::load_bytes(p)), 0x01);
  } else {
    // The low plane, and the plane above it moved into place with one shift.
    constexpr int kLow = Bits == 3 ? 2 : 4;
    constexpr int kHigh = Bits == 7 ? 2 : Bits - kLow;
    const Bytes low = weight_quad<V, kLow, J>(p);
    constexpr int kAt = J % (8 / kHigh) * kHigh;  // the bit where it lies
    const Bytes plane = V::load_bytes(p + 64 * kLow + 64 * (J / (8 / kHigh)));
    constexpr uint8_t kMask = static_cast<uint8_t>(((1 << kHigh) - 1) << kLow);
    Bytes high;
    if constexpr (kAt >= kLow) {
      high = V::mask(V::template bytes_right<kAt - kLow>(plane), kMask);
    } else {
      high = V::mask(V::template bytes_left<kLow - kAt>(plane), kMask);
    }
    Bytes both = V::either(low, high);
    if constexpr (Bits == 7) {
      const Bytes top = V::load_bytes(p + 64 * 6);
      if constexpr (J >= 6) {
        both = V::either(both, V::mask(V::template bytes_right<J - 6>(top), 0x40));
      } else {
        both = V::either(both, V::mask(V::template bytes_left<6 - J>(top), 0x40));
      }
    }
    return both;
  }
}

// How many quads' products may add up in pairs of 16 bits before they are widened; 1: none do. A
// pair is at most 2 * 128 * (2^bits - 1).
template <class V>
constexpr int paired_quads(int bits) {
  if (!V::kPairs) return 1;
  return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
}

template <class V, int N, int B>
struct Sums {
  typename V::I32 at[B][N];
};

// Adds the products of a quad of B panels and N tokens.
template <class V, int Bits, int N, int B>
[[gnu::always_inline]] inline void dot_quad(const typename V::Bytes (&w)[B], const int8_t* x,
                                            Sums<V, N, B>& sums) {
#pragma GCC unroll 16
  for (int t = 0; t < N; ++t) {
    const auto a = V::quad(x + t * 4);
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      sums.at[b][t] = Bits == 8 ? V::dot8(sums.at[b][t], w[b], a) : V::dot(sums.at[b][t], w[b], a);
    }
  }
}

// Adds the products of quads J..End of a block to sums of neighbouring pairs.
template <class V, int Bits, int N, int B, int J, int End>
[[gnu::always_inline]] inline void pair_quads(const uint8_t* const (&data)[B], const int8_t* x,
                                              typename V::Pairs (&pairs)[B][N]) {
  if constexpr (J < End) {
    typename V::Bytes w[B];
    for (int b = 0; b < B; ++b) w[b] = weight_quad<V, Bits, J>(data[b]);
#pragma GCC unroll 16
    for (int t = 0; t < N; ++t) {
      const auto a = V::quad(x + (J * N + t) * 4);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) pairs[b][t] = V::add_pairs(pairs[b][t], w[b], a);
    }
    pair_quads<V, Bits, N, B, J + 1, End>(data, x, pairs);
  }
}

// Adds the products of quads Begin..End of a block. `x` is at the block's first quad.
template <class V, int Bits, int N, int B, int Begin, int End>
[[gnu::always_inline]] inline void dot_quads(const uint8_t* const (&data)[B],
                                             [[maybe_unused]] int bits, const int8_t* x,
                                             Sums<V, N, B>& sums) {
  constexpr int kPaired = paired_quads<V>(Bits);
  typename V::Bytes w[B];
  if constexpr (Begin < End && kPaired > 1) {
    constexpr int kTo = Begin + kPaired < End ? Begin + kPaired : End;
    typename V::Pairs pairs[B][N] = {};
    pair_quads<V, Bits, N, B, Begin, kTo>(data, x, pairs);
    for (int b = 0; b < B; ++b) {
#pragma GCC unroll 16
      for (int t = 0; t < N; ++t) sums.at[b][t] = V::add_widened(sums.at[b][t], pairs[b][t]);
    }
    dot_quads<V, Bits, N, B, kTo, End>(data, bits, x, sums);
  } else if constexpr (Bits == kAnyBits) {
#pragma GCC unroll 1
    for (int j = Begin; j < End; ++j) {
      for (int b = 0; b < B; ++b) w[b] = V::packed_quad(data[b], bits, j);
      dot_quad<V, Bits>(w, x + j * N * 4, sums);
    }
  } else if constexpr (Begin < End) {
    for (int b = 0; b < B; ++b) w[b] = weight_quad<V, Bits, Begin>(data[b]);
    dot_quad<V, Bits>(w, x + Begin * N * 4, sums);
    dot_quads<V, Bits, N, B, Begin + 1, End>(data, bits, x, sums);
  }
}

}  // namespace
}  // namespace lowbit
