// embedding: y[t, :] = scale * table[ids[t], :], and its gradient. Ids are checked on the device before anything is written.
#include "../device/shared.cuh"
#include "../table.cuh"

namespace lr {
namespace {

// The first t whose id lies outside the table, or `tokens`. One block.
__global__ void first_wrong_id_kernel(int64_t* first, const int32_t* ids, int64_t tokens, int64_t rows) {
  LR_SHARED_MEMORY(memory);
  unsigned long long* lowest = (unsigned long long*)memory;
  if (threadIdx.x == 0) *lowest = (unsigned long long)tokens;
  __syncthreads();
  for (int64_t t = threadIdx.x; t < tokens; t += blockDim.x)
    if (ids[t] < 0 || ids[t] >= rows) atomicMin(lowest, (unsigned long long)t);
  __syncthreads();
  if (threadIdx.x == 0) {
    first[0] = (int64_t)*lowest;
    first[1] = first[0] < tokens ? ids[first[0]] : 0;
  }
}

template <class T> __global__ void embedding_kernel(float* y, const T* table, const int32_t* ids, int64_t tokens, int64_t d, float scale) {
  LR_FOR_EACH(at, tokens * d) y[at] = scale * to_float(table[(int64_t)ids[at / d] * d + at % d]);
}

// A thread owns a column, so repeated ids accumulate in ascending t.
__global__ void embedding_grad_kernel(float* dtable, const float* dy, const int32_t* ids, int64_t tokens, int64_t d, float scale) {
  LR_FOR_EACH(i, d)
    for (int64_t t = 0; t < tokens; t++) {
      float* out = dtable + (int64_t)ids[t] * d + i;
      *out = fmaf(scale, dy[t * d + i], *out);
    }
}

void check_ids(Check& check, const lr_tensor& ids, int64_t rows) {
  const int64_t tokens = elements(ids);
  if (check.failed || tokens == 0) return;
  int64_t* found = (int64_t*)small_buffer();
  int64_t first[2] = {tokens, 0};
  LR_LAUNCH(first_wrong_id_kernel, 1, kThreads, sizeof(unsigned long long), found, (const int32_t*)ids.data, tokens, rows);
  cudaMemcpyAsync(first, found, sizeof first, cudaMemcpyDeviceToHost, stream());
  const lr_error error = finish(check.op);
  if (error.code != LR_OK) {
    check.failed = true;
    check.error = error;
    return;
  }
  check.require(first[0] == tokens, "ids[%lld] is %d but the table has %lld rows", (long long)first[0], (int)first[1], (long long)rows);
}

}  // namespace

lr_error embedding(lr_queue*, lr_tensor y, lr_tensor table, lr_tensor ids, float scale) {
  Check check("embedding");
  check.floating("table", table);
  check.tensor("ids", ids, LR_I32);
  check.require(table.rank >= 1 && table.shape[0] > 0, "table must have rows");
  if (check.failed) return check.error;
  const int64_t rows = table.shape[0], d = elements(table) / rows, tokens = elements(ids);
  check.tensor("y", y, LR_F32, tokens * d);
  check_ids(check, ids, rows);
  if (check.failed || tokens * d == 0) return check.error;
  with_type(table.dtype, [&](auto of_table) {
    using T = decltype(of_table);
    LR_LAUNCH(embedding_kernel<T>, blocks_for(tokens * d, kThreads), kThreads, 0, (float*)y.data, (const T*)table.data, (const int32_t*)ids.data, tokens, d,
              scale);
  });
  return finish("embedding");
}

lr_error embedding_grad(lr_queue*, lr_tensor dtable, lr_tensor dy, lr_tensor ids, float scale) {
  Check check("embedding_grad");
  check.tensor("dtable", dtable, LR_F32);
  check.tensor("ids", ids, LR_I32);
  check.require(dtable.rank >= 1 && dtable.shape[0] > 0, "dtable must have rows");
  if (check.failed) return check.error;
  const int64_t rows = dtable.shape[0], d = elements(dtable) / rows, tokens = elements(ids);
  check.tensor("dy", dy, LR_F32, tokens * d);
  check_ids(check, ids, rows);
  if (check.failed || tokens * d == 0) return check.error;
  LR_LAUNCH(embedding_grad_kernel, blocks_for(d, kThreads), kThreads, 0, (float*)dtable.data, (const float*)dy.data, (const int32_t*)ids.data, tokens, d, scale);
  return finish("embedding_grad");
}

}  // namespace lr
