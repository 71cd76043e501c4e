/* linear, linear_grad, linear_dw: products with a frozen or trained weight W [n, k], dense or 4-bit, and its adapters.
 *
 * linear     y = x Wᵀ + bias + scale u Bᵀ + residual, u = drop(x) Aᵀ. x is packed once for all layers of a group; up to kFewRows rows take
 *            linear_few.h's way, which forms the same products in another order. `gated` follows chunk by chunk.
 * linear_grad  du = scale dY B; dx (+)= Σ dY W + drop'(du A): the adapters' part is summed and masked in a tile of its own. Then dA and dB (lora.h).
 * linear_dw  dW += dYᵀ x, dbias += column sums of dY, rows in ascending order.
 */
#ifndef LOWRANK_CPU_OPS_LINEAR_H
#define LOWRANK_CPU_OPS_LINEAR_H
#include "linear_few.h"
#include "lora.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* Computes a chunk's u (forward) or du, over the blocks that the operand holds, and packs it for add_adapters behind the last. `operand` is the
 * chunk's packed x or dY of layer l; `rows` where the unpacked rows are, first row of the chunk. When `forward`, layers with equal segments share. */
struct ThinProduct {
  const lr_linear_group& g;
  Range chunk;
  bool forward, round, whole;  /* whole: a segment of all the chunk's rows may use the packed operand */
  const PackedA* operand;      /* in forward one for all layers */
  const float* rows[kMaxLayers];
  const ThinLayer* thin;
  float* buffers;
  int64_t buffer_size;

  LR_INLINE void part(int64_t task, int32_t thread) const {
    PartOf p = find_part(g, chunk, !forward, task);
    PackedA a = operand[forward ? 0 : p.layer];
    if (a.held.none()) return;
    const lr_segment& range = g.layers[p.layer].segments[p.segment];
    Range r = meet(range, chunk);
    const Split panels = panels_of(r.size(), round);
    int64_t first = p.part * kPartPanels, last = min64(panels.parts, first + kPartPanels);
    float *buffer = buffers + thread * buffer_size, *space = buffer + kPanelBuffer;
    int64_t depth = forward ? g.x.shape[1] : g.layers[p.layer].weight.n;
    int64_t from = first, to = last;
    const Blocks held = a.held;
    if (!whole || r.size() != chunk.size()) { /* pack this part's rows alone */
      a = PackedA(space, panels.begin(last) - panels.begin(first), depth, round);
      a.held = held;
      pack_a(a, 0, a.rows.parts, rows[p.layer] + (r.begin - chunk.begin + panels.begin(first)) * depth, depth, false, 1.0f, round);
      from = 0;
      to = a.rows.parts;
    }
    int64_t row0 = r.begin - chunk.begin + panels.begin(first) - a.rows.begin(from), count = panels.begin(last) - panels.begin(first);
    for (int l = p.layer; l < (forward ? g.count : p.layer + 1); l++) {
      const lr_linear& layer = g.layers[l];
      if (!same_range(layer, p.segment, range)) continue;
      const lr_segment& s = layer.segments[p.segment];
      int64_t rank = rank_of(s);
      OperandB b = {forward ? dense_f32(s.a.data, rank, depth) : dense_f32(s.b.data, depth, rank), forward, round};
      float* out = thin[l].rows + row0 * thin[l].stride;
      for (int64_t column = 0; column < rank; column += kPanel) multiply_panel(a, from, to, b, column, out + column, thin[l].stride, false, buffer);
      if (!a.ends()) continue;
      float* mine = out + a.rows.begin(from) * thin[l].stride;
      if (!forward)
        for (int64_t i = 0; i < count; i++)
          for (int64_t j = 0; j < rank; j++) mine[i * thin[l].stride + j] *= s.scale;
      PackedA packed = thin[l].operand(s, chunk, round);
      pack_a(packed, first, last, mine - panels.begin(first) * thin[l].stride, thin[l].stride, false, forward ? s.scale : 1.0f, round);
    }
  }
};

/* u or du of a layer, in a chunk's scratch unless all rows are kept elsewhere. */
LR_INLINE ThinLayer thin_layer(Scratch& scratch, const lr_linear& layer, bool kept, int64_t stride, int64_t most) {
  int64_t rank = max_rank(layer);
  ThinLayer t = {nullptr, kept ? stride : rank, scratch.take<float>(most * rank), rank};
  if (!kept) t.rows = scratch.take<float>(most * rank);
  return t;
}

LR_INLINE void add_residual(const float* residual, int64_t rows, int64_t columns, float* y, int64_t n) {
  for (int64_t i = 0; i < rows; i++)
    for_vectors(0, columns, [&](int64_t j, int64_t lanes) {
      store_lanes(load_lanes(y + i * n + j, lanes) + load_lanes(residual + i * n + j, lanes), y + i * n + j, lanes);
    });
}

lr_error linear(lr_queue* queue, const lr_linear_group* group) {
  const lr_linear_group& g = *group;
  lr_error e = check_group("linear", g);
  if (e.code) return e;
  int64_t m = g.x.shape[0], k = g.x.shape[1];
  if (m <= kFewRows) return linear_few_rows(queue, g);
  bool round = g.math == LR_MATH_BF16, adapters = false;
  for (int l = 0; l < g.count; l++) adapters = adapters || g.layers[l].segment_count > 0;
  bool drop = adapters && g.dropout.p > 0;
  Split chunks = row_chunks(m, k);
  int64_t most = ceil_div(m, chunks.parts);
  Scratch scratch(queue);
  float* packed = scratch.take<float>(room_at_once(most, k, round));
  float* dropped = drop ? scratch.take<float>(most * k) : nullptr;
  ThinLayer thin[kMaxLayers];
  for (int l = 0; l < g.count; l++) thin[l] = thin_layer(scratch, g.layers[l], g.layers[l].u.data != nullptr, g.layers[l].u.shape[1], most);
  int64_t widest = 0;
  for (int l = 0; l < g.count; l++) widest = max64(widest, Strips(g.layers[l].weight.n, queue->threads).width);
  int64_t buffer_size = widest * kDepth + max64(most * widest, adapters ? kPartPanels * kMostRows * k : 0);
  float* buffers = scratch.take<float>(queue->threads * buffer_size);
  Outputs outputs(scratch, g, most);
  if (scratch.sizing()) return success();

  for (int64_t c = 0; c < chunks.parts; c++) {
    Range chunk = {chunks.begin(c), chunks.begin(c + 1)};
    const float* x = f32(g.x) + chunk.begin * k;
    PackedA a(packed, chunk.size(), k, round);
    if (drop) drop_rows(queue, g, chunk, dropped);
    ThinProduct product = {g, chunk, true, round, !drop, &a, {}, thin, buffers, buffer_size};
    for (int l = 0; l < g.count; l++) {
      product.rows[l] = drop ? dropped : x;
      if (g.layers[l].u.data) thin[l].rows = f32_out(g.layers[l].u) + chunk.begin * thin[l].stride;
    }
    int64_t tasks = 0;
    for (int l = 0; l < g.count; l++) tasks += Strips(g.layers[l].weight.n, queue->threads).count();
    const int64_t at_once = blocks_at_once(chunk.size(), round);
    for (int64_t block = 0; block < a.depth.parts; block += at_once) {
      a.held = {block, min64(block + at_once, a.depth.parts)};
      parallel_for(queue, a.rows.parts, [&](int64_t i, int32_t) { pack_a(a, i, i + 1, x, k, false, 1.0f, round); });
      if (adapters) parallel_for(queue, count_parts(g, chunk, false), [&](int64_t task, int32_t thread) { product.part(task, thread); });
      parallel_for(queue, tasks, [&](int64_t task, int32_t thread) {
        int l = 0;
        for (int64_t n; task >= (n = Strips(g.layers[l].weight.n, queue->threads).count()); l++) task -= n;
        const lr_linear& layer = g.layers[l];
        const Strips strips(layer.weight.n, queue->threads);
        int64_t n = layer.weight.n, column = strips.begin(task), columns = strips.size(task);
        float *buffer = buffers + thread * buffer_size, *y = outputs.of(l, chunk.begin) + column, bias[kMostPanels * kPanel];
        StripSum sum = {{y, n, block ? y : nullptr, n}, buffer + widest * kDepth, widest};
        if (layer.bias.data && block == 0) {
          lr_weight values = dense_f32(layer.bias.data, 1, n);
          values.dtype = layer.bias.dtype;
          decode_row(values, 0, column, columns, false, bias);
          sum.out.base = bias;
          sum.out.base_stride = 0;
        }
        OperandB w = {layer.weight, true, round};
        const bool in_tile = a.ends() && whole_segment(layer, chunk);
        sum.out.leaves = a.ends() && (in_tile || !layer.segment_count) && !layer.residual.data;
        multiply_strip(a, 0, a.rows.parts, w, column, columns, sum, !in_tile, buffer);
        if (!a.ends()) return;
        add_adapters(layer, thin[l], chunk, true, round, column, columns, sum, true, buffer);
        if (layer.residual.data) add_residual(f32(layer.residual) + chunk.begin * n + column, chunk.size(), columns, y, n);
      });
    }
    outputs.gate(queue, chunk);
  }
  return success();
}

/* dx, and du of the layers that train. */
void input_grad(lr_queue* queue, const lr_linear_group& g, Scratch scratch, float* const* du) {
  int64_t m = g.x.shape[0], k = g.x.shape[1], features = 0, widest = 0;
  bool round = g.math == LR_MATH_BF16;
  int last_adapter = -1;
  for (int l = 0; l < g.count; l++) {
    if (g.layers[l].segment_count) last_adapter = l;
    features += g.layers[l].weight.n;
    widest = max64(widest, g.layers[l].weight.n);
  }
  const bool adapters = last_adapter >= 0, drop = adapters && g.dropout.p > 0 && g.dx.data;
  Split chunks = row_chunks(m, features);
  int64_t most = chunks.parts ? ceil_div(m, chunks.parts) : 0;
  float* packed = scratch.take<float>(room_at_once(most, features + g.count, round)); /* each layer may end in half a word */
  ThinLayer thin[kMaxLayers];
  for (int l = 0; l < g.count; l++) {
    thin[l] = thin_layer(scratch, g.layers[l], trains(g.layers[l]), max_rank(g.layers[l]), most);
  }
  const Strips strips(k, queue->threads);
  int64_t buffer_size = strips.width * kDepth + max64(most * strips.width, adapters ? kPartPanels * kMostRows * widest : 0);
  float* buffers = scratch.take<float>(queue->threads * buffer_size);
  if (scratch.sizing()) return;

  for (int64_t c = 0; c < chunks.parts; c++) {
    Range chunk = {chunks.begin(c), chunks.begin(c + 1)};
    PackedA a[kMaxLayers] = {{nullptr, 0, 0, false}, {nullptr, 0, 0, false}, {nullptr, 0, 0, false}, {nullptr, 0, 0, false}, {nullptr, 0, 0, false}, {nullptr, 0, 0, false}, {nullptr, 0, 0, false}, {nullptr, 0, 0, false}};
    ThinProduct product = {g, chunk, false, round, true, a, {}, thin, buffers, buffer_size};
    for (int l = 0; l < g.count; l++) {
      const lr_linear& layer = g.layers[l];
      a[l] = PackedA(packed, chunk.size(), layer.weight.n, round);
      product.rows[l] = f32(layer.y) + chunk.begin * layer.weight.n;
      if (trains(layer)) thin[l].rows = du[l] + chunk.begin * thin[l].stride;
    }
    const int64_t at_once = blocks_at_once(chunk.size(), round);
    int64_t blocks = 0; /* of all layers, one layer after the other */
    for (int l = 0; l < g.count; l++) blocks += a[l].depth.parts;
    for (int64_t first = 0; first < blocks; first += at_once) {
      const int64_t end = min64(blocks, first + at_once);
      float* to = packed;
      int64_t last = 0; /* of the layers whose blocks are held */
      for (int64_t l = 0, before = 0; l < g.count; before += a[l++].depth.parts) {
        a[l].data = to;
        a[l].held = {min64(a[l].depth.parts, max64(0, first - before)), max64(0, min64(a[l].depth.parts, end - before))};
        if (a[l].held.none()) continue;
        to += a[l].words_held();
        last = l;
      }
      parallel_for(queue, a[0].rows.parts * g.count, [&](int64_t task, int32_t) {
        int64_t l = task / a[0].rows.parts, i = task % a[0].rows.parts;
        pack_a(a[l], i, i + 1, product.rows[l], g.layers[l].weight.n, false, 1.0f, round);
      });
      if (adapters) parallel_for(queue, count_parts(g, chunk, true), [&](int64_t task, int32_t thread) { product.part(task, thread); });
      if (!g.dx.data) continue;
      parallel_for(queue, strips.count(), [&](int64_t task, int32_t thread) {
        int64_t column = strips.begin(task), columns = strips.size(task);
        float *buffer = buffers + thread * buffer_size, *tile = buffer + strips.width * kDepth, *dx = f32_out(g.dx) + chunk.begin * k + column;
        StripSum sum = {{dx, k, g.accumulate || first ? dx : nullptr, k}, tile, strips.width};
        bool in_tile = end == blocks && adapters && !drop; /* adapters end the sum */
        for (int l = 0; l < g.count; l++) in_tile = in_tile && (!g.layers[l].segment_count || whole_segment(g.layers[l], chunk));
        sum.out.leaves = end == blocks && (in_tile || !adapters);
        for (int64_t l = 0; l <= last; l++) multiply_strip(a[l], 0, a[l].rows.parts, {g.layers[l].weight, false, round}, column, columns, sum, !in_tile && l == last, buffer);
        if (end < blocks) return;
        if (!in_tile) sum.tile = nullptr;
        if (drop) {
          memset(tile, 0, (size_t)(chunk.size() * strips.width) * sizeof(float));
          sum = {{tile, strips.width, tile, strips.width}, nullptr, 0};
        }
        for (int l = 0; l < g.count; l++) add_adapters(g.layers[l], thin[l], chunk, false, round, column, columns, sum, l == last_adapter, buffer);
        if (!drop) return;
        for (int64_t i = 0; i < chunk.size(); i++) {
          dropout_span(g.dropout, (uint64_t)(chunk.begin + i) * (uint64_t)k + (uint64_t)column, columns, tile + i * strips.width);
          for (int64_t j = 0; j < columns; j++) dx[i * k + j] += tile[i * strips.width + j];
        }
      });
    }
  }
}

/* One part after the other, in the same scratch behind du. */
lr_error linear_grad(lr_queue* queue, const lr_linear_group* group) {
  const lr_linear_group& g = *group;
  lr_error e = check_linear_grad(g);
  if (e.code) return e;
  Scratch scratch(queue);
  float* du[kMaxLayers] = {};
  bool trained = false;
  for (int l = 0; l < g.count; l++)
    if (trains(g.layers[l])) {
      du[l] = scratch.take<float>(g.x.shape[0] * max_rank(g.layers[l]));
      trained = true;
    }
  if (g.dx.data || trained) input_grad(queue, g, scratch, du);
  size_t size = queue->scratch_size;
  if (trained) adapter_grad(queue, g, scratch, du);
  if (queue->sizing && size > queue->scratch_size) queue->scratch_size = size;
  return success();
}

lr_error linear_dw(lr_queue* queue, lr_tensor dweight, lr_tensor dbias, lr_tensor dy, lr_tensor x, int32_t math) {
  lr_error e = check_linear_dw(dweight, dbias, dy, x);
  if (e.code) return e;
  int64_t m = dy.shape[0], n = dy.shape[1], k = x.rank == 2 ? x.shape[1] : 0;
  Scratch scratch(queue);
  float* packed = scratch.take<float>(dweight.data ? outer_product_room(n, m) : 0);
  float* buffers = scratch.take<float>(queue->threads * kPanelBuffer);
  if (scratch.sizing() || !m) return success();

  if (dweight.data) add_outer_product(queue, f32_out(dweight), f32(dy), f32(x), m, n, k, math == LR_MATH_BF16, packed, buffers);
  if (dbias.data)
    parallel_for(queue, ceil_div(n, 64), [&](int64_t task, int32_t) {
      int64_t first = task * 64, count = min64(64, n - first);
      float* out = f32_out(dbias) + first;
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < count; j++) out[j] += f32(dy)[i * n + first + j];
    });
  return success();
}

}}  // namespace LR_ISA
#endif
