/* Operands of attention's products as tile_product reads them: float32 values, or pairs of bf16, two steps of a reduction in a word, zero behind the
 * last ones: steps(n) of them are a reduction over n, words(n) hold values. In bf16 q, k, v, dO, P and dS are rounded, as on CUDA; scores, maxima, sums and lse are float32.
 *
 * Of vectors of d values, one a row(r): `rows` makes a left operand of a reduction over d, rows of width(d) words; `stacked` a right operand of a
 * reduction over the rows, steps(n) rows of `ld` words; `columns` a right operand of a reduction over d, steps(d) rows of kTileKeys words.
 * Vectors come in float32; in bf16, as a cache may hold them, those of kPairs are taken as words of two values, so d must be even.
 */
#ifndef LOWRANK_CPU_OPS_ATTENTION_OPERANDS_H
#define LOWRANK_CPU_OPS_ATTENTION_OPERANDS_H
#include "../../abi/attention.h"
#include "../simd/math.h"
#include "ranges.h"
#include "tile.h"

namespace LR_ISA { namespace {

constexpr int64_t kTileKeys = kPageSize;

/* Pᵀ and dSᵀ as left operands of reductions over queries: element (key, step) at [key + step * stride]. */
struct TransposedScores {
  const float *p, *ds;
  int64_t stride;
};

struct Float32Operands {
  static constexpr bool kPairs = false;
  struct Products {}; /* lives while a thread multiplies */
  static LR_INLINE int64_t words(int64_t n) { return n; }
  static LR_INLINE int64_t steps(int64_t n) { return n; }
  static LR_INLINE void end_stack(int64_t, int64_t, float*) {}
  static LR_INLINE int64_t width(int64_t d) { return round_up(d, kLanes); }
  template <typename Row> static LR_INLINE void rows(int64_t n, int64_t d, const Row& row, float* out) {
    for (int64_t r = 0; r < n; r++) pack_row(row(r), d, out + r * width(d), width(d));
  }
  template <typename Row> static LR_INLINE void stacked(int64_t n, int64_t d, const Row& row, float* out) { rows(n, d, row, out); }
  static LR_INLINE void columns(const float* x, int64_t stride, int64_t n, int64_t d, float* out) { transpose(x, stride, n, d, out, kTileKeys, kTileKeys); }
  /* Columns [j, j + 2 kLanes) of a row of a left operand of a reduction over keys. */
  static LR_INLINE void store_left(VF low, VF high, float* row, int64_t j) {
    low.store(row + j);
    high.store(row + j + kLanes);
  }
  /* Rows of P and dS, kTogether of them, become all the operands of the gradient: dS a left one of a reduction over keys, and `transposed`. */
  static constexpr int kTogether = 1;
  static LR_INLINE void store_both_ways(const VF (&p)[1][2], const VF (&ds)[1][2], float* p_row, float* ds_row, int64_t j) {
    store_left(p[0][0], p[0][1], p_row, j);
    store_left(ds[0][0], ds[0][1], ds_row, j);
  }
  static LR_INLINE TransposedScores transposed(const float* p, const float* ds) { return {p, ds, kTileKeys}; }
};

#ifdef LR_AVX512_BF16
struct PairOperands {
  static constexpr bool kPairs = true;
#ifdef LR_AMX
  using Products = WholeTiles;
#else
  struct Products {};
#endif
  static LR_INLINE int64_t words(int64_t n) { return ceil_div(n, 2); }
  static LR_INLINE int64_t steps(int64_t n) { return round_up(words(n), kProductSteps); }
  /* Zeros behind the words(n) rows of `ld` words of a right operand of a reduction over n. */
  static LR_INLINE void end_stack(int64_t n, int64_t ld, float* out) { memset(out + words(n) * ld, 0, (size_t)((steps(n) - words(n)) * ld) * sizeof(float)); }
  static LR_INLINE int64_t width(int64_t d) { return round_up(d, 2 * kLanes) / 2; }
  /* Values [i, i + 2 kLanes) of d. */
  static LR_INLINE VF narrowed_from(const float* x, int64_t i, int64_t d) {
    const int64_t left = d - i;
    if (left >= 2 * kLanes) return narrowed(VF::load(x + i), VF::load(x + i + kLanes));
    return narrowed(load_n<VF>(x + i, min64(kLanes, left)), load_n<VF>(x + i + kLanes, max64(0, left - kLanes)));
  }
  template <typename Row> static LR_INLINE void rows(int64_t n, int64_t d, const Row& row, float* out) {
    for (int64_t r = 0; r < n; r++)
      for (int64_t i = 0; i < d; i += 2 * kLanes) narrowed_from(row(r), i, d).store(out + r * width(d) + i / 2);
  }
  template <typename Row> static LR_INLINE void stacked(int64_t n, int64_t d, const Row& row, float* out) {
    const int64_t ld = round_up(d, kLanes);
    for (int64_t r = 0; r < n; r += 2) {
      const float *even = row(r), *odd = r + 1 < n ? row(r + 1) : nullptr;
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        paired(load_lanes(even + i, lanes), odd ? load_lanes(odd + i, lanes) : VF::zero()).store(out + r / 2 * ld + i);
      });
    }
    end_stack(n, ld, out);
  }
  static LR_INLINE void columns(const float* x, int64_t stride, int64_t n, int64_t d, float* out) {
    for (int64_t j = 0; j < kTileKeys; j += kLanes)
      for (int64_t i = 0; i < d; i += 2 * kLanes) {
        VF words[kLanes];
        for (int r = 0; r < kLanes; r++) words[r] = j + r < n ? narrowed_from(x + (j + r) * stride, i, d) : VF::zero();
        transpose(words);
        const int64_t count = min64(kLanes, steps(d - i));
        for (int64_t p = 0; p < count; p++) words[p].store(out + (i / 2 + p) * kTileKeys + j);
      }
  }
  /* stacked, of vectors in bf16. */
  static LR_INLINE void stacked_words(int64_t n, int64_t d, const float* words, int64_t stride, float* out) {
    const int64_t ld = round_up(d, kLanes);
    for (int64_t r = 0; r < n; r += 2)
      for (int64_t i = 0; i < d; i += 2 * kLanes) {
        const float *even = words + r * stride + i / 2, *odd = even + stride;
        const int64_t count = min64(kLanes, (d - i) / 2);
        const VF a = load_lanes(even, count), b = r + 1 < n ? load_lanes(odd, count) : VF::zero();
        interleaved_low(a, b).store(out + r / 2 * ld + i);
        if (i + kLanes < ld) interleaved_high(a, b).store(out + r / 2 * ld + i + kLanes);
      }
    end_stack(n, ld, out);
  }
  static LR_INLINE void store_left(VF low, VF high, float* row, int64_t j) { narrowed(low, high).store(row + j / 2); }
  static constexpr int kTogether = 2;
  /* The two rows of P make words in the first of p, those of dS in the second of p, which is there even where only the first is asked for. */
  static LR_INLINE void store_both_ways(const VF (&p)[2][2], const VF (&ds)[2][2], float* p_row, float* ds_row, int64_t j) {
    for (int v = 0; v < 2; v++) {
      paired(p[0][v], p[1][v]).store(p_row + j + v * kLanes);
      paired(ds[0][v], ds[1][v]).store(p_row + kTileKeys + j + v * kLanes);
      store_left(ds[v][0], ds[v][1], ds_row + v * kTileKeys, j);
    }
  }
  static LR_INLINE TransposedScores transposed(const float* p, const float*) { return {p, p + kTileKeys, 2 * kTileKeys}; }
};
#endif

/* body(operands) with those that the call asks for. */
template <typename Body> LR_INLINE auto with_operands(int32_t math, const Body& body) {
#ifdef LR_AVX512_BF16
  if (math == LR_MATH_BF16) return body(PairOperands());
#endif
  return body(Float32Operands());
}

}}  // namespace LR_ISA
#endif
