/* Small dense products in cache, for attention: C [m, n] (+)= A [m, k] B [k, n]. n is a multiple of kLanes and rows of B and C are padded to it, so
 * there are no masks; A's element (i, p) lies at a[i * row + p * column], so A may be transposed. With Pairs an element of A and B is two steps of the
 * reduction, in bf16, and k counts such words. */
#ifndef LOWRANK_CPU_OPS_TILE_H
#define LOWRANK_CPU_OPS_TILE_H
#include "common.h"

namespace LR_ISA { namespace {

/* Accumulators must fit the registers: 32 of 16 lanes, else 16. */
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

template <bool Pairs, int Rows, int Vectors>
LR_INLINE void tile_kernel(int64_t k, const float* a, int64_t row, int64_t column, const float* b, int64_t ldb, float* c, int64_t ldc,
                           bool accumulate) {
  VF sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) sums[i][v] = accumulate ? VF::load(c + i * ldc + v * kLanes) : VF::zero();
#pragma GCC unroll 4
  for (int64_t p = 0; p < k; p++) {
    VF loaded[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) loaded[v] = VF::load(b + p * ldb + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const VF factor = from_bits(VI::set((int32_t)f32_bits(a[i * row + p * column])));
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) sums[i][v] = Pairs ? dot_pairs(sums[i][v], factor, loaded[v]) : fma(factor, loaded[v], sums[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) sums[i][v].store(c + i * ldc + v * kLanes);
}

template <bool Pairs, int Vectors>
void tile_column(int64_t m, int64_t k, const float* a, int64_t row, int64_t column, const float* b, int64_t ldb, float* c, int64_t ldc,
                 bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) tile_kernel<Pairs, kTileRows, Vectors>(k, a + i * row, row, column, b, ldb, c + i * ldc, ldc, accumulate);
  a += i * row;
  c += i * ldc;
  switch (m - i) {
    case 5: tile_kernel<Pairs, 5, Vectors>(k, a, row, column, b, ldb, c, ldc, accumulate); break;
    case 4: tile_kernel<Pairs, 4, Vectors>(k, a, row, column, b, ldb, c, ldc, accumulate); break;
    case 3: tile_kernel<Pairs, 3, Vectors>(k, a, row, column, b, ldb, c, ldc, accumulate); break;
    case 2: tile_kernel<Pairs, 2, Vectors>(k, a, row, column, b, ldb, c, ldc, accumulate); break;
    case 1: tile_kernel<Pairs, 1, Vectors>(k, a, row, column, b, ldb, c, ldc, accumulate); break;
  }
}

#ifdef LR_AMX
constexpr int64_t kProductRows = kTileHeight, kProductSteps = kTilePairs;
/* to [16 rows, 16 words] = 16 steps of 16 rows, which lie step by step, `column` words apart. */
LR_INLINE void turn_tile(const float* a, int64_t column, float* to) {
  VF words[kLanes];
  for (int p = 0; p < kLanes; p++) words[p] = VF::load(a + p * column);
  transpose(words);
  for (int i = 0; i < kLanes; i++) words[i].store(to + i * kLanes);
}

/* tile_product in bf16 within WholeTiles: k is a multiple of kProductSteps, C has room for rows up to a multiple of kProductRows, and A is there for as many. */
void tile_product_amx(int64_t m, int64_t n, int64_t k, const float* a, int64_t row, int64_t column, const float* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  constexpr int64_t kMostSteps = 4; /* of a transposed A at a time */
  alignas(64) float turned[2][kMostSteps][kTileHeight * kTilePairs];
  const bool turns = column != 1;
  const int64_t a_words = turns ? kTilePairs : row, a_step = turns ? kTileHeight * kTilePairs : kTilePairs, most = turns ? kMostSteps * kTilePairs : k;
  for (int64_t i = 0; i < m; i += 2 * kTileHeight)
    for (int64_t p = 0; p < k; p += most) {
      const bool below = i + kTileHeight < m;
      const int64_t steps = min64(most, k - p) / kTilePairs;
      const float* from[2];
      for (int h = 0; h < 2; h++) {
        const float* at = a + (i + (below ? h : 0) * kTileHeight) * row + p * column;
        from[h] = turns ? turned[h][0] : at;
        for (int64_t s = 0; turns && s < steps; s++) turn_tile(at + s * kTilePairs * column, column, turned[h][s]);
      }
      for (int64_t j = 0; j < n; j += 2 * kTileColumns) {
        const bool right = j + kTileColumns < n;
        float* const to[2] = {c + i * ldc + j, c + (i + (below ? kTileHeight : 0)) * ldc + j};
        const bool adds = accumulate || p;
        const float* const base[2] = {adds ? to[0] : nullptr, adds ? to[1] : nullptr};
        multiplier(below, right)(steps, from, a_words, {a_step, a_step}, b + p * ldb + j, ldb, to, ldc, base, ldc);
      }
    }
}
#else
constexpr int64_t kProductRows = 1, kProductSteps = 1;
#endif

/* So few rows are multiplied in vectors everywhere. */
constexpr int64_t kVectorRows = 8;

/* The product. In bf16 k is a multiple of kProductSteps, and of more than kVectorRows rows A and C have as many as make a multiple of kProductRows. */
template <bool Pairs>
LR_INLINE void tile_product(int64_t m, int64_t n, int64_t k, const float* a, int64_t row, int64_t column, const float* b, int64_t ldb, float* c,
                            int64_t ldc, bool accumulate) {
#ifdef LR_AMX
  if (Pairs && m > kVectorRows) return tile_product_amx(m, n, k, a, row, column, b, ldb, c, ldc, accumulate);
#endif
  int64_t j = 0;
  for (; j + kTileVectors * kLanes <= n; j += kTileVectors * kLanes)
    tile_column<Pairs, kTileVectors>(m, k, a, row, column, b + j, ldb, c + j, ldc, accumulate);
  if (kTileVectors > 2 && j + 2 * kLanes <= n) {
    tile_column<Pairs, 2>(m, k, a, row, column, b + j, ldb, c + j, ldc, accumulate);
    j += 2 * kLanes;
  }
  for (; j < n; j += kLanes) tile_column<Pairs, 1>(m, k, a, row, column, b + j, ldb, c + j, ldc, accumulate);
}

/* Lane j: the sum of the lanes of vector j. Neighbours meet until one of each vector is left. */
LR_INLINE VF lane_sums(const VF (&vectors)[kLanes]) {
  VF rows[kLanes];
  for (int j = 0; j < kLanes; j++) rows[j] = vectors[j];
  for (int left = kLanes / 2; left > 0; left /= 2)
    for (int j = 0; j < left; j++) rows[j] = evens(rows[2 * j], rows[2 * j + 1]) + odds(rows[2 * j], rows[2 * j + 1]);
  return rows[0];
}

/* c[j] = a . row j of B [n, k], for a padded to `lda`; c is written up to whole vectors, behind n with what row n - 1 gives. Pairs: as above. */
template <bool Pairs> LR_INLINE void row_products(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t n, int64_t k, float* c) {
  for (int64_t j = 0; j < n; j += kLanes) {
    VF sums[kLanes];
    for (VF& sum : sums) sum = VF::zero();
    for (int64_t p = 0; p < lda; p += kLanes) {
      const VF x = VF::load(a + p);
      const int64_t lanes = min64(kLanes, k - p);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        const float* row = b + min64(j + i, n - 1) * ldb + p;
        const VF y = lanes == kLanes ? VF::load(row) : load_n<VF>(row, lanes);
        sums[i] = Pairs ? dot_pairs(sums[i], x, y) : fma(x, y, sums[i]);
      }
    }
    lane_sums(sums).store(c + j);
  }
}

/* Brings rows of k values towards the first cache: they lie apart, where the processor does not read ahead. */
LR_INLINE void fetch_rows(const float* rows, int64_t stride, int64_t count, int64_t k) {
  for (int64_t j = 0; j < count; j++)
    for (int64_t p = 0; p < k; p += 16) __builtin_prefetch(rows + j * stride + p);
}

/* out [width rounded up, ld] = inᵀ for in [count, width] with rows `stride` apart; columns from count to `padded` become zero.
 * padded is a multiple of kLanes. */
LR_INLINE void transpose(const float* in, int64_t stride, int64_t count, int64_t width, float* out, int64_t ld, int64_t padded) {
  for (int64_t j = 0; j < padded; j += kLanes)
    for (int64_t d = 0; d < width; d += kLanes) {
      VF rows[kLanes];
      const int64_t lanes = min64(kLanes, width - d);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        const float* p = in + (j + i) * stride + d;
        rows[i] = j + i >= count ? VF::zero() : lanes == kLanes ? VF::load(p) : load_n<VF>(p, lanes);
      }
      transpose(rows);
      for (int64_t i = 0; i < lanes; i++) rows[i].store(out + (d + i) * ld + j);
    }
}

/* out [ld] = in [width], zero behind it; ld is a multiple of kLanes. */
LR_INLINE void pack_row(const float* in, int64_t width, float* out, int64_t ld) {
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) VF::load(in + d).store(out + d);
  if (d < ld) load_n<VF>(in + d, width - d).store(out + d);
}

}}  // namespace LR_ISA
#endif
