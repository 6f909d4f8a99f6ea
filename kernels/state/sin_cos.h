#pragma once

// Sine and cosine by operations that every machine rounds alike.

#include <cmath>
#include <cstdint>

namespace lowbit {

struct SinCos {
  double sin, cos;
};

// The largest angle of sin_cos: 2^20 quarter turns.
inline constexpr double kLargestAngle = 0x1.921fb54442d18p+20;

// Computes sine and cosine of an angle in radians, which is from 0 to kLargestAngle and a float32;
// both are off by less than 1e-15.
//
// x = n pi / 2 + r with |r| <= pi / 4, where pi / 2 is in three parts, so short that the products of n
// and the first two are exact (W. J. Cody and W. Waite, Software Manual for the Elementary Functions,
// 1980). Of r Taylor's series; what is left out is below 1e-17.
inline SinCos sin_cos(double x) {
  const double n = std::floor(x * 0x1.45f306dc9c883p-1 + 0.5);
  const double r = ((x - n * 0x1.921fb544p+0) - n * 0x1.0b4611a6p-34) - n * 0x1.3198a2e037073p-69;
  const double square = r * r;
  double sin = 1, cos = 1;
  for (int i = 17; i > 1; i -= 2) {
    sin = 1 - square / (i * (i - 1)) * sin;
    cos = 1 - square / ((i - 1) * (i - 2)) * cos;
  }
  sin *= r;
  switch (static_cast<int64_t>(n) % 4) {
    case 0: return {sin, cos};
    case 1: return {cos, -sin};
    case 2: return {-sin, -cos};
    default: return {-cos, sin};
  }
}

}  // namespace lowbit
