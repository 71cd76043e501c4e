// linear, linear_grad, linear_dw: products with a frozen or trained weight W [n, k], dense or 4-bit, and its adapters, as lists of products (gemm.cuh).
//
// linear       y = x Wᵀ + bias + scale u Bᵀ + residual, u = drop(x) Aᵀ. Launches: operands laid out (x, drop(x), A, B), u in parts of 512 columns of x,
//              their sums, then y of all layers and segments at once; a gate and up are one product, which ends with `gated`. Up to kFewRows rows
//              take few_rows.cu's way.
// linear_grad  du = scale dY B; dx (+)= Σ dY W + drop'(du A); dA += duᵀ drop(x), dB += scale dYᵀ u. Launches: operands (dY, A, B, drop(x), u), du in parts,
//              their sums, then dx in one write: the adapters' terms of all layers first, times the mask, then dY W of all layers on top, from the same stored
//              weight as forward. Then dA and dB in parts of 512 rows and their sums, in ascending order: the result depends on shapes alone. dA of layers
//              that cover the same rows is one product [sum of ranks, k], so drop(x) is read once; dB is one product a layer and segment.
// linear_dw    dW += dYᵀ x; dbias += column sums of dY.
// Scratch: x (and drop(x)), dY of all layers, in bf16: 2 bytes an element; float32 operands are used where they lie. u, du, A, B and parts are thin.
#include "../device/few_rows.cuh"
#include "../table.cuh"

namespace lr {
namespace {

// dbias[column] += sum of a column, rows in eight interleaved sums that are added in order. A block of 256 threads has 32 columns.
__global__ void column_sums_kernel(float* dbias, const float* dy, int64_t rows, int64_t n) {
  LR_SHARED_MEMORY(memory);
  float* partial = (float*)memory; // [8][32]
  const int lane = (int)threadIdx.x % kWarpSize, part = (int)threadIdx.x / kWarpSize;
  const int64_t column = (int64_t)blockIdx.x * kWarpSize + lane;
  float sum = 0.0f;
  if (column < n)
    for (int64_t row = part; row < rows; row += 8) sum += dy[row * n + column];
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (part != 0 || column >= n) return;
  for (int i = 1; i < 8; i++) sum += partial[i * kWarpSize + lane];
  dbias[column] += sum;
}

// The terms of a layer's adapters: u B (or du A) on the rows of each segment.
void add_adapters(const Plan& plan, int layer, const Operand& u, const Operand* factors, std::vector<Term>& terms) {
  for (int i = 0; i < plan.segments; i++)
    if (const lr_segment* s = plan.segment(layer, i)) {
      const Operand of_layer = u.columns(plan.offset[layer]);
      terms.push_back({of_layer.data, of_layer.stride, plan.rank[layer], s->row_begin, s->row_end, plan.weight(factors[i]), layer});
    }
}

// dA and dB of the layers that train, from dY of each layer and du of all.
void add_adapter_grads(Plan& plan, const Operand* dy, const Operand& du) {
  const lr_linear_group& g = plan.g;
  const Operand x = plan.lay(g.x.data, plan.rows, plan.k, g.dropout.p > 0), u = plan.take(plan.rows, plan.width);
  plan.for_runs([&](int i, int first, int last) {
    const lr_segment& range = *plan.segment(first, i);
    const int64_t depth = range.row_end - range.row_begin, ranks = plan.offset[last - 1] + plan.rank[last - 1] - plan.offset[first];
    const float* of_a = nullptr;
    for (int l = first; l < last; l++) {
      const lr_segment& s = *plan.segment(l, i);
      const lr_linear& layer = g.layers[l];
      const int64_t rank = rank_of(s), n = layer.weight.n;
      if (s.da.data) {
        if (!of_a) of_a = plan.add_parts(plan.outer, ranks, plan.k, du.rows(range.row_begin).columns(plan.offset[first]), depth, x.rows(range.row_begin));
        plan.grads.add({of_a + (plan.offset[l] - plan.offset[first]) * plan.k, plan.k, ranks * plan.k, parts_of(depth), rank, plan.k, (float*)s.da.data, plan.k,
                        plan.k, 1.0f, 0.0f, 1, nullptr, 0, 0}, rank * plan.k);
      }
      if (!s.db.data) continue;
      const Operand of_layer = u.rows(s.row_begin).columns(plan.offset[l]);
      const int64_t stride = layer.u.shape[1];
      plan.lay_into(of_layer, depth, plan.rank[l], (const float*)layer.u.data + s.row_begin * stride, depth, rank, stride);
      const float* of_b = plan.add_parts(plan.outer, n, plan.rank[l], dy[l].rows(s.row_begin), depth, of_layer);
      plan.grads.add({of_b, plan.rank[l], n * plan.rank[l], parts_of(depth), n, plan.rank[l], (float*)s.db.data, rank, rank, s.scale, 0.0f, 1, nullptr, 0, 0},
                     n * plan.rank[l]);
    }
  });
}

// W as terms read it, with the operand that it is multiplied with.
Term base_term(const Plan& plan, const Operand& a, int64_t depth, const lr_weight& w) { return {a.data, a.stride, depth, 0, plan.rows, w, 0}; }

}  // namespace

lr_error linear(lr_queue* queue, const lr_linear_group* group) {
  const lr_linear_group& g = *group;
  const lr_error e = check_group("linear", g);
  if (e.code) return e;
  if (g.x.shape[0] <= kFewRows) return linear_few_rows(queue, g);
  const Side side = g.gated.data ? kGated : kForward;
  Plan plan(queue, g);
  if (plan.rows) {
    const Operand x = plan.lay(g.x.data, plan.rows, plan.k);
    const Operand dropped = plan.width && g.dropout.p > 0 ? plan.lay(g.x.data, plan.rows, plan.k, true) : x;
    const Operand u = plan.take(plan.rows, plan.width);
    std::vector<Operand> b[kMaxLayers];
    for (int l = 0; l < g.count; l++) b[l].resize((size_t)plan.segments);
    plan.for_runs([&](int i, int first, int last) {
      // A of the run's layers one below the other.
      const lr_segment& range = *plan.segment(first, i);
      const int64_t ranks = plan.offset[last - 1] + plan.rank[last - 1] - plan.offset[first], count = range.row_end - range.row_begin;
      const Operand a = plan.take(ranks, round_up(plan.k, 8));
      for (int l = first; l < last; l++) {
        const lr_segment& s = *plan.segment(l, i);
        plan.lay_into(a.rows(plan.offset[l] - plan.offset[first]), plan.rank[l], a.stride, s.a.data, rank_of(s), plan.k, plan.k);
        b[l][(size_t)i] = plan.lay_b(l, s);
      }
      const float* parts = plan.add_parts(plan.thin, count, ranks, dropped.rows(range.row_begin), plan.k, a);
      for (int l = first; l < last; l++) {
        const lr_segment& s = *plan.segment(l, i);
        const lr_tensor& kept = g.layers[l].u;
        plan.sums.add({parts + plan.offset[l] - plan.offset[first], ranks, count * ranks, parts_of(plan.k), count, plan.rank[l],
                       kept.data ? (float*)kept.data + s.row_begin * kept.shape[1] : nullptr, kept.data ? kept.shape[1] : 0, rank_of(s), 1.0f, s.scale, 0,
                       u.rows(s.row_begin).columns(plan.offset[l]).data, plan.width, 0},
                      count * plan.rank[l]);
      }
    });
    for (int l = 0; l < g.count; l += side == kGated ? 2 : 1) {
      const lr_linear& layer = g.layers[l];
      Product p = {};
      p.c = (float*)layer.y.data;
      p.rows = plan.rows;
      p.columns = p.stride = layer.weight.n;
      p.bias = layer.bias.data;
      p.bias_dtype = layer.bias.dtype;
      p.residual = (const float*)layer.residual.data;
      p.parts = 1;
      std::vector<Term> terms;
      add_adapters(plan, l, u, b[l].data(), terms);
      if (side == kGated) {
        const lr_linear& up = g.layers[1];
        p.up = (float*)up.y.data;
        p.up_bias = up.bias.data;
        p.up_bias_dtype = up.bias.dtype;
        p.gated = (float*)g.gated.data;
        p.activation = g.activation;
        add_adapters(plan, 1, u, b[1].data(), terms);
      }
      p.adapters = (int32_t)terms.size();
      terms.push_back(base_term(plan, x, plan.k, layer.weight));
      if (side == kGated) terms.push_back(base_term(plan, x, plan.k, g.layers[1].weight));
      plan.base.add(p, terms);
    }
  }
  if (plan.sizing()) return success();
  enqueue_laying(plan.laying, g.math, dropout_of(g.dropout));
  enqueue_products(plan.thin, kForward, g.math, Dropout{});
  enqueue_sums(plan.sums, g.math);
  enqueue_products(plan.base, side, g.math, Dropout{});
  return finish("linear");
}

lr_error linear_grad(lr_queue* queue, const lr_linear_group* group) {
  const lr_linear_group& g = *group;
  const lr_error e = check_linear_grad(g);
  if (e.code) return e;
  Plan plan(queue, g);
  bool trained = false;
  for (int l = 0; l < g.count; l++) trained = trained || trains(g.layers[l]);
  if (plan.rows && (g.dx.data || trained)) {
    const Operand du = plan.take(plan.rows, plan.width);
    Product p = {};
    p.c = (float*)g.dx.data;
    p.rows = plan.rows;
    p.columns = p.stride = plan.k;
    p.accumulate = g.accumulate;
    p.parts = 1;
    std::vector<Term> terms, base;
    Operand dy[kMaxLayers];
    for (int l = 0; l < g.count; l++) {
      const lr_linear& layer = g.layers[l];
      const int64_t n = layer.weight.n;
      if (!g.dx.data && !trains(layer)) continue;
      dy[l] = plan.lay(layer.y.data, plan.rows, n);
      base.push_back(base_term(plan, dy[l], n, layer.weight));
      std::vector<Operand> a((size_t)plan.segments);
      for (int i = 0; i < plan.segments; i++) {
        const lr_segment* s = plan.segment(l, i);
        if (!s) continue;
        const int64_t count = s->row_end - s->row_begin;
        const Operand b = plan.lay_b(l, *s);
        if (g.dx.data) a[(size_t)i] = plan.lay_a(l, *s);
        const float* parts = plan.add_parts(plan.thin, count, plan.rank[l], dy[l].rows(s->row_begin), n, b);
        plan.sums.add({parts, plan.rank[l], count * plan.rank[l], parts_of(n), count, plan.rank[l], nullptr, 0, 0, 0.0f, s->scale, 0,
                       du.rows(s->row_begin).columns(plan.offset[l]).data, plan.width, 0},
                      count * plan.rank[l]);
      }
      add_adapters(plan, l, du, a.data(), terms);
    }
    p.adapters = (int32_t)terms.size();
    terms.insert(terms.end(), base.begin(), base.end());
    if (g.dx.data) plan.base.add(p, terms);
    if (trained) add_adapter_grads(plan, dy, du);
  }
  if (plan.sizing()) return success();
  enqueue_laying(plan.laying, g.math, dropout_of(g.dropout));
  enqueue_products(plan.thin, kBackward, g.math, Dropout{});
  enqueue_sums(plan.sums, g.math);
  enqueue_products(plan.base, kBackward, g.math, dropout_of(g.dropout));
  enqueue_products(plan.outer, kOuter, g.math, Dropout{});
  enqueue_sums(plan.grads, g.math);
  return finish("linear_grad");
}

lr_error linear_dw(lr_queue* queue, lr_tensor dweight, lr_tensor dbias, lr_tensor dy, lr_tensor x, int32_t math) {
  const lr_error e = check_linear_dw(dweight, dbias, dy, x);
  if (e.code) return e;
  const int64_t rows = dy.shape[0], n = dy.shape[1], k = x.rank == 2 ? x.shape[1] : 0;
  lr_linear_group g = {};
  g.x = x;
  g.math = math;
  Plan plan(queue, g);
  if (rows && dweight.data) {
    Product p = {};
    p.c = (float*)dweight.data;
    p.rows = n;
    p.columns = p.stride = k;
    p.accumulate = 1;
    p.parts = 1;
    const Operand a = plan.lay(dy.data, rows, n), b = plan.lay(x.data, rows, k);
    plan.outer.add(p, {{a.data, a.stride, rows, 0, n, plan.weight(b), 0}});
  }
  if (plan.sizing()) return success();
  enqueue_laying(plan.laying, math, Dropout{});
  enqueue_products(plan.outer, kOuter, math, Dropout{});
  if (rows && dbias.data)
    LR_LAUNCH(column_sums_kernel, (unsigned)ceil_div(n, kWarpSize), 256, 256 * sizeof(float), (float*)dbias.data, (const float*)dy.data, rows, n);
  return finish("linear_dw");
}

}  // namespace lr
