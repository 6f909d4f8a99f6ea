#pragma once

// The virtual vector on AVX2, FMA and F16C: two registers. With AVX-VNNI the dot product is one
// instruction.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace lowbit {
namespace {

struct Avx2Base {
  static constexpr int kRowTile = 0;
  static constexpr bool kCompact = false, kPairs = false;
  static constexpr int kByteBias = 0;
  static constexpr int kGemvBlocks = 2, kTileTokens = 4;
  static constexpr int kFloatTokens = 3, kFloatBlocks = 2, kAttentionRows = 4;

  struct F32 { __m256 v[2]; };
  struct I32 { __m256i v[2]; };
  struct Bytes { __m256i v[2]; };
  struct Quad { __m256i v; };

  static F32 zero() { return set(0); }
  static F32 set(float x) { const __m256 v = _mm256_set1_ps(x); return {{v, v}}; }
  static F32 load(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
  static __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static __m128i load64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
  static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static F32 load_half(const uint16_t* p) {
    return {{_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))}};
  }
  static __m256 bfloat8(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
  }
  static F32 load_bfloat(const uint16_t* p) { return {{bfloat8(p), bfloat8(p + 8)}}; }
  static F32 load_i8(const int8_t* p) {
    return {{_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load64(p))),
             _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load64(p + 8)))}};
  }
  static void store(float* p, F32 a) {
    _mm256_storeu_ps(p, a.v[0]);
    _mm256_storeu_ps(p + 8, a.v[1]);
  }
  static void store_half(uint16_t* p, F32 a) {
    for (int i = 0; i < 2; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * i),
                       _mm256_cvtps_ph(a.v[i], _MM_FROUND_TO_NEAREST_INT));
    }
  }
  static F32 add(F32 a, F32 b) {
    return {{_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1])}};
  }
  static F32 sub(F32 a, F32 b) {
    return {{_mm256_sub_ps(a.v[0], b.v[0]), _mm256_sub_ps(a.v[1], b.v[1])}};
  }
  static F32 mul(F32 a, F32 b) {
    return {{_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])}};
  }
  static F32 div(F32 a, F32 b) {
    return {{_mm256_div_ps(a.v[0], b.v[0]), _mm256_div_ps(a.v[1], b.v[1])}};
  }
  static F32 max(F32 a, F32 b) {
    return {{_mm256_max_ps(a.v[0], b.v[0]), _mm256_max_ps(a.v[1], b.v[1])}};
  }
  static F32 min(F32 a, F32 b) {
    return {{_mm256_min_ps(a.v[0], b.v[0]), _mm256_min_ps(a.v[1], b.v[1])}};
  }
  static F32 fma(F32 a, F32 b, F32 c) {
    return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
  }
  static float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static float sum(F32 a) {
    const __m256 b = _mm256_add_ps(a.v[0], a.v[1]);
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
  }
  static float max_lane(F32 a) {
    const __m256 b = _mm256_max_ps(a.v[0], a.v[1]);
    const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
  }

  static I32 iset(int32_t x) { const __m256i v = _mm256_set1_epi32(x); return {{v, v}}; }
  static I32 load_u8(const uint8_t* p) {
    return {{_mm256_cvtepu8_epi32(load64(p)), _mm256_cvtepu8_epi32(load64(p + 8))}};
  }
  static void istore(int32_t* p, I32 a) {
    store256(p, a.v[0]);
    store256(p + 8, a.v[1]);
  }
  static void store_i8(int8_t* p, I32 a) {
    const __m256i words = _mm256_packs_epi32(a.v[0], a.v[1]);           // 0-3 8-11 4-7 12-15
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0b11011000);  // in order
    const __m128i low = _mm256_castsi256_si128(ordered);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packs_epi16(low, _mm256_extracti128_si256(ordered, 1)));
  }
  static I32 iadd(I32 a, I32 b) {
    return {{_mm256_add_epi32(a.v[0], b.v[0]), _mm256_add_epi32(a.v[1], b.v[1])}};
  }
  static I32 isub(I32 a, I32 b) {
    return {{_mm256_sub_epi32(a.v[0], b.v[0]), _mm256_sub_epi32(a.v[1], b.v[1])}};
  }
  static I32 imul(I32 a, I32 b) {
    return {{_mm256_mullo_epi32(a.v[0], b.v[0]), _mm256_mullo_epi32(a.v[1], b.v[1])}};
  }
  static I32 iand(I32 a, I32 b) {
    return {{_mm256_and_si256(a.v[0], b.v[0]), _mm256_and_si256(a.v[1], b.v[1])}};
  }
  static I32 imax(I32 a, I32 b) {
    return {{_mm256_max_epi32(a.v[0], b.v[0]), _mm256_max_epi32(a.v[1], b.v[1])}};
  }
  static I32 imin(I32 a, I32 b) {
    return {{_mm256_min_epi32(a.v[0], b.v[0]), _mm256_min_epi32(a.v[1], b.v[1])}};
  }
  template <int N>
  static I32 shift_left(I32 a) {
    return {{_mm256_slli_epi32(a.v[0], N), _mm256_slli_epi32(a.v[1], N)}};
  }
  template <int N>
  static I32 shift_right(I32 a) {
    return {{_mm256_srli_epi32(a.v[0], N), _mm256_srli_epi32(a.v[1], N)}};
  }
  static I32 as_int(F32 a) {
    return {{_mm256_castps_si256(a.v[0]), _mm256_castps_si256(a.v[1])}};
  }
  static F32 as_float(I32 a) {
    return {{_mm256_castsi256_ps(a.v[0]), _mm256_castsi256_ps(a.v[1])}};
  }
  static F32 to_float(I32 a) {
    return {{_mm256_cvtepi32_ps(a.v[0]), _mm256_cvtepi32_ps(a.v[1])}};
  }
  static I32 round(F32 a) { return {{_mm256_cvtps_epi32(a.v[0]), _mm256_cvtps_epi32(a.v[1])}}; }
  static F32 keep(I32 m, F32 a) { return as_float(iand(m, as_int(a))); }
  static I32 less(I32 a, I32 b) {
    return {{_mm256_cmpgt_epi32(b.v[0], a.v[0]), _mm256_cmpgt_epi32(b.v[1], a.v[1])}};
  }
  static int32_t isum(I32 a) {
    int32_t lanes[16], total = 0;
    istore(lanes, a);
    for (int32_t lane : lanes) total += lane;
    return total;
  }
  static int32_t imax_lane(I32 a) {
    int32_t lanes[16];
    istore(lanes, a);
    int32_t largest = lanes[0];
    for (int32_t lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
  }

  static Bytes load_bytes(const uint8_t* p) { return {{load256(p), load256(p + 32)}}; }
  static Bytes mask(Bytes a, uint8_t m) {
    const __m256i v = _mm256_set1_epi8(static_cast<char>(m));
    return {{_mm256_and_si256(a.v[0], v), _mm256_and_si256(a.v[1], v)}};
  }
  static Bytes either(Bytes a, Bytes b) {
    return {{_mm256_or_si256(a.v[0], b.v[0]), _mm256_or_si256(a.v[1], b.v[1])}};
  }
  template <int N>
  static Bytes bytes_right(Bytes a) {
    return {{_mm256_srli_epi16(a.v[0], N), _mm256_srli_epi16(a.v[1], N)}};
  }
  template <int N>
  static Bytes bytes_left(Bytes a) {
    return {{_mm256_slli_epi16(a.v[0], N), _mm256_slli_epi16(a.v[1], N)}};
  }
  static I32 words(Bytes a) { return {{a.v[0], a.v[1]}}; }

  static Quad quad(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return {_mm256_set1_epi32(x)};
  }
};

struct Avx2 : Avx2Base {
  // Left to itself, GCC 12 puts off a chain's additions until all its products are there, and these
  // do not fit in registers.
  static __m256i now(__m256i a) {
    asm("" : "+x"(a));
    return a;
  }

  static constexpr bool kPairs = true;
  struct Pairs { __m256i v[2]; };
  static __m256i pairs256(__m256i sums, __m256i w, __m256i a) {
    return now(_mm256_add_epi16(sums, _mm256_maddubs_epi16(w, a)));
  }
  static Pairs add_pairs(Pairs sums, Bytes w, Quad a) {
    return {{pairs256(sums.v[0], w.v[0], a.v), pairs256(sums.v[1], w.v[1], a.v)}};
  }
  static __m256i widened256(__m256i acc, __m256i pairs) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static I32 add_widened(I32 acc, Pairs p) {
    return {{widened256(acc.v[0], p.v[0]), widened256(acc.v[1], p.v[1])}};
  }

  // Pairs add up to at most 2 * 127 * 128, which fits in int16.
  static __m256i dot256(__m256i acc, __m256i w, __m256i a) {
    const __m256i pairs = _mm256_maddubs_epi16(w, a);
    return now(_mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
  }
  static I32 dot(I32 acc, Bytes w, Quad a) {
    return {{dot256(acc.v[0], w.v[0], a.v), dot256(acc.v[1], w.v[1], a.v)}};
  }
  // Bytes above 127 would saturate the pairs: even and odd columns are widened to int16.
  static __m256i wide256(__m256i acc, __m256i w, __m256i even, __m256i odd) {
    const __m256i low = _mm256_and_si256(w, _mm256_set1_epi16(0xff));
    const __m256i high = _mm256_srli_epi16(w, 8);
    const __m256i sums =
        _mm256_add_epi32(_mm256_madd_epi16(low, even), _mm256_madd_epi16(high, odd));
    return now(_mm256_add_epi32(acc, sums));
  }
  static I32 dot8(I32 acc, Bytes w, Quad a) {
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(a.v, 8), 8);
    const __m256i odd = _mm256_srai_epi16(a.v, 8);
    return {{wide256(acc.v[0], w.v[0], even, odd), wide256(acc.v[1], w.v[1], even, odd)}};
  }
};

#ifdef __AVXVNNI__
struct Avx2Vnni : Avx2Base {
  static I32 dot(I32 acc, Bytes w, Quad a) {
    return {{_mm256_dpbusd_avx_epi32(acc.v[0], w.v[0], a.v),
             _mm256_dpbusd_avx_epi32(acc.v[1], w.v[1], a.v)}};
  }
  static I32 dot8(I32 acc, Bytes w, Quad a) { return dot(acc, w, a); }
};
#endif

}  // namespace
}  // namespace lowbit
