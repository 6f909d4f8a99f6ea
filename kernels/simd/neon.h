#pragma once

// The virtual vector on NEON: four registers. Three dot products: plain Armv8.0 (a Raspberry
// Pi 4), the dot product extension (Armv8.2, a Raspberry Pi 5), and that of int8 matrix
// multiplication, which takes unsigned bytes.

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace lowbit {
namespace {

struct NeonBase {
  static constexpr int kRowTile = 0;
  static constexpr bool kCompact = false, kPairs = false;
  static constexpr int kByteBias = 128;  // bytes are taken as signed
  static constexpr int kGemvBlocks = 2, kTileTokens = 4;
  static constexpr int kFloatTokens = 4, kFloatBlocks = 1, kAttentionRows = 4;

  struct F32 { float32x4_t v[4]; };
  struct I32 { int32x4_t v[4]; };
  struct Bytes { uint8x16_t v[4]; };
  struct Quad { int8x16_t v; };

  template <class R, class F>
  static R each(F f) { return {{f(0), f(1), f(2), f(3)}}; }

  static F32 zero() { return set(0); }
  static F32 set(float x) { return each<F32>([&](int) { return vdupq_n_f32(x); }); }
  static F32 load(const float* p) { return each<F32>([&](int i) { return vld1q_f32(p + 4 * i); }); }
  static F32 load_half(const uint16_t* p) {
    return each<F32>([&](int i) {
      return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    });
  }
  static F32 load_bfloat(const uint16_t* p) {
    return each<F32>([&](int i) {
      return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    });
  }
  static F32 load_i8(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
             vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
  }
  static void store(float* p, F32 a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
  }
  static void store_half(uint16_t* p, F32 a) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
  }
  static F32 add(F32 a, F32 b) { return each<F32>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
  static F32 sub(F32 a, F32 b) { return each<F32>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
  static F32 mul(F32 a, F32 b) { return each<F32>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
  static F32 div(F32 a, F32 b) { return each<F32>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
  static F32 max(F32 a, F32 b) { return each<F32>([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); }); }
  static F32 min(F32 a, F32 b) { return each<F32>([&](int i) { return vminq_f32(a.v[i], b.v[i]); }); }
  static F32 fma(F32 a, F32 b, F32 c) {
    return each<F32>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  static float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static float sum(F32 a) {
    const float32x4_t b =
        vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));  // 8 apart, then 4
    const float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
  }
  static float max_lane(F32 a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
  }

  static I32 iset(int32_t x) { return each<I32>([&](int) { return vdupq_n_s32(x); }); }
  static I32 load_u8(const uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
  }
  static void istore(int32_t* p, I32 a) {
    for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
  }
  static void store_i8(int8_t* p, I32 a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
  static I32 iadd(I32 a, I32 b) { return each<I32>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); }); }
  static I32 imul(I32 a, I32 b) { return each<I32>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); }); }
  static I32 isub(I32 a, I32 b) { return each<I32>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); }); }
  static I32 iand(I32 a, I32 b) { return each<I32>([&](int i) { return vandq_s32(a.v[i], b.v[i]); }); }
  static I32 imax(I32 a, I32 b) { return each<I32>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); }); }
  static I32 imin(I32 a, I32 b) { return each<I32>([&](int i) { return vminq_s32(a.v[i], b.v[i]); }); }
  template <int N>
  static I32 shift_left(I32 a) { return each<I32>([&](int i) { return vshlq_n_s32(a.v[i], N); }); }
  template <int N>
  static I32 shift_right(I32 a) {
    return each<I32>([&](int i) {
      return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v[i]), N));
    });
  }
  static I32 as_int(F32 a) { return each<I32>([&](int i) { return vreinterpretq_s32_f32(a.v[i]); }); }
  static F32 as_float(I32 a) {
    return each<F32>([&](int i) { return vreinterpretq_f32_s32(a.v[i]); });
  }
  static F32 to_float(I32 a) { return each<F32>([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
  static I32 round(F32 a) { return each<I32>([&](int i) { return vcvtnq_s32_f32(a.v[i]); }); }
  static F32 keep(I32 m, F32 a) { return as_float(iand(m, as_int(a))); }
  static I32 less(I32 a, I32 b) {
    return each<I32>([&](int i) { return vreinterpretq_s32_u32(vcltq_s32(a.v[i], b.v[i])); });
  }
  static int32_t isum(I32 a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
  }
  static int32_t imax_lane(I32 a) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3])));
  }

  static Bytes load_bytes(const uint8_t* p) {
    return each<Bytes>([&](int i) { return vld1q_u8(p + 16 * i); });
  }
  static Bytes mask(Bytes a, uint8_t m) {
    return each<Bytes>([&](int i) { return vandq_u8(a.v[i], vdupq_n_u8(m)); });
  }
  static Bytes either(Bytes a, Bytes b) {
    return each<Bytes>([&](int i) { return vorrq_u8(a.v[i], b.v[i]); });
  }
  template <int N>
  static Bytes bytes_right(Bytes a) {
    if constexpr (N == 0) {  // vshrq_n shifts by at least 1
      return a;
    } else {
      return each<Bytes>([&](int i) { return vshrq_n_u8(a.v[i], N); });
    }
  }
  template <int N>
  static Bytes bytes_left(Bytes a) {
    return each<Bytes>([&](int i) { return vshlq_n_u8(a.v[i], N); });
  }
  static I32 words(Bytes a) {
    return each<I32>([&](int i) { return vreinterpretq_s32_u8(a.v[i]); });
  }

  static Quad quad(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return {vreinterpretq_s8_s32(vdupq_n_s32(x))};
  }
  static int8x16_t signed_bytes(uint8x16_t w) { return vreinterpretq_s8_u8(w); }
  static int8x16_t flipped(uint8x16_t w) { return signed_bytes(veorq_u8(w, vdupq_n_u8(0x80))); }
};

struct Neon : NeonBase {
  // Eight products a half, each at most 2^14; pairs of pairs are added in 32 bits.
  static int32x4_t dot128(int32x4_t acc, int8x16_t w, int8x16_t a) {
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
    const int16x8_t high = vmull_s8(vget_high_s8(w), vget_high_s8(a));
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
  static I32 dot(I32 acc, Bytes w, Quad a) {
    return each<I32>([&](int i) { return dot128(acc.v[i], signed_bytes(w.v[i]), a.v); });
  }
  static I32 dot8(I32 acc, Bytes w, Quad a) {
    return each<I32>([&](int i) { return dot128(acc.v[i], flipped(w.v[i]), a.v); });
  }
};

#ifdef __ARM_FEATURE_DOTPROD
struct NeonDotprod : NeonBase {
  static I32 dot(I32 acc, Bytes w, Quad a) {
    return each<I32>([&](int i) { return vdotq_s32(acc.v[i], signed_bytes(w.v[i]), a.v); });
  }
  static I32 dot8(I32 acc, Bytes w, Quad a) {
    return each<I32>([&](int i) { return vdotq_s32(acc.v[i], flipped(w.v[i]), a.v); });
  }
};
#endif

#ifdef __ARM_FEATURE_MATMUL_INT8
// Unsigned times signed bytes: what 8-bit weights gain. Below 8 bits it is NeonDotprod.
struct NeonI8mm : NeonDotprod {
  static constexpr int kByteBias = 0;
  static I32 dot8(I32 acc, Bytes w, Quad a) {
    return each<I32>([&](int i) { return vusdotq_s32(acc.v[i], w.v[i], a.v); });
  }
};
#endif

}  // namespace
}  // namespace lowbit
