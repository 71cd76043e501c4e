/* linear for a handful of rows: strips of kLanes outputs, each read, multiplied and finished by one thread. */
#ifndef LOWRANK_CPU_OPS_LINEAR_FEW_H
#define LOWRANK_CPU_OPS_LINEAR_FEW_H
#include "few_rows.h"
#ifdef LR_AMX
#include "few_rows_tiles.h"
#endif
#include "glu.h"
#include "lora.h"

namespace LR_ISA { namespace {

#ifndef LR_AMX
struct ColumnTiles {
  explicit ColumnTiles(int64_t) {}
};
LR_INLINE void tile_rows(const ColumnTiles&, const lr_weight&, int64_t, int64_t, const float*, float*, VF*) {}
#endif

/* Where y of a group goes, `most` rows at once: y of a gated group that is not wanted, to scratch. */
struct Outputs {
  const lr_linear_group& g;
  float* spare[kMaxLayers];

  Outputs(Scratch& scratch, const lr_linear_group& group, int64_t most) : g(group) {
    for (int l = 0; l < g.count; l++) spare[l] = g.layers[l].y.data ? nullptr : scratch.take<float>(most * g.layers[l].weight.n);
  }
  float* of(int64_t l, int64_t row) const { return spare[l] ? spare[l] : f32_out(g.layers[l].y) + row * g.layers[l].weight.n; }
  void gate(lr_queue* queue, Range rows) const {
    const int64_t n = g.layers[0].weight.n;
    if (g.gated.data) glu_any(queue, f32_out(g.gated) + rows.begin * n, of(0, rows.begin), of(1, rows.begin), rows.size() * n, g.activation);
  }
};

lr_error linear_few_rows(lr_queue* queue, const lr_linear_group& g) {
  const bool round = g.math == LR_MATH_BF16;
  int64_t m = g.x.shape[0], k = g.x.shape[1], rank = 0, blocks = 0;
  Forms wanted;
  for (int l = 0; l < g.count; l++) {
    const lr_weight& w = g.layers[l].weight;
    rank = max64(rank, max_rank(g.layers[l]));
    const Form form = form_of(w, round, m);
    wanted.has[form] = true;
    if (by_block(form)) blocks = max64(blocks, w.k / w.blocksize);
  }
  Scratch scratch(queue);
  FewRows x(scratch, m, k, wanted), dropped(scratch, rank ? m : 0, k, {}), thin(scratch, rank ? g.count * m : 0, rank, {}); /* thin: scale u, a row for each layer and row of x */
  float* scales = scratch.take<float>(queue->threads * kLanes * blocks);
  Outputs ys(scratch, g, m);
  if (scratch.sizing() || !m) return success();
  x.fill(f32(g.x), m, round);
  if (rank) {
    float* to = dropped.row(kPlain, 0);
    memcpy(to, g.x.data, (size_t)(m * k) * sizeof(float));
    if (g.dropout.p > 0) dropout_span(g.dropout, 0, m * k, to);
    dropped.fill(to, m, round);
    const int64_t strips = ceil_div(rank, kLanes);
    parallel_for(queue, g.count * strips, [&](int64_t task, int32_t) {
      const int64_t l = task / strips, first = task % strips * kLanes;
      const lr_linear& layer = g.layers[l];
      for (int i = 0; i < layer.segment_count; i++) {
        const lr_segment& s = layer.segments[i];
        const int64_t outputs = min64(kLanes, rank_of(s) - first), rows = s.row_end - s.row_begin;
        if (outputs <= 0) continue;
        VF sums[kFewRows][kLanes];
        clear(sums, rows);
        add_all(rows, dense_f32(s.a.data, rank_of(s), k), kPlain, first, outputs, dropped, s.row_begin, round, nullptr, sums);
        for (int64_t q = 0; q < rows; q++) {
          const VF u = lane_sums(sums[q]), scaled = VF::set(s.scale) * u;
          const int64_t row = s.row_begin + q;
          if (layer.u.data) store_n(u, f32_out(layer.u) + row * layer.u.shape[1] + first, outputs);
          store_n(round ? round_bf16(scaled) : scaled, thin.row(kPlain, l * m + row) + first, outputs);
        }
      }
    });
  }
  int64_t strips = 0;
  for (int l = 0; l < g.count; l++) strips += ceil_div(g.layers[l].weight.n, kLanes);
  parallel_streams(queue, strips, ceil_div(16384, k * kLanes + 1), [&] { return ColumnTiles(wanted.has[kTileTable] || wanted.has[kTileRow] ? m : 0); }, [&](int64_t strip, int32_t thread, const ColumnTiles& tiles) {
    int64_t l = 0;
    for (int64_t n; strip >= (n = ceil_div(g.layers[l].weight.n, kLanes)); l++) strip -= n;
    const lr_linear& layer = g.layers[l];
    const int64_t n = layer.weight.n, j = strip * kLanes, outputs = min64(kLanes, n - j);
    lr_weight bias = dense_f32(layer.bias.data, 1, n);
    bias.dtype = layer.bias.dtype;
    VF sums[kFewRows][kLanes], products[kFewRows], b = VF::zero();
    const Form form = form_of(layer.weight, round, m);
    const bool tiled = in_tiles(form), adds = !tiled || layer.segment_count;
    if (adds) clear(sums, m);
    float* const mine = scales + thread * kLanes * blocks;
    if (tiled) tile_rows(tiles, layer.weight, j, outputs, x.rows[form], mine, products);
    else add_all(m, layer.weight, form, j, outputs, x, 0, round, mine, sums);
    for (int i = 0; i < layer.segment_count; i++) {
      const lr_segment& s = layer.segments[i];
      add_all(s.row_end - s.row_begin, dense_f32(s.b.data, n, rank_of(s)), kPlain, j, outputs, thin, l * m + s.row_begin, round, nullptr, sums + s.row_begin);
    }
    if (layer.bias.data) decode_row(bias, 0, j, outputs, false, (float*)&b);
    for (int64_t i = 0; i < m; i++) {
      VF y = adds ? lane_sums(sums[i]) : VF::zero();
      if (tiled) y = y + products[i];
      y = y + b;
      if (layer.residual.data) y = y + load_n<VF>(f32(layer.residual) + i * n + j, outputs);
      store_n(y, ys.of(l, 0) + i * n + j, outputs);
    }
  });
  ys.gate(queue, {0, m});
  return success();
}

}}  // namespace LR_ISA
#endif
