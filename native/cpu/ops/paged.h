/* The index tensors of packed sequences and of the paged cache. They live in device memory, so they are read, and checked,
 * when an entry runs and not when it is sized. */
#ifndef LOWRANK_CPU_OPS_PAGED_H
#define LOWRANK_CPU_OPS_PAGED_H
#include "../../abi/attention.h"
#include "common.h"

namespace LR_ISA { namespace {

/* cu rises from 0 to `total`. */
LR_INLINE void check_cu(Check& check, const char* name, const lr_tensor& cu, int64_t total) {
  if (check.failed) return;
  const int64_t n = elements(cu);
  const int32_t* p = (const int32_t*)cu.data;
  check.require(p[0] == 0 && p[n - 1] == total, "%s must run from 0 to %lld but runs from %d to %d", name, (long long)total, (int)p[0],
                (int)p[n - 1]);
  for (int64_t i = 0; i + 1 < n; i++)
    check.require(p[i] <= p[i + 1], "%s must not fall but goes from %d to %d", name, (int)p[i], (int)p[i + 1]);
}

/* Every sequence's keys include its queries and lie in blocks of the pool. */
LR_INLINE void check_pages(Check& check, const lr_tensor& cu_q, const lr_tensor& kv_len, const lr_tensor& block_table, int64_t blocks) {
  if (check.failed) return;
  const int64_t n = elements(cu_q) - 1;
  const int32_t *cu = (const int32_t*)cu_q.data, *length = (const int32_t*)kv_len.data;
  for (int64_t s = 0; s < n; s++) {
    const int64_t max_blocks = block_table.shape[1];
    check.require(length[s] >= cu[s + 1] - cu[s], "kv_len[%lld] is %d, less than the %d queries of its sequence", (long long)s,
                  (int)length[s], (int)(cu[s + 1] - cu[s]));
    check.require(length[s] <= max_blocks * kPageSize, "kv_len[%lld] is %d but its %lld blocks hold %lld keys", (long long)s, (int)length[s],
                  (long long)max_blocks, (long long)(max_blocks * kPageSize));
    if (check.failed) return;
    for (int64_t b = 0; b < ceil_div(length[s], kPageSize); b++) {
      const int32_t id = ((const int32_t*)block_table.data)[s * max_blocks + b];
      check.require(id >= 0 && id < blocks, "block_table[%lld, %lld] is %d but the pool has %lld blocks", (long long)s, (long long)b, (int)id,
                    (long long)blocks);
    }
  }
}

}}  // namespace LR_ISA
#endif
