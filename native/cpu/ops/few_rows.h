/* linear for a handful of rows (decoding): each row of W is decoded in registers, once, and multiplied with all rows of x.
 * The products are those of the packed way; only the order of summation differs. */
#ifndef LOWRANK_CPU_OPS_FEW_ROWS_H
#define LOWRANK_CPU_OPS_FEW_ROWS_H
#include "lora.h"

namespace LR_ISA { namespace {

constexpr int64_t kFewRows = 6; /* with more, packing pays */

/* out[i] = W[row] . x[i] for M rows of x with `stride` floats between them. */
template <int M> __attribute__((noinline)) void dots(const lr_weight& w, int64_t row, const float* x, int64_t stride, bool round, float* out) {
  VF sum[M];
  for (int i = 0; i < M; i++) sum[i] = VF::zero();
  read_weight(w, row, 0, w.k, [&](int64_t p, VF v, int n) {
    if (round) v = round_bf16(v);
    for (int i = 0; i < M; i++) sum[i] = fma(v, n == kLanes ? VF::load(x + i * stride + p) : load_n<VF>(x + i * stride + p, n), sum[i]);
  });
  for (int i = 0; i < M; i++) out[i] = LR_ISA::sum(sum[i]);
}
template <int M> struct Dots { /* dots for a number of rows known only now */
  static LR_INLINE void of(int64_t m, const lr_weight& w, int64_t row, const float* x, int64_t stride, bool round, float* out) {
    if (m == M) dots<M>(w, row, x, stride, round, out);
    else Dots<M - 1>::of(m, w, row, x, stride, round, out);
  }
};
template <> struct Dots<0> {
  static LR_INLINE void of(int64_t, const lr_weight&, int64_t, const float*, int64_t, bool, float*) {}
};
void dots_of(int64_t m, const lr_weight& w, int64_t row, const float* x, int64_t stride, bool round, float* out) {
  Dots<kFewRows>::of(m, w, row, x, stride, round, out);
}

lr_error linear_few_rows(lr_queue* queue, const lr_linear_group& g) {
  int64_t m = g.x.shape[0], k = g.x.shape[1], rank = 0;
  for (int l = 0; l < g.count; l++) rank = max64(rank, max_rank(g.layers[l]));
  bool round = g.math == LR_MATH_BF16;
  Scratch scratch(queue);
  float* x = scratch.take<float>(m * k);
  float* dropped = scratch.take<float>(rank ? m * k : 0);
  float* thin = scratch.take<float>(g.count * m * rank); /* scale u, [layer][row][rank] */
  if (scratch.sizing() || !m) return success();
  auto rounded = [&](float v) { return round ? round_bf16(v) : v; };

  for (int64_t i = 0; i < m * k; i++) x[i] = rounded(f32(g.x)[i]);
  if (rank) {
    memcpy(dropped, g.x.data, (size_t)(m * k) * sizeof(float));
    if (g.dropout.p > 0) dropout_span(g.dropout, 0, m * k, dropped);
    for (int64_t i = 0; i < m * k; i++) dropped[i] = rounded(dropped[i]);
    parallel_for(queue, g.count * rank, [&](int64_t task, int32_t) {
      int64_t l = task / rank, j = task % rank;
      const lr_linear& layer = g.layers[l];
      for (int i = 0; i < layer.segment_count; i++) {
        const lr_segment& s = layer.segments[i];
        if (j >= rank_of(s)) continue;
        float values[kFewRows];
        int64_t rows = s.row_end - s.row_begin;
        dots_of(rows, dense_f32(s.a.data, rank_of(s), k), j, dropped + s.row_begin * k, k, round, values);
        for (int64_t q = 0; q < rows; q++) {
          if (layer.u.data) f32_out(layer.u)[(s.row_begin + q) * layer.u.shape[1] + j] = values[q];
          thin[(l * m + s.row_begin + q) * rank + j] = rounded(s.scale * values[q]);
        }
      }
    });
  }
  constexpr int64_t kOutputs = 32; /* outputs of one task */
  int64_t tasks = 0;
  for (int l = 0; l < g.count; l++) tasks += ceil_div(g.layers[l].weight.n, kOutputs);
  parallel_for(queue, tasks, [&](int64_t task, int32_t) {
    int64_t l = 0;
    while (task >= ceil_div(g.layers[l].weight.n, kOutputs)) task -= ceil_div(g.layers[l++].weight.n, kOutputs);
    const lr_linear& layer = g.layers[l];
    int64_t n = layer.weight.n, first = task * kOutputs, last = min64(n, first + kOutputs);
    lr_weight bias = dense_f32(layer.bias.data, 1, n);
    bias.dtype = layer.bias.dtype;
    for (int64_t j = first; j < last; j++) {
      float values[kFewRows], b = 0;
      if (layer.bias.data) decode_row(bias, 0, j, 1, false, &b);
      dots_of(m, layer.weight, j, x, k, round, values);
      for (int64_t i = 0; i < m; i++) f32_out(layer.y)[i * n + j] = values[i] + b;
      for (int i = 0; i < layer.segment_count; i++) {
        const lr_segment& s = layer.segments[i];
        int64_t rows = s.row_end - s.row_begin;
        dots_of(rows, dense_f32(s.b.data, n, rank_of(s)), j, thin + (l * m + s.row_begin) * rank, rank, round, values);
        for (int64_t q = 0; q < rows; q++) f32_out(layer.y)[(s.row_begin + q) * n + j] += values[q];
      }
    }
  });
  return success();
}

}}  // namespace LR_ISA
#endif
