#pragma once

// The virtual vector in plain C++: the definition, and the code for any other CPU.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/layout.h"

namespace lowbit {
namespace {

struct Scalar {
  static constexpr int kRowTile = 0;
  static constexpr bool kCompact = true, kPairs = false;
  static constexpr int kByteBias = 0;
  static constexpr int kGemvBlocks = 1, kTileTokens = 2;
  static constexpr int kFloatTokens = 1, kFloatBlocks = 1, kAttentionRows = 1;

  struct F32 { float v[16]; };
  struct I32 { int32_t v[16]; };
  struct Bytes { uint8_t v[64]; };
  struct Quad { int8_t v[4]; };

  template <class R, class F>
  static R lanes(F f) {
    R r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
  }
  template <class F>
  static Bytes bytes(F f) {
    Bytes r;
    for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(f(i));
    return r;
  }

  // Quad j of a block of 32 columns of packed weights (kernels/layout.h): planes of 4, 2 and 1
  // bits, those that `bits` is the sum of.
  [[gnu::noinline]] static Bytes packed_quad(const uint8_t* p, int bits, int j) {
    Bytes quad{};
    int at = 0;
    for (int width = 4; width > 0; width /= 2) {
      if ((bits & width) == 0) continue;
      const int each = 8 / width, mask = (1 << width) - 1;
      const uint8_t* plane = p + 64 * (at + j / each);
      const int shift = j % each * width;
      for (int i = 0; i < 64; ++i) {
        quad.v[i] = static_cast<uint8_t>(quad.v[i] | (plane[i] >> shift & mask) << at);
      }
      at += width;
    }
    return quad;
  }

  static F32 zero() { return set(0); }
  static F32 set(float x) { return lanes<F32>([&](int) { return x; }); }
  static F32 load(const float* p) { return lanes<F32>([&](int i) { return p[i]; }); }
  static F32 load_half(const uint16_t* p) {
    return lanes<F32>([&](int i) { return half_to_float(p[i]); });
  }
  static F32 load_bfloat(const uint16_t* p) {
    return as_float(lanes<I32>([&](int i) { return static_cast<int32_t>(uint32_t{p[i]} << 16); }));
  }
  static F32 load_i8(const int8_t* p) {
    return lanes<F32>([&](int i) { return static_cast<float>(p[i]); });
  }
  static void store(float* p, const F32& a) { std::memcpy(p, a.v, sizeof(a.v)); }
  static void store_half(uint16_t* p, const F32& a) {
    for (int i = 0; i < 16; ++i) p[i] = float_to_half(a.v[i]);
  }
  static F32 add(const F32& a, const F32& b) {
    return lanes<F32>([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F32 sub(const F32& a, const F32& b) {
    return lanes<F32>([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F32 mul(const F32& a, const F32& b) {
    return lanes<F32>([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F32 div(const F32& a, const F32& b) {
    return lanes<F32>([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F32 max(const F32& a, const F32& b) {
    return lanes<F32>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F32 min(const F32& a, const F32& b) {
    return lanes<F32>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F32 fma(const F32& a, const F32& b, const F32& c) {
    return lanes<F32>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static float fma1(float a, float b, float c) { return std::fma(a, b, c); }
  static float sum(F32 a) {
    for (int n = 8; n > 0; n /= 2) {
      for (int i = 0; i < n; ++i) a.v[i] += a.v[i + n];
    }
    return a.v[0];
  }
  static float max_lane(F32 a) {
    for (int i = 1; i < 16; ++i) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
    return a.v[0];
  }

  static I32 iset(int32_t x) { return lanes<I32>([&](int) { return x; }); }
  static I32 load_u8(const uint8_t* p) { return lanes<I32>([&](int i) { return p[i]; }); }
  static void istore(int32_t* p, const I32& a) { std::memcpy(p, a.v, sizeof(a.v)); }
  static void store_i8(int8_t* p, const I32& a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
  }
  static I32 iadd(const I32& a, const I32& b) {  // modulo 2^32, as the others
    return lanes<I32>([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]));
    });
  }
  static I32 isub(const I32& a, const I32& b) {
    return lanes<I32>([&](int i) { return a.v[i] - b.v[i]; });
  }
  static I32 imul(const I32& a, const I32& b) {  // modulo 2^32, as the others
    return lanes<I32>([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) * static_cast<uint32_t>(b.v[i]));
    });
  }
  static I32 iand(const I32& a, const I32& b) {
    return lanes<I32>([&](int i) { return a.v[i] & b.v[i]; });
  }
  static I32 imax(const I32& a, const I32& b) {
    return lanes<I32>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static I32 imin(const I32& a, const I32& b) {
    return lanes<I32>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  template <int N>
  static I32 shift_left(const I32& a) {
    return lanes<I32>([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << N);
    });
  }
  template <int N>
  static I32 shift_right(const I32& a) {  // unsigned
    return lanes<I32>([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> N);
    });
  }
  static I32 as_int(const F32& a) {
    I32 r;
    std::memcpy(r.v, a.v, sizeof(r.v));
    return r;
  }
  static F32 as_float(const I32& a) {
    F32 r;
    std::memcpy(r.v, a.v, sizeof(r.v));
    return r;
  }
  static F32 to_float(const I32& a) {
    return lanes<F32>([&](int i) { return static_cast<float>(a.v[i]); });
  }
  static I32 round(const F32& a) {
    return lanes<I32>([&](int i) { return static_cast<int32_t>(std::nearbyint(a.v[i])); });
  }
  // Lane i of the result is a where the lane of m is all ones, else 0.
  static F32 keep(const I32& m, const F32& a) { return as_float(iand(m, as_int(a))); }
  static I32 less(const I32& a, const I32& b) {
    return lanes<I32>([&](int i) { return a.v[i] < b.v[i] ? -1 : 0; });
  }
  static int32_t isum(I32 a) {
    int32_t total = 0;
    for (int32_t lane : a.v) total += lane;
    return total;
  }
  static int32_t imax_lane(I32 a) {
    for (int i = 1; i < 16; ++i) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
    return a.v[0];
  }

  static Bytes load_bytes(const uint8_t* p) { Bytes r; std::memcpy(r.v, p, 64); return r; }
  static Bytes mask(const Bytes& a, uint8_t m) {
    return bytes([&](int i) { return a.v[i] & m; });
  }
  static Bytes either(const Bytes& a, const Bytes& b) {
    return bytes([&](int i) { return a.v[i] | b.v[i]; });
  }
  // Shifts may bring in a neighbour byte's bits: mask the result.
  template <int N>
  static Bytes bytes_right(const Bytes& a) {
    return bytes([&](int i) { return a.v[i] >> N; });
  }
  template <int N>
  static Bytes bytes_left(const Bytes& a) {
    return bytes([&](int i) { return a.v[i] << N; });
  }
  static I32 words(const Bytes& a) {
    I32 r;
    std::memcpy(r.v, a.v, 64);
    return r;
  }

  static Quad quad(const int8_t* p) { Quad r; std::memcpy(r.v, p, 4); return r; }
  static I32 dot(I32 acc, Bytes w, Quad a) {  // modulo 2^32, as the others
    for (int i = 0; i < 64; ++i) {
      const auto product = static_cast<uint32_t>(int32_t{w.v[i]} * a.v[i % 4]);
      acc.v[i / 4] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[i / 4]) + product);
    }
    return acc;
  }
  static I32 dot8(I32 acc, Bytes w, Quad a) { return dot(acc, w, a); }
};

}  // namespace
}  // namespace lowbit
