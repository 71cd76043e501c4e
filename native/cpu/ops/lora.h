/* What linear and linear_grad share about adapters, and the gradients of those.
 *
 * Rows outside all segments see the base only. The tall and thin products u = drop(x) Aᵀ and du = scale dY B run over parts of a
 * segment's rows; layers whose segments are equal share the packed rows.
 */
#ifndef LOWRANK_CPU_OPS_LORA_H
#define LOWRANK_CPU_OPS_LORA_H
#include "../../abi/linear.h"
#include "gemm.h"

namespace LR_ISA { namespace {

constexpr int64_t kPartPanels = 4; /* panels of rows in a part */

struct Range {
  int64_t begin, end;
  LR_INLINE int64_t size() const { return max64(0, end - begin); }
};
LR_INLINE Range meet(const lr_segment& s, Range rows) { return {max64(s.row_begin, rows.begin), min64(s.row_end, rows.end)}; }

LR_INLINE const float* f32(const lr_tensor& t) { return static_cast<const float*>(t.data); }
LR_INLINE float* f32_out(const lr_tensor& t) { return static_cast<float*>(t.data); }

/* Whether an earlier layer has the same rows as its segment s. */
LR_INLINE bool shared_range(const lr_linear_group& g, int layer, int s) {
  const lr_segment& mine = g.layers[layer].segments[s];
  for (int l = 0; l < layer; l++) {
    if (s >= g.layers[l].segment_count) continue;
    const lr_segment& other = g.layers[l].segments[s];
    if (other.row_begin == mine.row_begin && other.row_end == mine.row_end) return true;
  }
  return false;
}
LR_INLINE bool same_range(const lr_linear& layer, int s, const lr_segment& range) {
  return s < layer.segment_count && layer.segments[s].row_begin == range.row_begin && layer.segments[s].row_end == range.row_end;
}

/* Parts of rows as tasks: (layer, segment, part). With `each_layer` every layer has its own, otherwise equal segments share. */
LR_INLINE int64_t parts_of(Range rows, bool round) { return ceil_div(panels_of(rows.size(), round).parts, kPartPanels); }
struct PartOf { int layer, segment; int64_t part; };
int64_t count_parts(const lr_linear_group& g, Range chunk, bool each_layer) {
  int64_t n = 0;
  for (int l = 0; l < g.count; l++)
    for (int s = 0; s < g.layers[l].segment_count; s++)
      if (each_layer || !shared_range(g, l, s)) n += parts_of(meet(g.layers[l].segments[s], chunk), g.math == LR_MATH_BF16);
  return n;
}
PartOf find_part(const lr_linear_group& g, Range chunk, bool each_layer, int64_t task) {
  for (int l = 0; l < g.count; l++)
    for (int s = 0; s < g.layers[l].segment_count; s++) {
      if (!each_layer && shared_range(g, l, s)) continue;
      int64_t n = parts_of(meet(g.layers[l].segments[s], chunk), g.math == LR_MATH_BF16);
      if (task < n) return {l, s, task};
      task -= n;
    }
  return {0, 0, 0};
}

/* Where one layer's u (or du) of a chunk lies, and the same packed as A of the product with B (or A). */
struct ThinLayer {
  float* rows;     /* row 0 is the chunk's first */
  int64_t stride;
  float* packed;   /* of segment s: from row (begin - chunk.begin) * rank_max on */
  int64_t rank_max;
  LR_INLINE PackedA operand(const lr_segment& s, Range chunk, bool round) const {
    Range r = meet(s, chunk);
    return PackedA(packed + (r.begin - chunk.begin) * rank_max, r.size(), rank_of(s), round);
  }
};

/* Adds the adapters' part to columns [column, ...) of a layer's C, whose row 0 is the chunk's first. `last_of_all`: nothing else will be added,
 * which takes a segment of all rows where the sum lies in a tile. */
LR_INLINE void add_adapters(const lr_linear& layer, const ThinLayer& thin, Range chunk, bool forward, bool round, int64_t column, int64_t columns, StripSum& sum, bool last_of_all, float* buffer) {
  for (int i = 0; i < layer.segment_count; i++) {
    const lr_segment& s = layer.segments[i];
    Range r = meet(s, chunk);
    if (!r.size()) continue;
    PackedA u = thin.operand(s, chunk, round);
    int64_t rank = rank_of(s), n = forward ? s.b.shape[0] : s.a.shape[1];
    OperandB b = {forward ? dense_f32(s.b.data, n, rank) : dense_f32(s.a.data, rank, n), forward, round};
    if (r.size() == chunk.size()) {
      multiply_strip(u, 0, u.rows.parts, b, column, columns, sum, last_of_all, buffer);
    } else {
      StripSum rows = {sum.out.at(r.begin - chunk.begin, 0), nullptr, 0};
      multiply_strip(u, 0, u.rows.parts, b, column, columns, rows, true, buffer);
    }
  }
}

/* Whether one segment has all rows of the chunk. */
LR_INLINE bool whole_segment(const lr_linear& layer, Range chunk) { return layer.segment_count == 1 && meet(layer.segments[0], chunk).size() == chunk.size(); }

/* drop(x) of rows [chunk) into `out`. */
LR_INLINE void drop_rows(lr_queue* queue, const lr_linear_group& g, Range chunk, float* out) {
  int64_t k = g.x.shape[1];
  parallel_for(queue, chunk.size(), [&](int64_t i, int32_t) {
    int64_t row = chunk.begin + i;
    memcpy(out + i * k, f32(g.x) + row * k, (size_t)k * sizeof(float));
    dropout_span(g.dropout, (uint64_t)row * (uint64_t)k, k, out + i * k);
  });
}

/* dA += duᵀ drop(x), dB += scale dYᵀ u: the reduction over rows in ascending order. du of a layer that trains is [rows, max_rank]. */
void adapter_grad(lr_queue* queue, const lr_linear_group& g, Scratch scratch, const float* const* du_rows) {
  int64_t m = g.x.shape[0], k = g.x.shape[1], widest = 0;
  for (int l = 0; l < g.count; l++) widest = max64(widest, max_rank(g.layers[l]));
  bool round = g.math == LR_MATH_BF16, drop = g.dropout.p > 0;
  Split chunks = row_chunks(m, k);
  int64_t most = chunks.parts ? ceil_div(m, chunks.parts) : 0;
  float* dropped = drop ? scratch.take<float>(most * k) : nullptr;
  float *u[kMaxLayers], *du[kMaxLayers];
  for (int l = 0; l < g.count; l++) {
    u[l] = scratch.take<float>(most * max_rank(g.layers[l]));
    du[l] = scratch.take<float>(most * max_rank(g.layers[l]));
  }
  float* buffers = scratch.take<float>(queue->threads * (kPanelBuffer + widest * kPanel));
  if (scratch.sizing() || !m || !widest) return;

  for (int64_t c = 0; c < chunks.parts; c++) {
    Range chunk = {chunks.begin(c), chunks.begin(c + 1)};
    if (drop) drop_rows(queue, g, chunk, dropped);
    const float* x = drop ? dropped : f32(g.x) + chunk.begin * k;
    /* uᵀ and duᵀ of segment s: from (its first row - the chunk's) * rank_max on */
    auto operand = [&](float* base, const lr_linear& layer, const lr_segment& s) {
      Range r = meet(s, chunk);
      return PackedA(base + (r.begin - chunk.begin) * max_rank(layer), rank_of(s), r.size(), round);
    };
    int64_t jobs = 0;
    for (int l = 0; l < g.count; l++) jobs += g.layers[l].segment_count;
    parallel_for(queue, jobs, [&](int64_t task, int32_t) {
      int l = 0;
      while (task >= g.layers[l].segment_count) task -= g.layers[l++].segment_count;
      const lr_linear& layer = g.layers[l];
      const lr_segment& s = layer.segments[task];
      Range r = meet(s, chunk);
      if (!r.size() || !trains(s)) return;
      PackedA ut = operand(u[l], layer, s), dut = operand(du[l], layer, s);
      pack_a(ut, 0, ut.rows.parts, f32(layer.u) + r.begin * layer.u.shape[1], layer.u.shape[1], true, 1.0f, round);
      pack_a(dut, 0, dut.rows.parts, du_rows[l] + r.begin * max_rank(layer), max_rank(layer), true, 1.0f, round);
    });

    int64_t a_panels = ceil_div(k, kPanel), tasks = a_panels;
    for (int l = 0; l < g.count; l++) tasks += ceil_div(g.layers[l].weight.n, kPanel);
    parallel_for(queue, tasks, [&](int64_t task, int32_t thread) {
      float *buffer = buffers + thread * (kPanelBuffer + widest * kPanel), *tile = buffer + kPanelBuffer;
      if (task < a_panels) {
        int64_t column = task * kPanel, columns = min64(kPanel, k - column);
        for (int l = 0; l < g.count; l++)
          for (int i = 0; i < g.layers[l].segment_count; i++) {
            const lr_segment& range = g.layers[l].segments[i];
            Range r = meet(range, chunk);
            if (!r.size() || shared_range(g, l, i)) continue;
            OperandB rows = {dense_f32(x + (r.begin - chunk.begin) * k, r.size(), k), false, round};
            const Split depth = blocks_of(r.size(), round);
            for (int64_t block = 0; block < depth.parts; block++) {
              rows.pack(column, columns, depth.begin(block), depth.size(block), buffer);
              for (int j = l; j < g.count; j++) {
                if (!same_range(g.layers[j], i, range) || !g.layers[j].segments[i].da.data) continue;
                PackedA a = operand(du[j], g.layers[j], g.layers[j].segments[i]);
                float* da = f32_out(g.layers[j].segments[i].da) + column;
                multiply_block(a, 0, a.rows.parts, block, buffer, round, {da, k, da, k}, columns);
              }
            }
          }
        return;
      }
      task -= a_panels;
      int l = 0;
      while (task >= ceil_div(g.layers[l].weight.n, kPanel)) task -= ceil_div(g.layers[l++].weight.n, kPanel);
      const lr_linear& layer = g.layers[l];
      int64_t n = layer.weight.n, column = task * kPanel, columns = min64(kPanel, n - column);
      for (int i = 0; i < layer.segment_count; i++) {
        const lr_segment& s = layer.segments[i];
        Range r = meet(s, chunk);
        if (!r.size() || !s.db.data) continue;
        PackedA a = operand(u[l], layer, s);
        OperandB dy = {dense_f32(f32(layer.y) + r.begin * n, r.size(), n), false, round};
        multiply_panel(a, 0, a.rows.parts, dy, column, tile, kPanel, false, buffer);
        int64_t rank = rank_of(s);
        for (int64_t j = 0; j < columns; j++)
          for (int64_t q = 0; q < rank; q++) f32_out(s.db)[(column + j) * rank + q] += s.scale * tile[q * kPanel + j];
      }
    });
  }
}

}}  // namespace LR_ISA
#endif
