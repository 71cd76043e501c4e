// kv_append: the new keys and values [T, Hkv, D] of every sequence go into its blocks of the paged cache, in its dtype. A thread a value, of
// keys and values.
#include "../device/indices.cuh"
#include "../device/shared.cuh"
#include "../table.cuh"

namespace lr {
namespace {

template <class T> __global__ void kv_append_kernel(T* k_pool, T* v_pool, const float* k, const float* v, const Finding* found, Sequences s, int64_t tokens, int64_t width) {
  if (found->rule != kFine) return;
  LR_FOR_EACH(at, tokens * width) {
    const int64_t row = at / width, column = at % width;
    const int64_t sequence = last_from(s.count, row, [&](int64_t i) { return (int64_t)s.cu_q[i]; });
    const int64_t to = s.key_row(sequence, s.offset(sequence) + row - s.cu_q[sequence]) * width + column;
    k_pool[to] = from_float<T>(k[at]);
    v_pool[to] = from_float<T>(v[at]);
  }
}

}  // namespace

lr_error kv_append(lr_queue* queue, lr_tensor k_pool, lr_tensor v_pool, lr_tensor k, lr_tensor v, lr_tensor cu_q, lr_tensor kv_len, lr_tensor block_table) {
  Check check("kv_append");
  check_kv_append(check, k_pool, v_pool, k, v, cu_q, kv_len, block_table);
  if (check.failed) return check.error;
  const int64_t tokens = k.shape[0], width = k.shape[1] * k.shape[2];
  const Sequences sequences = sequences_of(cu_q, {}, kv_len, block_table);
  Finding* const found = next_finding(queue, check.op);
  enqueue_check(found, sequences, tokens, k_pool.shape[0]);
  const auto append = [&](auto element) {
    using T = decltype(element);
    LR_LAUNCH(kv_append_kernel<T>, blocks_for(tokens * width, kThreads), kThreads, 0, (T*)k_pool.data, (T*)v_pool.data, (const float*)k.data,
              (const float*)v.data, found, sequences, tokens, width);
  };
  if (tokens * width > 0) {
    if (k_pool.dtype == LR_F32) append(float{});
    else append(bf16{});
  }
  return finish(check.op);
}

}  // namespace lr
