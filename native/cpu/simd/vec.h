/* Vec<T, N>: N lanes of T, the only vocabulary of the kernels in ops/.
 *
 * The base here is portable (compiler vectors, no intrinsics) and compiles everywhere; avx2.h and avx512.h overload what an
 * ISA does better. Every ISA lives in its own namespace LR_ISA, all of it anonymous: no symbol of a kernel leaves its object,
 * or the linker could keep the AVX-512 copy of a function for every machine.
 *
 * An ISA header sets the natural width kLanes, the aliases VF (float), VI (int32_t), VU (uint32_t), VD and VQ (double and uint64_t, half as
 * many), stores to an aligned place past the caches (store_far; end_far_stores orders them before what the thread does next), and whether it
 * multiplies bf16 (kNativeBf16) and decodes 4-bit weights in byte planes (kBytePlanes), each with a table for ops/spans.h. amx.h adds tiles (kTiles).
 */
#ifndef LR_ISA
#error "define LR_ISA (the namespace of this variant) before including simd headers; see isa/"
#endif
#ifndef LOWRANK_CPU_SIMD_VEC_H
#define LOWRANK_CPU_SIMD_VEC_H
#include <stddef.h>
#include <stdint.h>

#define LR_INLINE inline __attribute__((always_inline))

namespace LR_ISA { namespace {

#ifdef LR_AMX
constexpr bool kTiles = true;
#else
constexpr bool kTiles = false;
#endif
struct TileTable;  /* where kTiles */
struct PlaneTable; /* where kBytePlanes */
struct PairTable;  /* where kNativeBf16 */

template <typename T, int N> struct Vec {
  typedef T Native __attribute__((vector_size(N * sizeof(T))));
  Native v;
  static constexpr int lanes = N;
  static LR_INLINE Vec set(T x) { return {x - Native{}}; } /* x - 0 keeps the sign of -0, x + 0 does not */
  static LR_INLINE Vec zero() { return {Native{}}; }
  static LR_INLINE Vec load(const T* p) { Vec r; __builtin_memcpy(&r.v, p, sizeof(r.v)); return r; }
  LR_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof(v)); }
  LR_INLINE T operator[](int i) const { return v[i]; }
};

/* A table of 256 floats in memory, looked up with N bytes. */
template <int N> struct MemoryTable256 {
  const float* values;
  LR_INLINE explicit MemoryTable256(const float* t) : values(t) {}
  LR_INLINE Vec<float, N> operator()(const uint8_t* codes) const {
    Vec<float, N> r;
    for (int i = 0; i < N; i++) r.v[i] = values[codes[i]];
    return r;
  }
};

template <typename T, int N> LR_INLINE Vec<T, N> operator+(Vec<T, N> a, Vec<T, N> b) { return {a.v + b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator-(Vec<T, N> a, Vec<T, N> b) { return {a.v - b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator*(Vec<T, N> a, Vec<T, N> b) { return {a.v * b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator/(Vec<T, N> a, Vec<T, N> b) { return {a.v / b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator-(Vec<T, N> a) { return {-a.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator&(Vec<T, N> a, Vec<T, N> b) { return {a.v & b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator|(Vec<T, N> a, Vec<T, N> b) { return {a.v | b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator^(Vec<T, N> a, Vec<T, N> b) { return {a.v ^ b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator<<(Vec<T, N> a, int n) { return {a.v << n}; }
template <typename T, int N> LR_INLINE Vec<T, N> operator>>(Vec<T, N> a, int n) { return {a.v >> n}; }

/* Comparisons give lanes of 0 or -1. */
template <int N> LR_INLINE Vec<int32_t, N> operator<(Vec<float, N> a, Vec<float, N> b) { return {a.v < b.v}; }
template <int N> LR_INLINE Vec<int32_t, N> operator<=(Vec<float, N> a, Vec<float, N> b) { return {a.v <= b.v}; }
template <int N> LR_INLINE Vec<int32_t, N> operator==(Vec<float, N> a, Vec<float, N> b) { return {a.v == b.v}; }
template <int N> LR_INLINE Vec<int32_t, N> operator<(Vec<int32_t, N> a, Vec<int32_t, N> b) { return {a.v < b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> select(Vec<int32_t, N> mask, Vec<T, N> a, Vec<T, N> b) { return {mask.v ? a.v : b.v}; }

/* As maxps and minps: the second operand when either is NaN. */
template <typename T, int N> LR_INLINE Vec<T, N> max(Vec<T, N> a, Vec<T, N> b) { return {a.v > b.v ? a.v : b.v}; }
template <typename T, int N> LR_INLINE Vec<T, N> min(Vec<T, N> a, Vec<T, N> b) { return {a.v < b.v ? a.v : b.v}; }

/* a * b + c, rounded once where the hardware fuses. */
template <typename T, int N> LR_INLINE Vec<T, N> fma(Vec<T, N> a, Vec<T, N> b, Vec<T, N> c) {
#ifdef __FP_FAST_FMAF
  Vec<T, N> r;
  for (int i = 0; i < N; i++) r.v[i] = sizeof(T) == 4 ? (T)__builtin_fmaf((float)a.v[i], (float)b.v[i], (float)c.v[i]) : (T)__builtin_fma(a.v[i], b.v[i], c.v[i]);
  return r;
#else
  return {a.v * b.v + c.v};
#endif
}
template <int N> LR_INLINE Vec<float, N> sqrt(Vec<float, N> a) {
  Vec<float, N> r;
  for (int i = 0; i < N; i++) r.v[i] = __builtin_sqrtf(a.v[i]);
  return r;
}

template <int N> LR_INLINE Vec<int32_t, N> bits(Vec<float, N> a) { return {(typename Vec<int32_t, N>::Native)a.v}; }
template <int N> LR_INLINE Vec<float, N> from_bits(Vec<int32_t, N> a) { return {(typename Vec<float, N>::Native)a.v}; }
template <int N> LR_INLINE Vec<float, N> to_float(Vec<int32_t, N> a) { return {__builtin_convertvector(a.v, typename Vec<float, N>::Native)}; }
template <int N> LR_INLINE Vec<int32_t, N> to_int(Vec<float, N> a) { return {__builtin_convertvector(a.v, typename Vec<int32_t, N>::Native)}; } /* truncates */
template <int N> LR_INLINE Vec<float, N> abs(Vec<float, N> a) { return from_bits(bits(a) & Vec<int32_t, N>::set(0x7fffffff)); }
/* sum + a.low * b.low + a.high * b.high, where each lane of a and b holds two bf16 (the first of the pair in the low half). */
template <int N> LR_INLINE Vec<float, N> dot_pairs(Vec<float, N> sum, Vec<float, N> a, Vec<float, N> b) {
  const Vec<int32_t, N> high = Vec<int32_t, N>::set((int32_t)0xffff0000u);
  return fma(from_bits(bits(a) & high), from_bits(bits(b) & high), fma(from_bits(bits(a) << 16), from_bits(bits(b) << 16), sum));
}
/* The lanes of even, and of odd, index of a, then those of b. */
template <int N> LR_INLINE Vec<float, N> evens(Vec<float, N> a, Vec<float, N> b) {
  typename Vec<int32_t, N>::Native index;
  for (int i = 0; i < N; i++) index[i] = 2 * i;
  return {__builtin_shuffle(a.v, b.v, index)};
}
template <int N> LR_INLINE Vec<float, N> odds(Vec<float, N> a, Vec<float, N> b) {
  typename Vec<int32_t, N>::Native index;
  for (int i = 0; i < N; i++) index[i] = 2 * i + 1;
  return {__builtin_shuffle(a.v, b.v, index)};
}
/* The lanes of a and b in turns: those of their first halves, and of their second. */
template <int N> LR_INLINE Vec<float, N> alternated(Vec<float, N> a, Vec<float, N> b, int first) {
  typename Vec<int32_t, N>::Native index;
  for (int i = 0; i < N; i++) index[i] = first + i / 2 + i % 2 * N;
  return {__builtin_shuffle(a.v, b.v, index)};
}
template <int N> LR_INLINE Vec<float, N> alternated_low(Vec<float, N> a, Vec<float, N> b) { return alternated(a, b, 0); }
template <int N> LR_INLINE Vec<float, N> alternated_high(Vec<float, N> a, Vec<float, N> b) { return alternated(a, b, N / 2); }
/* a * 2^n for an integer n in [-252, 254], in two factors, so that subnormal results round once and the largest finite ones do not overflow early. */
template <int N> LR_INLINE Vec<float, N> times_power(Vec<float, N> a, Vec<float, N> n) {
  const Vec<int32_t, N> i = to_int(n), half = i >> 1, bias = Vec<int32_t, N>::set(127);
  return a * from_bits((half + bias) << 23) * from_bits((i - half + bias) << 23);
}
/* a * b to the nearest integer, ties to even, for |a * b| < 2^22. */
template <int N> LR_INLINE Vec<float, N> round_product(Vec<float, N> a, Vec<float, N> b) {
  const Vec<float, N> magic = Vec<float, N>::set(12582912.0f);
  return fma(a, b, magic) - magic;
}

/* The least power of two that is normal: arithmetic on smaller ones takes Intel's processors 150 cycles. */
constexpr float kLeastPower = -126.0f;

/* 2^x = power_of_fraction(2^f, n, x) for the f in [0, 1] that is returned. */
template <int N> LR_INLINE Vec<float, N> fraction(Vec<float, N> x, Vec<float, N>* n) {
  typedef Vec<float, N> F;
  const F c = max(F::set(kLeastPower), min(F::set(128.0f), x)); /* NaN passes: min and max give their second operand then */
  *n = round_product(c - F::set(0.5f), F::set(1.0f));
  return c - *n;
}
template <int N> LR_INLINE Vec<float, N> power_of_fraction(Vec<float, N> a, Vec<float, N> n, Vec<float, N> x) {
  typedef Vec<float, N> F;
  const F power = from_bits((to_int(n) + Vec<int32_t, N>::set(127)) << 23);
  return select(x < F::set(kLeastPower), F::zero(), a * power);
}
template <int N> LR_INLINE bool any(Vec<int32_t, N> mask) {
  int32_t all = 0;
  for (int i = 0; i < N; i++) all |= mask.v[i];
  return all != 0;
}

/* Lane i takes lane i + W. */
template <int W, typename T, int N> LR_INLINE Vec<T, N> lowered(Vec<T, N> a) {
  decltype(a.v < a.v) from;
  for (int i = 0; i < N; i++) from[i] = (i + W) % N;
  return {__builtin_shuffle(a.v, from)};
}
/* Horizontal, as a binary tree over the lanes: always the same order. */
template <typename T, int N, int W = N / 2> LR_INLINE T sum(Vec<T, N> a) {
  const Vec<T, N> halved = a + lowered<W>(a);
  if constexpr (W > 1) return sum<T, N, W / 2>(halved);
  else return halved[0];
}
template <typename T, int N, int W = N / 2> LR_INLINE T hmax(Vec<T, N> a) {
  const Vec<T, N> halved = max(a, lowered<W>(a));
  if constexpr (W > 1) return hmax<T, N, W / 2>(halved);
  else return halved[0];
}

/* The first n of N lanes (0 <= n <= N); the others read as zero and are not written. */
template <typename V, typename T> LR_INLINE V load_n(const T* p, int64_t n) {
  V r = V::zero();
  for (int64_t i = 0; i < n; i++) r.v[i] = p[i];
  return r;
}
template <typename T, int N> LR_INLINE void store_n(Vec<T, N> a, T* p, int64_t n) {
  T t[N];
  a.store(t);
  for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

}}  // namespace LR_ISA
#endif
