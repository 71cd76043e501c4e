/* AVX-512 F, BW, DQ, VL (with FMA and F16C): sixteen lanes. With AVX512-BF16 (LR_AVX512_BF16) products of bf16 are native. */
#ifndef LOWRANK_CPU_SIMD_AVX512_H
#define LOWRANK_CPU_SIMD_AVX512_H
#include <immintrin.h>
#include "half.h"

namespace LR_ISA { namespace {

constexpr int kLanes = 16;
constexpr bool kBytePlanes = false;
#ifdef LR_AVX512_BF16
constexpr bool kNativeBf16 = true;
#else
constexpr bool kNativeBf16 = false;
#endif
typedef Vec<float, 16> VF;
typedef Vec<int32_t, 16> VI;
typedef Vec<uint32_t, 16> VU;
typedef Vec<double, 8> VD;
typedef Vec<uint64_t, 8> VQ;

LR_INLINE VF fma(VF a, VF b, VF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
LR_INLINE VD fma(VD a, VD b, VD c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
LR_INLINE VF max(VF a, VF b) { return {_mm512_max_ps(a.v, b.v)}; }
LR_INLINE VF min(VF a, VF b) { return {_mm512_min_ps(a.v, b.v)}; }
LR_INLINE VF sqrt(VF a) { return {_mm512_sqrt_ps(a.v)}; }
LR_INLINE VF select(VI mask, VF a, VF b) { return {_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask.v), b.v, a.v)}; }

LR_INLINE VF times_power(VF a, VF n) { return {_mm512_scalef_ps(a.v, n.v)}; } /* rounds n down */
LR_INLINE VF fraction(VF x, VF* n) {
  *n = x;
  return {_mm512_reduce_ps(x.v, 1)}; /* x - floor(x), 0 of an infinity */
}
LR_INLINE VF power_of_fraction(VF a, VF n, VF x) { return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(kLeastPower), _CMP_NLT_UQ), a.v, n.v)}; }
LR_INLINE bool any(VI mask) { return _mm512_movepi32_mask((__m512i)mask.v) != 0; }

LR_INLINE __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1u); }
template <> LR_INLINE VF load_n<VF, float>(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
LR_INLINE void store_n(VF a, float* p, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

LR_INLINE void store_far(VF a, float* p) { _mm512_stream_ps(p, a.v); }
LR_INLINE void end_far_stores() { _mm_sfence(); }

LR_INLINE VF load_bf16(const uint16_t* p) {
  return {(__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16)};
}
LR_INLINE VF load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
/* Not vcvtneps2bf16, which flushes subnormals: all variants round alike. */
LR_INLINE __m512i rounded_bf16_bits(VF a) { /* the high halves hold the rounded value */
  __m512i u = (__m512i)a.v, odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
  return _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
}
LR_INLINE VF round_bf16(VF a) { return {(__m512)_mm512_and_si512(rounded_bf16_bits(a), _mm512_set1_epi32((int)0xffff0000u))}; }
LR_INLINE void store_bf16(VF a, uint16_t* p) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bf16_bits(a), 16)));
}
LR_INLINE void store_f16(VF a, uint16_t* p) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }

LR_INLINE VD low_f64(VF a) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))}; }
LR_INLINE VD high_f64(VF a) { return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))}; }
LR_INLINE VF from_f64(VD low, VD high) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.v)), _mm512_cvtpd_ps(high.v), 1)};
}

/* The 64-bit products of the low 32 bits of each lane. */
LR_INLINE VQ multiply_low(VQ a, VQ b) { return {(VQ::Native)_mm512_mul_epu32((__m512i)a.v, (__m512i)b.v)}; }

#ifdef LR_AVX512_BF16
LR_INLINE VF dot_pairs(VF sum, VF a, VF b) { return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)}; }
/* The values of a, then those of b, in bf16: operands of dot products, to which subnormals count as zero. */
LR_INLINE VF narrowed(VF a, VF b) { return {(__m512)_mm512_cvtne2ps_pbh(b.v, a.v)}; }
/* The same, each value of a before that of b. */
LR_INLINE VF paired(VF a, VF b) {
  __m512i order;
  for (int i = 0; i < 32; i++) ((uint16_t*)&order)[i] = (uint16_t)(i / 2 + i % 2 * 16);
  return {(__m512)_mm512_permutexvar_epi16(order, (__m512i)narrowed(a, b).v)};
}
/* Of pairs of bf16 in a and b: value i of a and value i of b, for the first kLanes values, and for the others. */
LR_INLINE VF interleaved(VF a, VF b, int first) {
  __m512i order;
  for (int i = 0; i < 32; i++) ((uint16_t*)&order)[i] = (uint16_t)(first + i / 2 + i % 2 * 32);
  return {(__m512)_mm512_permutex2var_epi16((__m512i)a.v, order, (__m512i)b.v)};
}
LR_INLINE VF interleaved_low(VF a, VF b) { return interleaved(a, b, 0); }
LR_INLINE VF interleaved_high(VF a, VF b) { return interleaved(a, b, 16); }
#endif

/* kLanes nibbles of kLanes / 2 bytes, the high one first. */
LR_INLINE VI load_nibbles(const uint8_t* p) {
  int64_t word;
  __builtin_memcpy(&word, p, 8);
  __m512i byte = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(word)); /* one byte a 64-bit lane */
  __m512i low = _mm512_and_si512(byte, _mm512_set1_epi64(15));
  return {(VI::Native)_mm512_or_si512(_mm512_srli_epi64(byte, 4), _mm512_slli_epi64(low, 32))};
}

/* kLanes bytes, each in a lane of its own. */
LR_INLINE VI load_bytes(const uint8_t* p) { return {(VI::Native)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }

/* A table of 16 floats, looked up with the low four bits of an index. */
struct Table16 {
  VF all;
  static LR_INLINE Table16 load(const float* t) { return {VF::load(t)}; }
  /* f of every value. */
  template <typename F> LR_INLINE Table16 map(F f) const { return {f(all)}; }
  LR_INLINE VF operator()(VI i) const { return {_mm512_permutexvar_ps((__m512i)i.v, all.v)}; }
};

/* A table of 256 floats in 16 registers, looked up with 16 bytes: their low five bits choose in each pair of registers, the others among the pairs. */
struct Table256 {
  __m512 parts[16];
  LR_INLINE explicit Table256(const float* t) {
    for (int i = 0; i < 16; i++) parts[i] = _mm512_loadu_ps(t + 16 * i);
  }
  LR_INLINE VF operator()(const uint8_t* codes) const {
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)codes));
    __m512 found[8];
    for (int i = 0; i < 8; i++) found[i] = _mm512_permutex2var_ps(parts[2 * i], index, parts[2 * i + 1]);
    for (int left = 4, bit = 32; left > 0; left /= 2, bit *= 2) {
      const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(bit));
      for (int i = 0; i < left; i++) found[i] = _mm512_mask_blend_ps(upper, found[2 * i], found[2 * i + 1]);
    }
    return {found[0]};
  }
};

#ifdef LR_AVX512_BF16
/* A span of ops/spans.h is 64 weights of 32 bytes. The table holds the block's 16 values in bf16 twice, so that the fifth bit of an index does not
 * matter. Subnormals become zero here, as they do in the dot product. */
struct PairTable {
  static constexpr int kSpan = 64, kFloats = 32;
  typedef __m512i Block;
  __m512 code;
  LR_INLINE PairTable(const float* values, bool) : code(_mm512_loadu_ps(values)) {}
  LR_INLINE Block block(float scale) const {
    const __m512 values = _mm512_mul_ps(code, _mm512_set1_ps(scale));
    return (__m512i)_mm512_cvtne2ps_pbh(values, values);
  }
  template <typename Sink> LR_INLINE void span(Block table, const uint8_t* codes, const Sink& sink) const {
    const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
    sink(0, VF{(__m512)_mm512_permutexvar_epi16(_mm512_srli_epi16(pairs, 4), table)});
    sink(1, VF{(__m512)_mm512_permutexvar_epi16(pairs, table)});
  }
  static LR_INLINE void arrange(const float* x, float* to) {
    uint16_t* words = reinterpret_cast<uint16_t*>(to);
    for (int i = 0; i < 2; i++) {
      const VF a = VF::load(x + 32 * i), b = VF::load(x + 32 * i + 16);
      store_bf16(evens(a, b), words + 16 * i);
      store_bf16(odds(a, b), words + 32 + 16 * i);
    }
  }
  static LR_INLINE VF multiply(VF w, VF x, VF sum) { return dot_pairs(sum, w, x); }
  LR_INLINE VF begin(VF sum) const { return sum; }
  LR_INLINE VF end(Block, VF part, VF) const { return part; }
};
#endif

/* Rows become columns. */
LR_INLINE void transpose(VF (&rows)[16]) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) { /* 4x4 blocks of 128 bits */
    __m512 a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88), b = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
    __m512 c = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88), d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
    rows[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    rows[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

}}  // namespace LR_ISA
#endif
