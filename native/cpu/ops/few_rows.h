/* Products with a handful of rows (decoding): W comes from memory once, is decoded in registers and multiplied with six rows of x at a time.
 * The products are those of the packed way; only the order of summation differs.
 *
 * A strip is kLanes outputs. For each of them and each row of x a vector of partial sums runs over the reduction; at the end of the
 * strip the lanes of all of them are added at once. Where a row of 4-bit weights is whole blocks, spans.h decodes it.
 */
#ifndef LOWRANK_CPU_OPS_FEW_ROWS_H
#define LOWRANK_CPU_OPS_FEW_ROWS_H
#include "spans.h"
#include "tile.h"

namespace LR_ISA { namespace {

constexpr int64_t kFewRows = 16; /* with more, packing pays */
constexpr int64_t kAtOnce = 6;  /* of them share a read of W; the others meet it in a near cache */

/* Rows of W that share a read of x; M sums of each fit the registers. A divisor of kLanes. */
constexpr int rows_at_once(int m) { return m * 4 <= (kLanes == 16 ? 24 : 8) ? 4 : m * 2 <= 8 ? 2 : 1; }

/* Dense weights wait for memory; with one row of x a single stream of rows gets most of it. */
constexpr int dense_rows_at_once(int m) { return m == 1 ? 1 : rows_at_once(m); }

/* What rows that are read together fetch: the rows that follow, some groups on, as one stream in the order of memory. By itself the processor does not
 * see where rows so short lead. */
constexpr int64_t kAhead = 4096;
struct Ahead {
  const char* from;
  int64_t rows;
  LR_INLINE Ahead(const void* first, int64_t row_bytes, int64_t rows) : from(static_cast<const char*>(first) + round_up(kAhead, rows * row_bytes)), rows(rows) {}
  /* While bytes [at, at + bytes) of each are read. */
  LR_INLINE void fetch(int64_t at, int64_t bytes) const {
    for (int64_t line = 0; line < rows * bytes; line += 64) __builtin_prefetch(from + at * rows + line);
  }
};

/* Sums of J rows of W, in registers. Behind the last row of a strip it is taken again; those sums are not used. */
template <int M, int J = rows_at_once(M)> struct Sums {
  VF v[J][M];
  LR_INLINE void load(VF (*sums)[kLanes], int64_t first) {
#pragma GCC unroll 4
    for (int j = 0; j < J; j++)
#pragma GCC unroll 6
      for (int i = 0; i < M; i++) v[j][i] = sums[i][first + j];
  }
  LR_INLINE void store(VF (*sums)[kLanes], int64_t first) const {
#pragma GCC unroll 4
    for (int j = 0; j < J; j++)
#pragma GCC unroll 6
      for (int i = 0; i < M; i++) sums[i][first + j] = v[j][i];
  }
};

/* sums[i][j] += W[row + j] . x[i], lane by lane, for `rows` <= kLanes rows of W and M rows of x; `scales` are the absmax of those rows' blocks, each of
 * kSpans spans (0: not known here). */
template <int M, typename Table, int kSpans> __attribute__((noinline)) void add_blocks(const lr_weight& w, int64_t row, int64_t rows, const float* x, int64_t stride, bool round, const float* scales, VF (*sums)[kLanes]) {
  constexpr int J = rows_at_once(M);
  const Table table(w.code, round || w.round);
  const int64_t blocks = w.k / w.blocksize, spans = kSpans ? kSpans : w.blocksize / Table::kSpan;
  for (int64_t first = 0; first < rows; first += J) {
    Sums<M> sum;
    sum.load(sums, first);
    const uint8_t* codes[J];
    const float* scale[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
      const int64_t r = min64(first + j, rows - 1);
      codes[j] = static_cast<const uint8_t*>(w.data) + (row + r) * (w.k / 2);
      scale[j] = scales + r * blocks;
    }
    const Ahead ahead(codes[0], w.k / 2, J);
    const float* from = x;
    int64_t at = 0;
    for (int64_t b = 0; b < blocks; b++) {
      typename Table::Block block[J];
      VF part[J][M];
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) {
        block[j] = table.block(scale[j][b]);
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) part[j][i] = table.begin(sum.v[j][i]);
      }
      for (int64_t s = 0; s < spans; s++, at += Table::kSpan / 2, from += Table::kFloats) {
        ahead.fetch(at, Table::kSpan / 2);
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) {
          table.span(block[j], codes[j] + at, [&](int v, VF weights) {
#pragma GCC unroll 6
            for (int i = 0; i < M; i++) part[j][i] = Table::multiply(weights, VF::load(from + i * stride + v * kLanes), part[j][i]);
          });
        }
      }
#pragma GCC unroll 4
      for (int j = 0; j < J; j++)
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) sum.v[j][i] = table.end(block[j], part[j][i], sum.v[j][i]);
    }
    sum.store(sums, first);
  }
}
template <int M, typename Table> LR_INLINE void add_4bit(const lr_weight& w, int64_t row, int64_t rows, const float* x, int64_t stride, bool round, const float* scales, VF (*sums)[kLanes]) {
  if (w.blocksize == 64) add_blocks<M, Table, 64 / Table::kSpan>(w, row, rows, x, stride, round, scales, sums);
  else add_blocks<M, Table, 0>(w, row, rows, x, stride, round, scales, sums);
}

/* The same for weights whose kLanes elements from `at` are load(at), `n` of them load_n(at, n). */
template <int M, typename Load, typename LoadN> __attribute__((noinline)) void add_dense(const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, Load load, LoadN load_few, VF (*sums)[kLanes]) {
  constexpr int J = dense_rows_at_once(M);
  const int64_t whole = w.k / kLanes * kLanes, size = (int64_t)dtype_size(w.dtype);
  const float* from = x.row(kPlain, x_row);
  for (int64_t first = 0; first < rows; first += J) {
    Sums<M, J> sum;
    sum.load(sums, first);
    int64_t at[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) at[j] = (row + min64(first + j, rows - 1)) * w.k;
    const Ahead ahead(static_cast<const char*>(w.data) + at[0] * size, w.k * size, J);
    auto step = [&](int64_t p, auto weights, auto values) {
      VF xs[M];
#pragma GCC unroll 6
      for (int i = 0; i < M; i++) xs[i] = values(from + i * x.stride + p);
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) {
        VF v = weights(at[j] + p);
        if (round) v = round_bf16(v);
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) sum.v[j][i] = fma(v, xs[i], sum.v[j][i]);
      }
    };
    for (int64_t p = 0; p < whole; p += kLanes) {
      ahead.fetch(p * size, kLanes * size);
      step(p, load, [](const float* q) { return VF::load(q); });
    }
    const int64_t left = w.k - whole;
    if (left) step(whole, [&](int64_t i) { return load_few(i, left); }, [&](const float* q) { return load_n<VF>(q, left); });
    sum.store(sums, first);
  }
}

/* The same for 4-bit weights whose rows do not begin with a block. */
template <int M> __attribute__((noinline)) void add_any(const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, VF (*sums)[kLanes]) {
  const float* from = x.row(kPlain, x_row);
  for (int64_t j = 0; j < rows; j++)
    read_weight(w, row + j, 0, w.k, round, [&](int64_t p, VF v, int n) {
      for (int i = 0; i < M; i++) sums[i][j] = fma(v, n == kLanes ? VF::load(from + i * x.stride + p) : load_n<VF>(from + i * x.stride + p, n), sums[i][j]);
    });
}

/* The same for weights in bf16, pair by pair. */
template <int M> __attribute__((noinline)) void add_pairs(const lr_weight& w, int64_t row, int64_t rows, const float* x, int64_t stride, VF (*sums)[kLanes]) {
  constexpr int J = dense_rows_at_once(M), kSpan = 2 * kLanes;
  const int64_t whole = w.k / kSpan * kSpan;
  for (int64_t first = 0; first < rows; first += J) {
    Sums<M, J> sum;
    sum.load(sums, first);
    const uint16_t* from[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) from[j] = static_cast<const uint16_t*>(w.data) + (row + min64(first + j, rows - 1)) * w.k;
    const Ahead ahead(from[0], w.k * (int64_t)sizeof(uint16_t), J);
    auto step = [&](int64_t p, auto weights) {
      VF xs[M];
#pragma GCC unroll 6
      for (int i = 0; i < M; i++) xs[i] = VF::load(x + i * stride + p / 2);
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) {
        const VF v = weights(from[j] + p);
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) sum.v[j][i] = dot_pairs(sum.v[j][i], v, xs[i]);
      }
    };
    for (int64_t p = 0; p < whole; p += kSpan) {
      ahead.fetch(p * (int64_t)sizeof(uint16_t), kSpan * (int64_t)sizeof(uint16_t));
      step(p, [](const uint16_t* q) { return VF::load(reinterpret_cast<const float*>(q)); });
    }
    if (whole < w.k)
      step(whole, [&](const uint16_t* q) {
        uint16_t few[kSpan] = {};
        memcpy(few, q, (size_t)(w.k - whole) * sizeof(uint16_t));
        return VF::load(reinterpret_cast<const float*>(few));
      });
    sum.store(sums, first);
  }
}

template <int M> void add_rows(const lr_weight& w, Form form, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, float* scales, VF (*sums)[kLanes]) {
  const float* from = x.row(form, x_row);
  if (by_block(form)) {
    const int64_t blocks = w.k / w.blocksize;
    read_absmax(w, row * blocks, rows * blocks, scales);
    if constexpr (kNativeBf16) {
      if (form == kPairs) return add_4bit<M, PairTable>(w, row, rows, from, x.words, round, scales, sums);
    }
    if constexpr (kBytePlanes) {
      if (form == kPlanes) return add_4bit<M, PlaneTable>(w, row, rows, from, x.stride, round, scales, sums);
    }
    return add_4bit<M, ScaledTable>(w, row, rows, from, x.stride, round, scales, sums);
  }
  if constexpr (kNativeBf16) {
    if (form == kPairRow) return add_pairs<M>(w, row, rows, from, x.words, sums);
  }
  if (w.kind == LR_WEIGHT_4BIT) return add_any<M>(w, row, rows, x, x_row, round, sums);
  const float* f = static_cast<const float*>(w.data);
  const uint16_t* h = static_cast<const uint16_t*>(w.data);
  auto few = [&w](int64_t at, int64_t n) { return load_any_lanes(w.data, w.dtype, at, n); };
  if (w.dtype == LR_F32) add_dense<M>(w, row, rows, x, x_row, round, [f](int64_t at) { return VF::load(f + at); }, few, sums);
  else if (w.dtype == LR_BF16) add_dense<M>(w, row, rows, x, x_row, false, [h](int64_t at) { return load_bf16(h + at); }, few, sums);
  else add_dense<M>(w, row, rows, x, x_row, round, [h](int64_t at) { return load_f16(h + at); }, few, sums);
}
template <int M> struct AddRows { /* add_rows for a number of rows of x known only now */
  static LR_INLINE void of(int64_t m, const lr_weight& w, Form form, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, float* scales, VF (*sums)[kLanes]) {
    if (m == M) add_rows<M>(w, form, row, rows, x, x_row, round, scales, sums);
    else AddRows<M - 1>::of(m, w, form, row, rows, x, x_row, round, scales, sums);
  }
};
template <> struct AddRows<0> {
  static LR_INLINE void of(int64_t, const lr_weight&, Form, int64_t, int64_t, const FewRows&, int64_t, bool, float*, VF (*)[kLanes]) {}
};

/* add_rows for up to kFewRows rows of x, in passes as even as can be. */
LR_INLINE void add_all(int64_t m, const lr_weight& w, Form form, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, float* scales, VF (*sums)[kLanes]) {
  const int64_t passes = ceil_div(m, kAtOnce);
  for (int64_t i = 0; i < passes; i++) {
    const int64_t begin = m * i / passes, end = m * (i + 1) / passes;
    AddRows<kAtOnce>::of(end - begin, w, form, row, rows, x, x_row + begin, round, scales, sums + begin);
  }
}

LR_INLINE void clear(VF (*sums)[kLanes], int64_t rows) {
  for (int64_t i = 0; i < rows; i++)
    for (VF& sum : sums[i]) sum = VF::zero();
}

}}  // namespace LR_ISA
#endif
