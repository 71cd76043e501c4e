/* linear for a handful of rows (decoding): W is read once, decoded in registers and multiplied with all rows of x.
 * The products are those of the packed way; only the order of summation differs.
 *
 * A strip is kLanes outputs. For each of them and each row of x a vector of partial sums runs over the reduction; at the end of the
 * strip a transposition adds the lanes of all of them at once. 4-bit weights come 2 kLanes at a time: one load widens bytes, the table
 * of the block, already scaled and rounded, is looked up by their high halves (even elements) and low ones (odd elements), and x lies
 * in that order. AVX-512 so spends 6 instructions on 32 weights and 2 (10 with rounding) on the table of a block of 64, two of them a
 * clock: 7 to 9 weights a clock and core, 3.6 GB/s a GHz and more. AVX2 looks up with three: 24 on 32 weights, 4 a clock, 2 GB/s a GHz.
 */
#ifndef LOWRANK_CPU_OPS_FEW_ROWS_H
#define LOWRANK_CPU_OPS_FEW_ROWS_H
#include "lora.h"

namespace LR_ISA { namespace {

constexpr int64_t kFewRows = 6; /* with more, packing pays */

/* Rows of W that share a read of x; M sums of each fit the registers. A divisor of kLanes. */
constexpr int rows_at_once(int m) { return m * 4 <= (kLanes == 16 ? 24 : 8) ? 4 : m * 2 <= 8 ? 2 : 1; }

/* Rows of x: as they are, and with the elements of even index before those of odd index in every span of 2 kLanes. */
struct FewRows {
  float *plain, *split;
  int64_t stride;
  LR_INLINE FewRows(Scratch& scratch, int64_t m, int64_t k, bool both) : plain(scratch.take<float>(m * k)), split(scratch.take<float>(both ? m * k : 0)), stride(k) {}
  LR_INLINE void pair(int64_t m) const {
    for (int64_t at = 0; at < m * stride; at += 2 * kLanes)
      for (int64_t i = 0; i < kLanes; i++) {
        split[at + i] = plain[at + 2 * i];
        split[at + kLanes + i] = plain[at + 2 * i + 1];
      }
  }
};
LR_INLINE bool whole_blocks(const lr_weight& w) { return w.kind == LR_WEIGHT_4BIT && w.blocksize % (2 * kLanes) == 0 && w.k % w.blocksize == 0; }

/* Sums of rows_at_once(M) rows of W, in registers. Behind the last row of a strip it is taken again; those sums are not used. */
template <int M> struct Sums {
  static constexpr int J = rows_at_once(M);
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

/* sums[i][j] += W[row + j] . x[i], lane by lane, for `rows` <= kLanes rows of W and M rows of x; `scales` are the absmax of those rows' blocks. */
template <int M> __attribute__((noinline)) void add_4bit(const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, const float* scales, VF (*sums)[kLanes]) {
  constexpr int J = Sums<M>::J;
  const Table16 code = Table16::load(w.code);
  const int64_t blocks = w.k / w.blocksize, bytes = w.blocksize / 2;
  const float* from = x.split + x_row * x.stride;
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
    for (int64_t b = 0; b < blocks; b++)
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) {
        const Table16 table = block_table(code, scale[j][b], round || w.round);
        for (int64_t at = b * bytes; at < (b + 1) * bytes; at += kLanes) {
          const VI pairs = load_bytes(codes[j] + at);
          const VF even = table(pairs >> 4), odd = table(pairs);
#pragma GCC unroll 6
          for (int i = 0; i < M; i++) {
            const float* p = from + i * x.stride + 2 * at;
            sum.v[j][i] = fma(odd, VF::load(p + kLanes), fma(even, VF::load(p), sum.v[j][i]));
          }
        }
      }
    sum.store(sums, first);
  }
}

/* The same for weights whose kLanes elements from `at` are load(at), `n` of them load_n(at, n). */
template <int M, typename Load, typename LoadN> __attribute__((noinline)) void add_dense(const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, Load load, LoadN load_few, VF (*sums)[kLanes]) {
  constexpr int J = Sums<M>::J;
  const int64_t whole = w.k / kLanes * kLanes;
  const float* from = x.plain + x_row * x.stride;
  for (int64_t first = 0; first < rows; first += J) {
    Sums<M> sum;
    sum.load(sums, first);
    int64_t at[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) at[j] = (row + min64(first + j, rows - 1)) * w.k;
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
    for (int64_t p = 0; p < whole; p += kLanes) step(p, load, [](const float* q) { return VF::load(q); });
    const int64_t left = w.k - whole;
    if (left) step(whole, [&](int64_t i) { return load_few(i, left); }, [&](const float* q) { return load_n<VF>(q, left); });
    sum.store(sums, first);
  }
}

/* The same for 4-bit weights whose rows do not begin with a block. */
template <int M> __attribute__((noinline)) void add_any(const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, VF (*sums)[kLanes]) {
  const float* from = x.plain + x_row * x.stride;
  for (int64_t j = 0; j < rows; j++)
    read_weight(w, row + j, 0, w.k, round, [&](int64_t p, VF v, int n) {
      for (int i = 0; i < M; i++) sums[i][j] = fma(v, n == kLanes ? VF::load(from + i * x.stride + p) : load_n<VF>(from + i * x.stride + p, n), sums[i][j]);
    });
}

template <int M> void add_rows(const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, float* scales, VF (*sums)[kLanes]) {
  if (whole_blocks(w)) {
    const int64_t blocks = w.k / w.blocksize;
    read_absmax(w, row * blocks, rows * blocks, scales);
    return add_4bit<M>(w, row, rows, x, x_row, round, scales, sums);
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
  static LR_INLINE void of(int64_t m, const lr_weight& w, int64_t row, int64_t rows, const FewRows& x, int64_t x_row, bool round, float* scales, VF (*sums)[kLanes]) {
    if (m == M) add_rows<M>(w, row, rows, x, x_row, round, scales, sums);
    else AddRows<M - 1>::of(m, w, row, rows, x, x_row, round, scales, sums);
  }
};
template <> struct AddRows<0> {
  static LR_INLINE void of(int64_t, const lr_weight&, int64_t, int64_t, const FewRows&, int64_t, bool, float*, VF (*)[kLanes]) {}
};

/* The strip's sums for row i of x, one an output. */
LR_INLINE VF strip_sums(const VF (&sums)[kLanes]) {
  VF rows[kLanes];
  for (int j = 0; j < kLanes; j++) rows[j] = sums[j];
  transpose(rows);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; j++) rows[j] = rows[j] + rows[j + width];
  return rows[0];
}

lr_error linear_few_rows(lr_queue* queue, const lr_linear_group& g) {
  int64_t m = g.x.shape[0], k = g.x.shape[1], rank = 0, blocks = 0;
  for (int l = 0; l < g.count; l++) {
    const lr_weight& w = g.layers[l].weight;
    rank = max64(rank, max_rank(g.layers[l]));
    if (whole_blocks(w)) blocks = max64(blocks, w.k / w.blocksize);
  }
  const bool round = g.math == LR_MATH_BF16;
  Scratch scratch(queue);
  FewRows x(scratch, m, k, blocks > 0), dropped(scratch, rank ? m : 0, k, false), thin(scratch, rank ? g.count * m : 0, rank, false); /* thin: scale u, a row for each layer and row of x */
  float* scales = scratch.take<float>(queue->threads * kLanes * blocks);
  if (scratch.sizing() || !m) return success();
  auto rounded = [&](const float* from, float* to) {
    for (int64_t i = 0; i < m * k; i++) to[i] = round ? round_bf16(from[i]) : from[i];
  };

  rounded(f32(g.x), x.plain);
  if (blocks) x.pair(m);
  if (rank) {
    memcpy(dropped.plain, g.x.data, (size_t)(m * k) * sizeof(float));
    if (g.dropout.p > 0) dropout_span(g.dropout, 0, m * k, dropped.plain);
    rounded(dropped.plain, dropped.plain);
    const int64_t strips = ceil_div(rank, kLanes);
    parallel_for(queue, g.count * strips, [&](int64_t task, int32_t) {
      const int64_t l = task / strips, first = task % strips * kLanes;
      const lr_linear& layer = g.layers[l];
      for (int i = 0; i < layer.segment_count; i++) {
        const lr_segment& s = layer.segments[i];
        const int64_t outputs = min64(kLanes, rank_of(s) - first), rows = s.row_end - s.row_begin;
        if (outputs <= 0) continue;
        VF sums[kFewRows][kLanes] = {};
        AddRows<kFewRows>::of(rows, dense_f32(s.a.data, rank_of(s), k), first, outputs, dropped, s.row_begin, round, nullptr, sums);
        for (int64_t q = 0; q < rows; q++) {
          const VF u = strip_sums(sums[q]), scaled = VF::set(s.scale) * u;
          const int64_t row = s.row_begin + q;
          if (layer.u.data) store_n(u, f32_out(layer.u) + row * layer.u.shape[1] + first, outputs);
          store_n(round ? round_bf16(scaled) : scaled, thin.plain + (l * m + row) * rank + first, outputs);
        }
      }
    });
  }
  constexpr int64_t kOutputs = 32; /* outputs of one task */
  int64_t tasks = 0;
  for (int l = 0; l < g.count; l++) tasks += ceil_div(g.layers[l].weight.n, kOutputs);
  parallel_for(queue, tasks, [&](int64_t task, int32_t thread) {
    int64_t l = 0;
    while (task >= ceil_div(g.layers[l].weight.n, kOutputs)) task -= ceil_div(g.layers[l++].weight.n, kOutputs);
    const lr_linear& layer = g.layers[l];
    const int64_t n = layer.weight.n;
    lr_weight bias = dense_f32(layer.bias.data, 1, n);
    bias.dtype = layer.bias.dtype;
    for (int64_t j = task * kOutputs; j < min64(n, (task + 1) * kOutputs); j += kLanes) {
      const int64_t outputs = min64(kLanes, n - j);
      VF sums[kFewRows][kLanes] = {}, b = VF::zero();
      AddRows<kFewRows>::of(m, layer.weight, j, outputs, x, 0, round, scales + thread * kLanes * blocks, sums);
      for (int i = 0; i < layer.segment_count; i++) {
        const lr_segment& s = layer.segments[i];
        AddRows<kFewRows>::of(s.row_end - s.row_begin, dense_f32(s.b.data, n, rank_of(s)), j, outputs, thin, l * m + s.row_begin, round, nullptr, sums + s.row_begin);
      }
      if (layer.bias.data) decode_row(bias, 0, j, outputs, false, (float*)&b);
      for (int64_t i = 0; i < m; i++) store_n(strip_sums(sums[i]) + b, f32_out(layer.y) + i * n + j, outputs);
    }
  });
  return success();
}

}}  // namespace LR_ISA
#endif
