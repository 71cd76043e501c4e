/* embedding: y[t, :] = scale * table[ids[t], :], and its gradient. Ids are checked before anything is written. */
#ifndef LOWRANK_CPU_OPS_EMBEDDING_H
#define LOWRANK_CPU_OPS_EMBEDDING_H
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

LR_INLINE void check_ids(Check& check, const lr_tensor& ids, int64_t rows) {
  if (check.failed) return;
  const int32_t* id = (const int32_t*)ids.data;
  for (int64_t t = 0; t < elements(ids); t++)
    check.require(id[t] >= 0 && id[t] < rows, "ids[%lld] is %d but the table has %lld rows", (long long)t, (int)id[t], (long long)rows);
}

lr_error embedding(lr_queue* queue, lr_tensor y, lr_tensor table, lr_tensor ids, float scale) {
  Check check("embedding");
  check.floating("table", table);
  check.tensor("ids", ids, LR_I32);
  check.require(table.rank >= 1 && table.shape[0] > 0, "table must have rows");
  if (check.failed) return check.error;
  const int64_t rows = table.shape[0], d = elements(table) / rows, tokens = elements(ids);
  check.tensor("y", y, LR_F32, times(tokens, d));
  check.apart("ids", ids, "y", y);
  check_ids(check, ids, rows);
  if (check.failed || d == 0) return check.error;
  const VF factor = VF::set(scale);
  parallel_ranges(queue, tokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t row = ((const int32_t*)ids.data)[t] * d;
      float* out = (float*)y.data + t * d;
      int64_t i = 0;
      for (; i + kLanes <= d; i += kLanes) (factor * load_any(table.data, table.dtype, row + i)).store(out + i);
      for (; i < d; i++) out[i] = scale * load_one(table.data, table.dtype, row + i);
    }
  }, max64(1, kRange / d));
  return success();
}

/* Tasks own ranges of columns, so repeated ids accumulate in ascending t whatever the number of threads. */
lr_error embedding_grad(lr_queue* queue, lr_tensor dtable, lr_tensor dy, lr_tensor ids, float scale) {
  Check check("embedding_grad");
  check.tensor("dtable", dtable, LR_F32);
  check.tensor("ids", ids, LR_I32);
  check.require(dtable.rank >= 1 && dtable.shape[0] > 0, "dtable must have rows");
  if (check.failed) return check.error;
  const int64_t rows = dtable.shape[0], d = elements(dtable) / rows, tokens = elements(ids);
  check.tensor("dy", dy, LR_F32, times(tokens, d));
  check.apart("ids", ids, "dtable", dtable);
  check_ids(check, ids, rows);
  if (check.failed) return check.error;
  const VF factor = VF::set(scale);
  parallel_ranges(queue, d, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; t++) {
      const float* in = (const float*)dy.data + t * d;
      float* out = (float*)dtable.data + ((const int32_t*)ids.data)[t] * d;
      for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
        store_lanes(fma(factor, load_lanes(in + i, lanes), load_lanes(out + i, lanes)), out + i, lanes);
      });
    }
  }, 64);
  return success();
}

}}  // namespace LR_ISA
#endif
