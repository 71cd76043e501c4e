// Laying out operands for the products of the linears, and summing products that were cut in parts: a launch a list (device/lora.cuh).
// A thread lays out four elements, or sums one, parts in ascending order.
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

}  // namespace lr
