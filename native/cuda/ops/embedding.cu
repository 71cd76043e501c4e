// embedding: y[t, :] = scale * table[ids[t], :], and its gradient. Ids are checked on the device before anything is written.
// hot: embedding_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../device/indices.cuh"
#include "../device/shared.cuh"
#include "../table.cuh"

namespace lr {
namespace {

// One block.
__global__ void check_ids_kernel(Finding* found, const int32_t* ids, int64_t tokens, int64_t rows) {
  LR_SHARED_MEMORY(memory);
  const int64_t t = first_where(tokens, (unsigned long long*)memory, [&](int64_t i) { return ids[i] < 0 || ids[i] >= rows; });
  if (t < tokens) leave(found, kIdOutside, t, ids[t], rows);
  else leave(found, kFine);
}

template <class T> __global__ void embedding_kernel(const Finding* found, float* y, const T* table, const int32_t* ids, int64_t tokens, int64_t d, float scale) {
  if (found->rule != kFine) return;
  LR_FOR_EACH(at, tokens * d) y[at] = scale * to_float(table[(int64_t)ids[at / d] * d + at % d]);
}

// A thread owns a column, so repeated ids accumulate in ascending t.
__global__ void embedding_grad_kernel(const Finding* found, float* dtable, const float* dy, const int32_t* ids, int64_t tokens, int64_t d, float scale) {
  if (found->rule != kFine) return;
  LR_FOR_EACH(i, d)
    for (int64_t t = 0; t < tokens; t++) {
      float* out = dtable + (int64_t)ids[t] * d + i;
      *out = fmaf(scale, dy[t * d + i], *out);
    }
}

void enqueue_check(Finding* found, const lr_tensor& ids, int64_t rows) {
  LR_LAUNCH(check_ids_kernel, 1, kThreads, sizeof(unsigned long long), found, (const int32_t*)ids.data, elements(ids), rows);
}

}  // namespace

lr_error embedding(lr_queue* queue, lr_tensor y, lr_tensor table, lr_tensor ids, float scale) {
  Check check("embedding");
  check.floating("table", table);
  check.tensor("ids", ids, LR_I32);
  check.require(table.rank >= 1 && table.shape[0] > 0, "table must have rows");
  if (check.failed) return check.error;
  const int64_t rows = table.shape[0], d = elements(table) / rows, tokens = elements(ids);
  check.tensor("y", y, LR_F32, tokens * d);
  if (check.failed) return check.error;
  Finding* const found = next_finding(queue, check.op);
  enqueue_check(found, ids, rows);
  if (tokens * d == 0) return finish(check.op);
  with_type(table.dtype, [&](auto of_table) {
    using T = decltype(of_table);
    LR_LAUNCH(embedding_kernel<T>, blocks_for(tokens * d, kThreads), kThreads, 0, found, (float*)y.data, (const T*)table.data, (const int32_t*)ids.data, tokens, d,
              scale);
  });
  return finish(check.op);
}

lr_error embedding_grad(lr_queue* queue, lr_tensor dtable, lr_tensor dy, lr_tensor ids, float scale) {
  Check check("embedding_grad");
  check.tensor("dtable", dtable, LR_F32);
  check.tensor("ids", ids, LR_I32);
  check.require(dtable.rank >= 1 && dtable.shape[0] > 0, "dtable must have rows");
  if (check.failed) return check.error;
  const int64_t rows = dtable.shape[0], d = elements(dtable) / rows, tokens = elements(ids);
  check.tensor("dy", dy, LR_F32, tokens * d);
  if (check.failed) return check.error;
  Finding* const found = next_finding(queue, check.op);
  enqueue_check(found, ids, rows);
  if (tokens * d == 0) return finish(check.op);
  LR_LAUNCH(embedding_grad_kernel, blocks_for(d, kThreads), kThreads, 0, found, (float*)dtable.data, (const float*)dy.data, (const int32_t*)ids.data, tokens, d, scale);
  return finish(check.op);
}

}  // namespace lr
