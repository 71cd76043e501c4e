/* C [m, n] (+)= A [m, k] B [k, n] in f32: BLIS's loops with A packed once for all columns and B packed (decoded) by the task
 * that owns a panel of columns, once for all rows.
 *
 * Every element of C sees the same sequence of fused multiply-adds whatever the split into tasks, panels or threads: ascending
 * over the blocks of kDepth, ascending inside. Tolerance against float64: about sqrt(k) * 6e-8 of the largest product.
 * Micro-tiles: 14 x 32 (AVX-512), 6 x 16 (AVX2), 4 x 8 (portable); in bf16 28 x 32 with AMX, which adds in the same order. Van Zee and van de Geijn, "BLIS", TOMS 2015.
 */
#ifndef LOWRANK_CPU_OPS_GEMM_H
#define LOWRANK_CPU_OPS_GEMM_H
#ifdef LR_AVX512_BF16
#include "pack_pairs.h"
#else
#include "pack.h"
#endif

namespace LR_ISA { namespace {

constexpr int kRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4;

/* Where a product goes, and what it is added to; each from its row 0, `stride` floats from row to row. */
struct Target {
  float* to;
  int64_t stride;
  const float* base; /* null: zero */
  int64_t base_stride;
  LR_INLINE Target at(int64_t row, int64_t column) const {
    return {to + row * stride + column, stride, base ? base + row * base_stride + column : nullptr, base_stride};
  }
};

/* to[i][j] = base[i][j] + sum_p a[p * R + i] b[p * kPanel + j], for R rows and `columns` <= NV * kLanes columns. With Pairs every row of
 * the packed operands holds two steps of the reduction, in bf16. */
template <int R, int NV, bool Pairs> __attribute__((noinline)) void micro_tile(int64_t depth, const float* a, const float* b, const Target& c, int64_t columns) {
  VF sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) sum[i][v] = VF::zero();
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

/* How n items are cut into parts of nearly equal size, none above `most`. */
struct Split {
  int64_t n, parts;
  LR_INLINE Split(int64_t count, int64_t most) : n(count), parts(count > 0 ? ceil_div(count, most) : 0) {}
  LR_INLINE int64_t begin(int64_t i) const { return n * i / parts; }
  LR_INLINE int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

/* Blocks of the reduction: [first, last). */
struct Blocks {
  int64_t first, last;
  LR_INLINE bool none() const { return first >= last; }
};

/* A packed: blocks of the reduction, those `held`, at first all; in each the panels of rows. m floats for each step of the blocks held. */
struct PackedA {
  float* data;
  Split rows, depth;
  Blocks held;
  LR_INLINE PackedA(float* d, int64_t m, int64_t k) : data(d), rows(m, kRows), depth(k, kDepth), held{0, depth.parts} {}
  LR_INLINE float* panel(int64_t block, int64_t i) const {
    return data + rows.n * (depth.begin(block) - depth.begin(held.first)) + rows.begin(i) * depth.size(block);
  }
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

#ifdef LR_AMX
/* multiply_block in bf16, two panels of A at a time: whole steps of the reduction first, then what is left of it. */
void multiply_block_tiles(const PackedA& a, int64_t first, int64_t last, int64_t block, const float* b, const Target& target, int64_t columns) {
  const int64_t pairs = (a.depth.size(block) + 1) / 2, whole = pairs / kTilePairs, rest = pairs % kTilePairs;
  const int64_t left = min64(kTileColumns, columns), right = columns - left;
  auto pass = [&](int64_t steps, int64_t begin, int64_t width, const Target& c) {
    int64_t rows[2] = {0, 0};
    for (int64_t i = first; i < last; i += 2) {
      const bool below = i + 1 < last;
      const int64_t size[2] = {a.rows.size(i), below ? a.rows.size(i + 1) : 0};
      if (size[0] != rows[0] || size[1] != rows[1]) begin_tiles(rows[0] = size[0], rows[1] = size[1], left, right, width);
      const float *from[2], *base[2];
      float* to[2];
      int64_t step[2];
      for (int j = 0; j < 2; j++) {
        const int64_t panel = j && !below ? i : i + j;
        const Target mine = c.at(a.rows.begin(panel), 0);
        from[j] = a.panel(block, panel) + begin * size[j];
        to[j] = mine.to;
        base[j] = mine.base;
        step[j] = kTilePairs * size[j];
      }
      auto* multiply = below ? right ? multiply_tiles<true, true> : multiply_tiles<true, false> : right ? multiply_tiles<false, true> : multiply_tiles<false, false>;
      multiply(steps, from, width, step, b + begin * kPanel, kPanel, to, c.stride, base, c.base_stride);
    }
  };
  if (whole) pass(whole, 0, kTilePairs, target);
  if (rest) pass(1, whole * kTilePairs, rest, whole ? Target{target.to, target.stride, target.to, target.stride} : target);
  end_tiles();
}
#endif

/* One packed block of B, panel after panel, against the panels [first, last) of A: columns [0, columns) of C. */
LR_INLINE void multiply_block(const PackedA& a, int64_t first, int64_t last, int64_t block, const float* b, bool round, const Target& c, int64_t columns) {
#ifdef LR_AMX
  for (int64_t j = 0; round && j < columns; j += kPanel) multiply_block_tiles(a, first, last, block, b + j * kDepth, c.at(0, j), min64(kPanel, columns - j));
  if (round) return;
#endif
  const int64_t depth = a.depth.size(block);
  auto panels = [&](auto wide, auto narrow) {
    for (int64_t i = first; i < last; i++) {
      const int64_t row = a.rows.begin(i), rows = a.rows.begin(i + 1) - row;
      const float* panel = a.panel(block, i);
      for (int64_t j = 0; j < columns; j += kPanel) {
        const int64_t left = min64(kPanel, columns - j);
        const Target to = c.at(row, j);
        if (left > kLanes) wide.run((int)rows, depth, panel, b + j * kDepth, to, left);
        else narrow.run((int)rows, depth, panel, b + j * kDepth, to, left);
      }
    }
  };
  if (kNativeBf16 && round) panels(Tiles<kRows, 2, kNativeBf16>(), Tiles<kRows, 1, kNativeBf16>());
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
    const Target t = {last || !tile ? out.to : tile, last || !tile ? out.stride : tile_stride, out.base, out.base_stride};
    out.base = t.to;
    out.base_stride = t.stride;
    return t;
  }
};

/* So many blocks of the reduction are packed at a time that `rows` rows of them stay in a cache while all columns pass. */
constexpr int64_t kFloatsAtOnce = 1 << 20;
LR_INLINE int64_t blocks_at_once(int64_t rows) { return max64(1, kFloatsAtOnce / (max64(1, rows) * kDepth)); }
/* Floats that they take of a reduction of k steps, also for fewer rows. */
LR_INLINE int64_t room_at_once(int64_t rows, int64_t k) { return min64(rows * k, max64(kFloatsAtOnce, rows * kDepth)); }

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
    PackedA a(packed, chunks.size(i), m);
    parallel_for(queue, a.rows.parts, [&](int64_t panel, int32_t) { pack_a(a, panel, panel + 1, y + chunks.begin(i), n, true, 1.0f, round); });
    OperandB b = {dense_f32(x, m, k), false, round};
    parallel_for(queue, ceil_div(k, kPanel), [&](int64_t task, int32_t thread) {
      multiply_panel(a, 0, a.rows.parts, b, task * kPanel, c + chunks.begin(i) * k + task * kPanel, k, true, buffers + thread * kPanelBuffer);
    });
  }
}

}}  // namespace LR_ISA
#endif
