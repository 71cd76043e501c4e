/* Operands of a product C (+)= A B as gemm.h multiplies them, in packed blocks of at most kDepth steps of the reduction: A in panels of rows, B in panels
 * of kPanel columns. Which rows and steps lie together follows from the shapes alone.
 */
#ifndef LOWRANK_CPU_OPS_OPERANDS_H
#define LOWRANK_CPU_OPS_OPERANDS_H
#ifdef LR_AVX512_BF16
#include "pack_pairs.h"
#else
#include "pack.h"
#endif

namespace LR_ISA { namespace {

constexpr int kRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4;
#ifdef LR_AMX
constexpr int kMostRows = kTileHeight;
#else
constexpr int kMostRows = kRows;
#endif

/* Where a product goes, and what it is added to; each from its row 0, `stride` floats from row to row. */
struct Target {
  float* to;
  int64_t stride;
  const float* base; /* null: zero */
  int64_t base_stride;
  bool leaves = false; /* this op will not touch it again */
  LR_INLINE Target at(int64_t row, int64_t column) const {
    return {to + row * stride + column, stride, base ? base + row * base_stride + column : nullptr, base_stride, leaves};
  }
};

/* How n items are cut into parts of nearly equal size, none above `most`, all but the last multiples of `unit`. */
struct Split {
  int64_t n, unit, units, parts;
  LR_INLINE Split(int64_t count, int64_t most, int64_t whole = 1) : n(count), unit(whole), units(ceil_div(count, whole)), parts(count > 0 ? ceil_div(units, most / whole) : 0) {}
  LR_INLINE int64_t begin(int64_t i) const { return min64(n, units * i / parts * unit); }
  LR_INLINE int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

/* How the rows of an operand A are cut into panels: those of a micro-tile, or of a tile of AMX, whose shape should seldom change. */
LR_INLINE Split panels_of(int64_t rows, bool round) {
#ifdef LR_AMX
  if (round) return Split(rows, kTileHeight, kTileHeight);
#endif
  return Split(rows, kRows);
}
/* Whether a word of the packed operands holds two steps of the reduction, and how many words hold so many. */
LR_INLINE bool in_pairs(bool round) { return kNativeBf16 && round; }
LR_INLINE int64_t words_of(int64_t steps, bool round) { return in_pairs(round) ? (steps + 1) / 2 : steps; }
/* How the reduction is cut into packed blocks: whole pairs, whole steps of a tile. */
LR_INLINE Split blocks_of(int64_t k, bool round) {
#ifdef LR_AMX
  if (round) return Split(k, kDepth, 2 * kTilePairs);
#endif
  return Split(k, kDepth, in_pairs(round) ? 2 : 1);
}

/* Blocks of the reduction: [first, last). */
struct Blocks {
  int64_t first, last;
  LR_INLINE bool none() const { return first >= last; }
};

/* A packed: blocks of the reduction, those `held`, at first all; in each the panels of rows. m words for each step, or pair, of the blocks held. */
struct PackedA {
  float* data;
  bool round;
  Split rows, depth;
  Blocks held;
  LR_INLINE PackedA(float* d, int64_t m, int64_t k, bool rounded) : data(d), round(rounded), rows(panels_of(m, rounded)), depth(blocks_of(k, rounded)), held{0, depth.parts} {}
  LR_INLINE int64_t words_before(int64_t block) const { return words_of(depth.begin(block), round); }
  LR_INLINE float* panel(int64_t block, int64_t i) const {
    return data + rows.n * (words_before(block) - words_before(held.first)) + rows.begin(i) * (words_before(block + 1) - words_before(block));
  }
  LR_INLINE int64_t words_held() const { return rows.n * (words_before(held.last) - words_before(held.first)); }
  LR_INLINE bool begins() const { return held.first == 0; }
  LR_INLINE bool ends() const { return held.last == depth.parts; }
};

/* Packs block `block` of panel i of a matrix [m, k], or of its transpose when `transposed` (from is [k, m] then). */
void pack_a_block(const PackedA& a, int64_t block, int64_t i, const float* from, int64_t stride, bool transposed, float scale, bool round) {
  int rows = (int)a.rows.size(i);
  int64_t depth = a.depth.size(block), r0 = a.rows.begin(i), k0 = a.depth.begin(block);
  float* out = a.panel(block, i);
#ifdef LR_AVX512_BF16
  if (round) return transposed ? pack_a_column_pairs(from + k0 * stride + r0, stride, rows, depth, scale, out) : pack_a_row_pairs(from + r0 * stride + k0, stride, rows, depth, scale, out);
#endif
  if (transposed) {
    pack_a_columns(from + k0 * stride + r0, stride, rows, depth, scale, round, out);
  } else {
    /* in front of the last row whole vectors may spill, the last rows go through a buffer: another task owns what follows */
    int64_t head = max64(0, depth - kLanes) / kLanes * kLanes, tail = depth - head;
    alignas(64) float buffer[2 * kLanes * kRows + kLanes];
    pack_a_rows(from + r0 * stride + k0, stride, rows, head, scale, round, out);
    pack_a_rows(from + r0 * stride + k0 + head, stride, rows, tail, scale, round, buffer);
    memcpy(out + head * rows, buffer, (size_t)(tail * rows) * sizeof(float));
  }
}

void pack_a(const PackedA& a, int64_t first, int64_t last, const float* from, int64_t stride, bool transposed, float scale, bool round) {
  for (int64_t i = first; i < last; i++)
    for (int64_t block = a.held.first; block < a.held.last; block++) pack_a_block(a, block, i, from, stride, transposed, scale, round);
}

/* B of a GEMM: rows of a weight (C = A Wᵀ) or its columns (C = A W), packed block by block. */
struct OperandB {
  lr_weight w;
  bool rows;
  bool round;
  LR_INLINE int64_t columns() const { return rows ? w.n : w.k; }
  LR_INLINE void pack(int64_t column, int64_t columns, int64_t k0, int64_t depth, float* buffer) const {
#ifdef LR_AVX512_BF16
    if (round) return rows ? pack_b_row_pairs(w, column, columns, k0, depth, buffer) : pack_b_column_pairs(w, column, columns, k0, depth, buffer);
#endif
    if (rows) pack_b_rows(w, column, columns, k0, depth, round, buffer);
    else pack_b_columns(w, column, columns, k0, depth, round, buffer);
  }
  /* Asks for what pack will read. */
  LR_INLINE void fetch(int64_t column, int64_t columns, int64_t k0, int64_t depth) const {
    for (int64_t i = 0; i < (rows ? columns : depth); i++) rows ? fetch_span(w, column + i, k0, depth) : fetch_span(w, k0 + i, column, columns);
  }
};

}}  // namespace LR_ISA
#endif
