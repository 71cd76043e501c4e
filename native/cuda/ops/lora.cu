// lora_grad: dA += duᵀ drop(x), dB += scale dYᵀ u, and the plan that the linears share.
//
// Everything is products of kOuter (gemm.cuh), cut in parts of 512 rows that are summed in ascending order: the result depends on shapes alone.
// dA of layers that cover the same rows is one product [sum of ranks, k], so drop(x) is read once; dB is one product a layer and segment.
// Launches: operands laid out (du, u, dY, drop(x)), products, sums. A thread lays out four elements, or sums one.
// hot: lay_kernel: 256 threads, 0 bytes shared, 4 blocks
// hot: sum_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../device/lora.cuh"
#include "../table.cuh"

namespace lr {
namespace {

__device__ __forceinline__ void store_four(float* to, const float (&v)[4]) { store4(to, make_float4(v[0], v[1], v[2], v[3])); }
__device__ __forceinline__ void store_four(bf16* to, const float (&v)[4]) {
#if !defined(__CUDACC__)
  emu::vector_access(to, 8);
#endif
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
}

template <class T> __global__ void lay_kernel(const Laying* items, int count, int64_t total, Dropout dropout) {
  LR_FOR_EACH(at, total) {
    const Laying& it = find_item(items, count, at);
    const int64_t e = (at - it.first) * 4, row = e / it.width, column = e % it.width, left = row < it.rows ? it.columns - column : 0;
    float v[4];
    load_floats<4>(it.from + row * it.from_stride + column, left < 0 ? 0 : left < 4 ? (int)left : 4, v);
    if (it.drop) {
      const uint32_t kept = kept_bytes(dropout, (uint64_t)row * (uint64_t)it.columns + (uint64_t)column);
      for (int i = 0; i < 4; i++) v[i] = kept >> (8 * i) & 1 ? v[i] * dropout.scale : 0.0f;
    }
    store_four((T*)it.to + row * it.stride + column, v);
  }
}

template <class T> __global__ void sum_kernel(const PartSum* items, int count, int64_t total) {
  LR_FOR_EACH(at, total) {
    const PartSum& it = find_item(items, count, at);
    const int64_t row = (at - it.first) / it.columns, column = (at - it.first) % it.columns;
    float sum = 0.0f;
    for (int64_t i = 0; i < it.count; i++) sum += it.parts[i * it.part_stride + row * it.stride + column];
    if (it.out && column < it.out_columns) {
      float* out = it.out + row * it.out_stride + column;
      *out = it.accumulate ? *out + it.out_scale * sum : it.out_scale * sum;
    }
    if (it.laid) ((T*)it.laid)[row * it.laid_stride + column] = from_float<T>(it.laid_scale * sum);
  }
}

}  // namespace

void enqueue_laying(const List<Laying>& list, int32_t math, const Dropout& dropout) {
  if (list.total == 0) return;
  list.upload();
  const int count = (int)list.items.size();
  if (math == LR_MATH_BF16) LR_LAUNCH(lay_kernel<bf16>, blocks_for(list.total, kThreads), kThreads, 0, list.table, count, list.total, dropout);
  else LR_LAUNCH(lay_kernel<float>, blocks_for(list.total, kThreads), kThreads, 0, list.table, count, list.total, dropout);
}

void enqueue_sums(const List<PartSum>& list, int32_t math) {
  if (list.total == 0) return;
  list.upload();
  const int count = (int)list.items.size();
  if (math == LR_MATH_BF16) LR_LAUNCH(sum_kernel<bf16>, blocks_for(list.total, kThreads), kThreads, 0, list.table, count, list.total);
  else LR_LAUNCH(sum_kernel<float>, blocks_for(list.total, kThreads), kThreads, 0, list.table, count, list.total);
}

lr_error lora_grad(lr_queue* queue, const lr_linear_group* group) {
  const lr_linear_group& g = *group;
  const lr_error e = check_lora_grad(g);
  if (e.code) return e;
  Plan plan(queue, g);
  if (plan.rows && plan.width) {
    const Operand x = plan.lay(g.x.data, plan.rows, plan.k, g.dropout.p > 0);
    Operand dy[kMaxLayers], u = plan.take(plan.rows, plan.width), du = plan.take(plan.rows, plan.width);
    for (int l = 0; l < g.count; l++) {
      const lr_linear& layer = g.layers[l];
      dy[l] = plan.lay(layer.y.data, plan.rows, layer.weight.n);
      for (int i = 0; i < plan.segments; i++)
        if (const lr_segment* s = plan.segment(l, i)) {
          const int64_t count = s->row_end - s->row_begin;
          const auto lay = [&](const Operand& to, const lr_tensor& from) {
            const int64_t stride = from.shape[1];
            plan.lay_into(to.rows(s->row_begin).columns(plan.offset[l]), count, plan.rank[l], (const float*)from.data + s->row_begin * stride, count, rank_of(*s), stride);
          };
          lay(u, layer.u);
          lay(du, layer.du);
        }
    }
    plan.for_runs([&](int i, int first, int last) {
      const lr_segment& range = *plan.segment(first, i);
      const int64_t depth = range.row_end - range.row_begin, ranks = plan.offset[last - 1] + plan.rank[last - 1] - plan.offset[first];
      const float* parts = plan.add_parts(plan.outer, ranks, plan.k, du.rows(range.row_begin).columns(plan.offset[first]), depth, x.rows(range.row_begin));
      for (int l = first; l < last; l++) {
        const lr_segment& s = *plan.segment(l, i);
        const int64_t rank = rank_of(s), n = g.layers[l].weight.n;
        if (s.da.data)
          plan.sums.add({parts + (plan.offset[l] - plan.offset[first]) * plan.k, plan.k, ranks * plan.k, parts_of(depth), rank, plan.k, (float*)s.da.data, plan.k,
                         plan.k, 1.0f, 0.0f, 1, nullptr, 0, 0}, rank * plan.k);
        if (!s.db.data) continue;
        const float* of_b = plan.add_parts(plan.outer, n, plan.rank[l], dy[l].rows(s.row_begin), depth, u.rows(s.row_begin).columns(plan.offset[l]));
        plan.sums.add({of_b, plan.rank[l], n * plan.rank[l], parts_of(depth), n, plan.rank[l], (float*)s.db.data, rank, rank, s.scale, 0.0f, 1, nullptr, 0, 0},
                      n * plan.rank[l]);
      }
    });
  }
  if (plan.sizing()) return success();
  enqueue_laying(plan.laying, g.math, dropout_of(g.dropout));
  enqueue_products(plan.outer, kOuter, g.math, Dropout{});
  enqueue_sums(plan.sums, g.math);
  return finish("lora_grad");
}

}  // namespace lr
