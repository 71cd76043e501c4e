/* AVX2 + FMA + F16C: eight lanes. */
#ifndef LOWRANK_CPU_SIMD_AVX2_H
#define LOWRANK_CPU_SIMD_AVX2_H
#include <immintrin.h>
#include "half.h"

namespace LR_ISA { namespace {

constexpr int kLanes = 8;
constexpr bool kNativeBf16 = false;
constexpr bool kBytePlanes = true;
typedef Vec<float, 8> VF;
typedef Vec<int32_t, 8> VI;
typedef Vec<uint32_t, 8> VU;
typedef Vec<double, 4> VD;
typedef Vec<uint64_t, 4> VQ;

LR_INLINE VF fma(VF a, VF b, VF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
LR_INLINE VD fma(VD a, VD b, VD c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
LR_INLINE VF max(VF a, VF b) { return {_mm256_max_ps(a.v, b.v)}; }
LR_INLINE VF min(VF a, VF b) { return {_mm256_min_ps(a.v, b.v)}; }
LR_INLINE VF sqrt(VF a) { return {_mm256_sqrt_ps(a.v)}; }
LR_INLINE bool any(VI mask) { return _mm256_movemask_ps((__m256)mask.v) != 0; }
LR_INLINE VF select(VI mask, VF a, VF b) { return {_mm256_blendv_ps(b.v, a.v, (__m256)mask.v)}; }

LR_INLINE __m256i first_lanes(int64_t n) { /* -1 in lanes below n */
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <> LR_INLINE VF load_n<VF, float>(const float* p, int64_t n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
LR_INLINE void store_n(VF a, float* p, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), a.v); }

LR_INLINE void store_far(VF a, float* p) { _mm256_stream_ps(p, a.v); }
LR_INLINE void end_far_stores() { _mm_sfence(); }

LR_INLINE VF load_bf16(const uint16_t* p) {
  return {(__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16)};
}
LR_INLINE VF load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))}; }
LR_INLINE __m256i rounded_bf16_bits(VF a) { /* the high halves hold the rounded value */
  __m256i u = (__m256i)a.v, odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
  __m256i nan = (__m256i)_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(r, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
}
LR_INLINE VF round_bf16(VF a) { return {(__m256)_mm256_and_si256(rounded_bf16_bits(a), _mm256_set1_epi32((int)0xffff0000u))}; }
LR_INLINE void store_bf16(VF a, uint16_t* p) {
  __m256i h = _mm256_srli_epi32(rounded_bf16_bits(a), 16);
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}
LR_INLINE void store_f16(VF a, uint16_t* p) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }

LR_INLINE VD low_f64(VF a) { return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v))}; }
LR_INLINE VD high_f64(VF a) { return {_mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))}; }
LR_INLINE VF from_f64(VD low, VD high) { return {_mm256_set_m128(_mm256_cvtpd_ps(high.v), _mm256_cvtpd_ps(low.v))}; }

/* The 64-bit products of the low 32 bits of each lane. */
LR_INLINE VQ multiply_low(VQ a, VQ b) { return {(VQ::Native)_mm256_mul_epu32((__m256i)a.v, (__m256i)b.v)}; }

/* kLanes nibbles of kLanes / 2 bytes, the high one first. */
LR_INLINE VI load_nibbles(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  __m256i byte = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(word)); /* one byte a 64-bit lane */
  __m256i low = _mm256_and_si256(byte, _mm256_set1_epi64x(15));
  return {(VI::Native)_mm256_or_si256(_mm256_srli_epi64(byte, 4), _mm256_slli_epi64(low, 32))};
}

/* kLanes bytes, each in a lane of its own. */
LR_INLINE VI load_bytes(const uint8_t* p) { return {(VI::Native)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p))}; }

/* A table of 16 floats, looked up with the low four bits of an index. */
struct Table16 {
  VF low, high;
  static LR_INLINE Table16 load(const float* t) { return {VF::load(t), VF::load(t + 8)}; }
  /* f of every value. */
  template <typename F> LR_INLINE Table16 map(F f) const { return {f(low), f(high)}; }
  LR_INLINE VF operator()(VI i) const {
    __m256i index = (__m256i)i.v;
    __m256 upper = (__m256)_mm256_slli_epi32(index, 28); /* bit 3 becomes the sign, which blendv reads */
    return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(low.v, index), _mm256_permutevar8x32_ps(high.v, index), upper)};
  }
};
typedef MemoryTable256<8> Table256;

/* A span of ops/spans.h is 64 weights of 32 bytes: 32 of even index, then 32 of odd. Byte q of each is looked up in plane[q]; interleaving the bytes
 * of 32 gives vectors of the weights 4 v to 4 v + 3 and 16 + 4 v to 16 + 4 v + 3. */
struct PlaneTable {
  static constexpr int kSpan = 64, kFloats = 64;
  typedef VF Block; /* its absmax */
  __m256i plane[4];
  LR_INLINE PlaneTable(const float* values, bool) {
    for (int q = 0; q < 4; q++) {
      alignas(16) uint8_t bytes[16];
      for (int i = 0; i < 16; i++) bytes[i] = reinterpret_cast<const uint8_t*>(values + i)[q];
      plane[q] = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)bytes));
    }
  }
  LR_INLINE Block block(float absmax) const { return VF::set(absmax); }
  template <typename Sink> LR_INLINE void span(Block, const uint8_t* codes, const Sink& sink) const {
    const __m256i pairs = _mm256_loadu_si256((const __m256i*)codes), nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
      const __m256i index = _mm256_and_si256(odd ? pairs : _mm256_srli_epi16(pairs, 4), nibble);
      const __m256i a = _mm256_shuffle_epi8(plane[0], index), b = _mm256_shuffle_epi8(plane[1], index);
      const __m256i c = _mm256_shuffle_epi8(plane[2], index), d = _mm256_shuffle_epi8(plane[3], index);
      const __m256i low0 = _mm256_unpacklo_epi8(a, b), low1 = _mm256_unpackhi_epi8(a, b);
      const __m256i high0 = _mm256_unpacklo_epi8(c, d), high1 = _mm256_unpackhi_epi8(c, d);
      sink(4 * odd, VF{(__m256)_mm256_unpacklo_epi16(low0, high0)});
      sink(4 * odd + 1, VF{(__m256)_mm256_unpackhi_epi16(low0, high0)});
      sink(4 * odd + 2, VF{(__m256)_mm256_unpacklo_epi16(low1, high1)});
      sink(4 * odd + 3, VF{(__m256)_mm256_unpackhi_epi16(low1, high1)});
    }
  }
  static LR_INLINE void arrange(const float* x, float* to) {
    for (int v = 0; v < 4; v++)
      for (int i = 0; i < 8; i++) {
        const int byte = 4 * v + i % 4 + i / 4 * 16;
        to[8 * v + i] = x[2 * byte];
        to[32 + 8 * v + i] = x[2 * byte + 1];
      }
  }
  static LR_INLINE VF multiply(VF w, VF x, VF sum) { return fma(w, x, sum); }
  LR_INLINE VF begin(VF) const { return VF::zero(); }
  LR_INLINE VF end(Block scale, VF part, VF sum) const { return fma(part, scale, sum); }
};

/* Rows become columns. */
LR_INLINE void transpose(VF (&rows)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    rows[i].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    rows[i + 4].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

}}  // namespace LR_ISA
#endif
