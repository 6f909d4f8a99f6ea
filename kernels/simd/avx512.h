#pragma once

// The virtual vector on AVX-512 with VNNI: one register.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace lowbit {
namespace {

struct Avx512Vnni {
  static constexpr int kRowTile = 0;
  static constexpr bool kCompact = false, kPairs = false;
  static constexpr int kByteBias = 0;
  static constexpr int kGemvBlocks = 4, kTileTokens = 12;
  static constexpr int kFloatTokens = 6, kFloatBlocks = 4, kAttentionRows = 8;

  struct F32 { __m512 v; };
  struct I32 { __m512i v; };
  struct Bytes { __m512i v; };
  struct Quad { __m512i v; };

  static F32 zero() { return {_mm512_setzero_ps()}; }
  static F32 set(float x) { return {_mm512_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static F32 load_half(const uint16_t* p) { return {_mm512_cvtph_ps(load256(p))}; }
  static F32 load_bfloat(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(p)), 16))};
  }
  static F32 load_i8(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(p)))};
  }
  static void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
  static void store_half(uint16_t* p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
  static F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
  static F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static __m256 upper(__m512 a) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
  }
  static float sum(F32 a) {
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper(a.v));
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
  }
  static float max_lane(F32 a) { return _mm512_reduce_max_ps(a.v); }

  static I32 iset(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static I32 load_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(load128(p))}; }
  static void istore(int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }
  static void store_i8(int8_t* p, I32 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
  }
  static I32 iadd(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  static I32 isub(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
  static I32 imul(I32 a, I32 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
  static I32 iand(I32 a, I32 b) { return {_mm512_and_si512(a.v, b.v)}; }
  static I32 imax(I32 a, I32 b) { return {_mm512_max_epi32(a.v, b.v)}; }
  static I32 imin(I32 a, I32 b) { return {_mm512_min_epi32(a.v, b.v)}; }
  template <int N>
  static I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, N)}; }
  template <int N>
  static I32 shift_right(I32 a) { return {_mm512_srli_epi32(a.v, N)}; }
  static I32 as_int(F32 a) { return {_mm512_castps_si512(a.v)}; }
  static F32 as_float(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
  static F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
  static I32 round(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
  static F32 keep(I32 m, F32 a) { return as_float(iand(m, as_int(a))); }
  static I32 less(I32 a, I32 b) {
    return {_mm512_maskz_set1_epi32(_mm512_cmplt_epi32_mask(a.v, b.v), -1)};
  }
  static int32_t isum(I32 a) { return _mm512_reduce_add_epi32(a.v); }
  static int32_t imax_lane(I32 a) { return _mm512_reduce_max_epi32(a.v); }

  static Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  static Bytes mask(Bytes a, uint8_t m) {
    return {_mm512_and_si512(a.v, _mm512_set1_epi8(static_cast<char>(m)))};
  }
  static Bytes either(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
  template <int N>
  static Bytes bytes_right(Bytes a) { return {_mm512_srli_epi16(a.v, N)}; }
  template <int N>
  static Bytes bytes_left(Bytes a) { return {_mm512_slli_epi16(a.v, N)}; }
  static I32 words(Bytes a) { return {a.v}; }

  static Quad quad(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return {_mm512_set1_epi32(x)};
  }
  static I32 dot(I32 acc, Bytes w, Quad a) { return {_mm512_dpbusd_epi32(acc.v, w.v, a.v)}; }
  static I32 dot8(I32 acc, Bytes w, Quad a) { return dot(acc, w, a); }
};

}  // namespace
}  // namespace lowbit
