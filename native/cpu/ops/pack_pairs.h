/* Packing of a GEMM's operands where the machine multiplies pairs of bf16: a word of a panel holds two steps of the reduction, the
 * first in its low half, zero behind an odd last one. A row of a matrix in bf16 is a row of such words as it lies in memory.
 *
 * A panels: a[q * R + i], or with AMX blocks of kTilePairs words, in each those of row 0, then of row 1, …; B panels: b[q * kPanel + j].
 * Two codes of a byte are one word: two lookups in a table of the block's 16 values, in bf16, and an or.
 */
#ifndef LOWRANK_CPU_OPS_PACK_PAIRS_H
#define LOWRANK_CPU_OPS_PACK_PAIRS_H
#include "pack.h"

namespace LR_ISA { namespace {

LR_INLINE VF low_halves(VF a) { return {(VF::Native)((VU::Native)bits(a).v >> 16)}; }
LR_INLINE VF either(VF a, VF b) { return from_bits(bits(a) | bits(b)); }

/* W[row][column, column + count) in bf16. */
void row_bf16(const lr_weight& w, int64_t row, int64_t column, int64_t count, uint16_t* out) {
  const int64_t at = row * w.k + column;
  auto sink = [out](int64_t i, VF v, int n) { store_bf16_lanes(v, out + i, n); };
  if (w.kind != LR_WEIGHT_4BIT) {
    if (w.dtype == LR_BF16) memcpy(out, static_cast<const uint16_t*>(w.data) + at, (size_t)count * sizeof(uint16_t));
    else read_dense(w, at, count, sink);
    return;
  }
  const int64_t span = 2 * kLanes;
  if (at % 2 || w.blocksize % span) return read_4bit(w, at, count, true, sink);
  const uint8_t* codes = static_cast<const uint8_t*>(w.data);
  const Table16 code = Table16::load(w.code);
  int64_t i = 0;
  for (int64_t block = Divisor(w.blocksize).floor(at); i + span <= count; block++) {
    const Table16 high = block_table(code, absmax_of(w, block), true), low = high.map(low_halves);
    for (const int64_t end = min64(count, (block + 1) * w.blocksize - at); i + span <= end; i += span) {
      const VI byte = load_bytes(codes + (at + i) / 2);
      either(low(byte >> 4), high(byte)).store(reinterpret_cast<float*>(out + i));
    }
    if ((at + i) % w.blocksize) break; /* the next span crosses a border, or ends */
  }
  if (i < count) read_4bit(w, at + i, count - i, true, [&](int64_t j, VF v, int n) { sink(i + j, v, n); });
}

/* The columns of C are rows [row, row + count) of W; the reduction runs over W's columns [k0, k0 + depth). */
void pack_b_row_pairs(const lr_weight& w, int64_t row, int64_t count, int64_t k0, int64_t depth, float* b) {
  alignas(64) uint16_t tile[kLanes * kDepth];
  for (int64_t j = 0; j < count; j += kLanes) { /* a tile of one vector never reads the second half of its panel */
    const int64_t rows = min64(kLanes, count - j);
    float* panel = b + j / kPanel * kPanel * kPairDepth + j % kPanel;
    for (int64_t r = 0; r < kLanes; r++) {
      uint16_t* to = tile + r * kDepth;
      if (r < rows) row_bf16(w, row + j + r, k0, depth, to);
      else memset(to, 0, (size_t)depth * sizeof(uint16_t));
      if (depth % 2) to[depth] = 0;
    }
    for (int64_t q = 0; 2 * q < depth; q += kLanes) {
      VF v[kLanes];
      for (int r = 0; r < kLanes; r++) v[r] = VF::load(reinterpret_cast<const float*>(tile + r * kDepth) + q);
      transpose(v);
      const int64_t n = min64(kLanes, (depth + 1) / 2 - q);
      for (int64_t p = 0; p < n; p++) v[p].store(panel + (q + p) * kPanel);
    }
  }
}

/* The columns of C are columns [column, column + count) of W; the reduction runs over W's rows [k0, k0 + depth). `load(i)`: the kLanes
 * values from element i of W on, each in the high half of its lane. */
template <typename Load> LR_INLINE void pack_pairs_of_rows(int64_t stride, int64_t at, int64_t count, int64_t depth, const Load& load, float* b) {
  for (int64_t q = 0; 2 * q < depth; q++)
    for (int64_t j = 0; j < count; j += kLanes) {
      const int64_t i = at + 2 * q * stride + j;
      either(low_halves(load(i)), 2 * q + 1 < depth ? load(i + stride) : VF::zero()).store(b + j / kPanel * kPanel * kPairDepth + q * kPanel + j % kPanel);
    }
}

/* Of 4-bit weights, the pairs of two rows: `count` from element `at` on, and w.k behind them. No panel crosses a block's border. */
LR_INLINE void pack_rows_4bit(const lr_weight& w, int64_t at, int64_t count, float* b) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.data);
  const Table16 code = Table16::load(w.code);
  const Divisor blocks(w.blocksize);
  for (int64_t j = 0; j < count;) {
    const int64_t block = blocks.floor(at + j), below = blocks.floor(at + w.k + j);
    const Table16 low = block_table(code, absmax_of(w, block), true).map(low_halves), high = block_table(code, absmax_of(w, below), true);
    for (const int64_t end = min64(count, min64((block + 1) * w.blocksize - at, (below + 1) * w.blocksize - at - w.k)); j < end; j += kPanel) {
      const VI first = load_bytes(codes + (at + j) / 2), second = load_bytes(codes + (at + w.k + j) / 2);
      const VF even = either(low(first >> 4), high(second >> 4)), odd = either(low(first), high(second));
      float* to = b + j * kPairDepth;
      alternated_low(even, odd).store(to);
      alternated_high(even, odd).store(to + kLanes);
    }
  }
}

void pack_b_column_pairs(const lr_weight& w, int64_t column, int64_t count, int64_t k0, int64_t depth, float* b) {
  const int64_t at = k0 * w.k + column;
  const float* f = static_cast<const float*>(w.data);
  const uint16_t* h = static_cast<const uint16_t*>(w.data);
  if (w.kind == LR_WEIGHT_DENSE && count % kPanel == 0) {
    if (w.dtype == LR_F32) return pack_pairs_of_rows(w.k, at, count, depth, [=](int64_t i) { return round_bf16(VF::load(f + i)); }, b);
    if (w.dtype == LR_BF16) return pack_pairs_of_rows(w.k, at, count, depth, [=](int64_t i) { return load_bf16(h + i); }, b);
  }
  const bool whole = w.kind == LR_WEIGHT_4BIT && count % kPanel == 0 && w.k % kPanel == 0 && at % kPanel == 0 && w.blocksize % kPanel == 0;
  alignas(64) uint16_t lines[2][kMostPanels * kPanel] = {};
  for (int64_t q = 0; 2 * q < depth; q++) {
    const int64_t rows = min64(2, depth - 2 * q);
    if (whole && rows == 2) {
      pack_rows_4bit(w, at + 2 * q * w.k, count, b + q * kPanel);
      continue;
    }
    for (int64_t r = 0; r < rows; r++) row_bf16(w, k0 + 2 * q + r, column, count, lines[r]);
    pack_pairs_of_rows(kMostPanels * kPanel, 0, ceil_div(count, kPanel) * kPanel, rows, [&](int64_t i) { return load_bf16(lines[0] + i); }, b + q * kPanel);
  }
}

/* Words [q, q + n) of R rows, n <= kLanes, each in a vector with zeros behind: where they belong in a panel of A. */
LR_INLINE void store_a_pairs(VF (&v)[kLanes], int64_t q, int64_t n, int64_t rows, float* a) {
#ifdef LR_AMX
  for (int64_t i = 0; i < rows; i++) store_n(v[i], a + q * rows + i * n, n);
#else
  transpose(v);
  for (int64_t p = 0; p < n; p++) store_n(v[p], a + (q + p) * rows, rows);
#endif
}

/* R rows of a row-major matrix, columns [0, depth) from `from`, scaled. */
void pack_a_row_pairs(const float* from, int64_t stride, int64_t rows, int64_t depth, float scale, float* a) {
  for (int64_t p = 0; p < depth; p += 2 * kLanes) {
    const int64_t first = min64(kLanes, depth - p), second = max64(0, min64(kLanes, depth - p - kLanes));
    VF v[kLanes];
    for (int64_t i = 0; i < kLanes; i++) {
      const float* x = from + i * stride + p;
      v[i] = i < rows ? narrowed(load_n<VF>(x, first) * VF::set(scale), load_n<VF>(x + first, second) * VF::set(scale)) : VF::zero();
    }
    store_a_pairs(v, p / 2, min64(kLanes, (depth - p + 1) / 2), rows, a);
  }
}

/* The same of a transposed matrix: panel row i is column i of `from`, the reduction runs over its rows. */
void pack_a_column_pairs(const float* from, int64_t stride, int64_t rows, int64_t depth, float scale, float* a) {
  auto step = [&](int64_t p) { return p < depth ? load_n<VF>(from + p * stride, rows) * VF::set(scale) : VF::zero(); };
#ifdef LR_AMX
  for (int64_t q = 0; 2 * q < depth; q += kLanes) {
    VF v[kLanes];
    for (int64_t i = 0; i < kLanes; i++) v[i] = paired(step(2 * (q + i)), step(2 * (q + i) + 1));
    transpose(v);
    store_a_pairs(v, q, min64(kLanes, (depth + 1) / 2 - q), rows, a);
  }
#else
  for (int64_t q = 0; 2 * q < depth; q++) store_n(paired(step(2 * q), step(2 * q + 1)), a + q * rows, rows);
#endif
}

}}  // namespace LR_ISA
#endif
