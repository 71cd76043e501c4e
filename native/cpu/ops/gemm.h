/* C [m, n] (+)= A [m, k] B [k, n] in f32: BLIS's loops with A packed once for all columns and B packed (decoded) by the task
 * that owns a panel of columns, once for all rows.
 *
 * Every element of C sees the same sequence of fused multiply-adds whatever the split into tasks, panels or threads: ascending
 * over the blocks of kDepth, ascending inside. Tolerance against float64: about sqrt(k) * 6e-8 of the largest product.
 * Micro-tiles: 14 x 32 (AVX-512), 6 x 16 (AVX2), 4 x 8 (portable); in bf16 on AMX 32 x 32 (gemm_tiles.h). Van Zee and van de Geijn, "BLIS", TOMS 2015.
 */
#ifndef LOWRANK_CPU_OPS_GEMM_H
#define LOWRANK_CPU_OPS_GEMM_H
#ifdef LR_AMX
#include "gemm_tiles.h"
#else
#include "operands.h"
#endif

namespace LR_ISA { namespace {

/* to[i][j] = base[i][j] + sum_p a[p * R + i] b[p * kPanel + j], for R rows and `columns` <= NV * kLanes columns. With Pairs every row of
 * the packed operands holds two steps of the reduction, in bf16. */
template <int R, int NV, bool Pairs> __attribute__((noinline)) void micro_tile(int64_t depth, const float* a, const float* b, const Target& c, int64_t columns) {
  VF sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) sum[i][v] = VF::zero();
#pragma GCC unroll 4
  for (int64_t p = Pairs ? (depth + 1) / 2 : depth; p > 0; p--) {
    VF bv[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) bv[v] = VF::load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      VF av = from_bits(VI::set((int32_t)f32_bits(a[i])));
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) sum[i][v] = Pairs ? dot_pairs(sum[i][v], av, bv[v]) : fma(av, bv[v], sum[i][v]);
    }
    a += R;
    b += kPanel;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    float* row = c.to + i * c.stride;
    const float* base = c.base ? c.base + i * c.base_stride : nullptr;
    if (columns == NV * kLanes) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) (base ? VF::load(base + v * kLanes) + sum[i][v] : sum[i][v]).store(row + v * kLanes);
    } else {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) {
        int64_t n = max64(0, min64(kLanes, columns - v * kLanes));
        store_n(base ? load_n<VF>(base + v * kLanes, n) + sum[i][v] : sum[i][v], row + v * kLanes, n);
      }
    }
  }
}

/* micro_tile for a number of rows known only now. */
template <int R, int NV, bool Pairs> struct Tiles {
  static LR_INLINE void run(int rows, int64_t depth, const float* a, const float* b, const Target& c, int64_t columns) {
    if (rows == R) micro_tile<R, NV, Pairs>(depth, a, b, c, columns);
    else Tiles<R - 1, NV, Pairs>::run(rows, depth, a, b, c, columns);
  }
};
template <int NV, bool Pairs> struct Tiles<0, NV, Pairs> {
  static LR_INLINE void run(int, int64_t, const float*, const float*, const Target&, int64_t) {}
};

/* One packed block of B, panel after panel, against the panels [first, last) of A: columns [0, columns) of C. */
LR_INLINE void multiply_block(const PackedA& a, int64_t first, int64_t last, int64_t block, const float* b, bool round, const Target& c, int64_t columns) {
#ifdef LR_AMX
  for (int64_t j = 0; round && j < columns; j += kPanel) multiply_block_tiles(a, first, last, block, b + j * kPairDepth, c.at(0, j), min64(kPanel, columns - j));
  if (round) return;
#endif
  const int64_t depth = a.depth.size(block), apart = words_of(kDepth, round);
  auto panels = [&](auto wide, auto narrow) {
    for (int64_t i = first; i < last; i++) {
      const int64_t row = a.rows.begin(i), rows = a.rows.begin(i + 1) - row;
      const float* panel = a.panel(block, i);
      for (int64_t j = 0; j < columns; j += kPanel) {
        const int64_t left = min64(kPanel, columns - j);
        const Target to = c.at(row, j);
        if (left > kLanes) wide.run((int)rows, depth, panel, b + j * apart, to, left);
        else narrow.run((int)rows, depth, panel, b + j * apart, to, left);
      }
    }
  };
  if (in_pairs(round)) panels(Tiles<kRows, 2, kNativeBf16>(), Tiles<kRows, 1, kNativeBf16>());
  else panels(Tiles<kRows, 2, false>(), Tiles<kRows, 1, false>());
}

/* So many panels of columns are multiplied at a time that a panel of A comes from afar once for all of them. Results do not depend on it. */
struct Strips {
  int64_t columns, width;
  /* The widest of those that leave threads idle the least, with three strips or more for each. */
  LR_INLINE Strips(int64_t n, int32_t threads) : columns(n), width(kPanel) {
    const int64_t panels = ceil_div(n, kPanel);
    int64_t least = ceil_div(panels, threads);
    for (int64_t wide = 2; wide <= kMostPanels; wide++) {
      const int64_t rounds = ceil_div(ceil_div(panels, wide), threads);
      if (rounds < 3 || rounds * wide > least) continue;
      least = rounds * wide;
      width = wide * kPanel;
    }
  }
  LR_INLINE int64_t count() const { return ceil_div(columns, width); }
  LR_INLINE int64_t begin(int64_t i) const { return i * width; }
  LR_INLINE int64_t size(int64_t i) const { return min64(width, columns - i * width); }
};

/* Columns of C while they are summed up: what is not the last of their products goes to a tile, whose rows lie together, where those of C
 * would often meet in the same lines of the caches. */
struct StripSum {
  Target out; /* its base: what is there so far */
  float* tile; /* null: C itself */
  int64_t tile_stride;
  LR_INLINE Target next(bool last) {
    const Target t = {last || !tile ? out.to : tile, last || !tile ? out.stride : tile_stride, out.base, out.base_stride, last && out.leaves};
    out.base = t.to;
    out.base_stride = t.stride;
    return t;
  }
};

/* So many blocks of the reduction are packed at a time that `rows` rows of them stay in a cache while all columns pass. */
constexpr int64_t kWordsAtOnce = 1 << 20;
LR_INLINE int64_t words_of_block(int64_t rows, bool round) { return max64(1, rows) * words_of(kDepth, round); }
LR_INLINE int64_t blocks_at_once(int64_t rows, bool round) { return max64(1, kWordsAtOnce / words_of_block(rows, round)); }
/* Words that they take of a reduction of k steps, also for fewer rows. */
LR_INLINE int64_t room_at_once(int64_t rows, int64_t k, bool round) { return min64(rows * words_of(k, round), max64(kWordsAtOnce, words_of_block(rows, round))); }

/* Adds columns [column, column + columns) of A B over the blocks that A holds, for the rows of its panels [first, last); C's row 0 is
 * A's. `last_of_all`: nothing else will be added. `buffer` holds kPanelBuffer floats for each panel of the columns. */
void multiply_strip(const PackedA& a, int64_t first, int64_t last, const OperandB& b, int64_t column, int64_t columns, StripSum& sum, bool last_of_all, float* buffer) {
  const Blocks blocks = a.held;
  if (blocks.first < blocks.last) b.fetch(column, columns, a.depth.begin(blocks.first), a.depth.size(blocks.first));
  for (int64_t block = blocks.first; block < blocks.last; block++) {
    b.pack(column, columns, a.depth.begin(block), a.depth.size(block), buffer);
    if (block + 1 < blocks.last) b.fetch(column, columns, a.depth.begin(block + 1), a.depth.size(block + 1));
    multiply_block(a, first, last, block, buffer, b.round, sum.next(last_of_all && block + 1 == blocks.last), columns);
  }
}
/* A panel of columns over the blocks that A holds; c is C[0, column], to which blocks are added behind the first, or all with `accumulate`. */
LR_INLINE void multiply_panel(const PackedA& a, int64_t first, int64_t last, const OperandB& b, int64_t column, float* c, int64_t ldc, bool accumulate, float* buffer) {
  StripSum sum = {{c, ldc, accumulate || !a.begins() ? c : nullptr, ldc}, nullptr, 0};
  multiply_strip(a, first, last, b, column, min64(kPanel, b.columns() - column), sum, true, buffer);
}
constexpr int64_t kPanelBuffer = (int64_t)kDepth * kPanel;

/* Rows of A packed at a time, so that they stay within 32 MB; a function of the shapes alone. */
LR_INLINE Split row_chunks(int64_t m, int64_t k) { return Split(m, max64(128, min64(1024, (int64_t)(8 << 20) / max64(1, k)))); }

/* C [n, k] += Yᵀ X of Y [m, n], X [m, k], rows in ascending order; `packed` has outer_product_room floats, each thread its buffer. */
LR_INLINE int64_t outer_product_room(int64_t n, int64_t m) { return n ? ceil_div(n, row_chunks(n, m).parts) * m : 0; }
void add_outer_product(lr_queue* queue, float* c, const float* y, const float* x, int64_t m, int64_t n, int64_t k, bool round, float* packed, float* buffers) {
  Split chunks = row_chunks(n, m);
  for (int64_t i = 0; i < chunks.parts; i++) {
    PackedA a(packed, chunks.size(i), m, round);
    parallel_for(queue, a.rows.parts, [&](int64_t panel, int32_t) { pack_a(a, panel, panel + 1, y + chunks.begin(i), n, true, 1.0f, round); });
    OperandB b = {dense_f32(x, m, k), false, round};
    parallel_for(queue, ceil_div(k, kPanel), [&](int64_t task, int32_t thread) {
      multiply_panel(a, 0, a.rows.parts, b, task * kPanel, c + chunks.begin(i) * k + task * kPanel, k, true, buffers + thread * kPanelBuffer);
    });
  }
}

}}  // namespace LR_ISA
#endif
