/* kv_append: writes the new keys and values of every sequence into its blocks of the paged cache, in the pools' dtype. */
#ifndef LOWRANK_CPU_OPS_KV_APPEND_H
#define LOWRANK_CPU_OPS_KV_APPEND_H
#include "common.h"
#include "paged.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* x [n] to the elements from `at` of a pool. */
LR_INLINE void append_values(const float* x, int64_t n, const lr_tensor& pool, int64_t at) {
  if (pool.dtype == LR_F32) memmove((float*)pool.data + at, x, (size_t)n * sizeof(float));
  else for_vectors(0, n, [&](int64_t i, int64_t lanes) { store_bf16_lanes(load_lanes(x + i, lanes), (uint16_t*)pool.data + at + i, lanes); });
}

lr_error kv_append(lr_queue* queue, lr_tensor k_pool, lr_tensor v_pool, lr_tensor k, lr_tensor v, lr_tensor cu_q, lr_tensor kv_len,
                   lr_tensor block_table) {
  Check check("kv_append");
  check_kv_append(check, k_pool, v_pool, k, v, cu_q, kv_len, block_table);
  if (check.failed) return check.error;
  const int64_t width = k.shape[1] * k.shape[2];
  check_cu(check, "cu_q", cu_q, k.shape[0]);
  check_pages(check, cu_q, kv_len, block_table, k_pool.shape[0]);
  if (check.failed) return check.error;
  const int32_t* cu = (const int32_t*)cu_q.data;
  for (int64_t s = 0; s + 1 < elements(cu_q); s++) {
    const int64_t first = ((const int32_t*)kv_len.data)[s] - (cu[s + 1] - cu[s]);
    const int32_t* pages = (const int32_t*)block_table.data + s * block_table.shape[1];
    parallel_ranges(queue, cu[s + 1] - cu[s], [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t from = (cu[s] + i) * width, position = first + i;
        const int64_t to = (pages[position / kPageSize] * kPageSize + position % kPageSize) * width;
        append_values((const float*)k.data + from, width, k_pool, to);
        append_values((const float*)v.data + from, width, v_pool, to);
      }
    }, max64(1, kRange / max64(1, width)));
  }
  return success();
}

}}  // namespace LR_ISA
#endif
