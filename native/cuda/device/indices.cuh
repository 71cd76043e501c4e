// Index tensors live in device memory, so a kernel checks them before anything is written: it leaves a finding, the entry's other kernels read
// it and do nothing. The host reads findings when it waits anyway, and turns them into the sentences that the CPU says.
#ifndef LOWRANK_CUDA_DEVICE_INDICES_CUH
#define LOWRANK_CUDA_DEVICE_INDICES_CUH
#include "../../abi/attention.h"
#include "launch.cuh"

namespace lr {

enum Rule : int64_t { kFine, kIdOutside, kCuQEnds, kCuKEnds, kCuQFalls, kCuKFalls, kKeysFew, kKeysMany, kPageOutside, kLabelOutside };

struct Finding {
  int64_t rule, at[4]; // `at`: the numbers of its sentence, in order
};

// Device memory for findings; once, when the device is opened.
cudaError_t make_findings();
// A place in device memory for what the entry in progress finds. `owner`: queue->owner.
Finding* next_finding(lr_queue* queue, const char* op);
// Waits for the finding that was asked for last; an error, where there is one, in the words of the CPU.
lr_error read_finding(Finding* found);
// Waits for all of them, and tells their owners of errors.
lr_error report_findings(void (*late)(void* owner, const lr_error* error));

// The lowest i in [0, n) for which wrong(i), else n. For all threads of a block; `lowest` is shared memory.
template <class Wrong> __device__ __forceinline__ int64_t first_where(int64_t n, unsigned long long* lowest, Wrong wrong) {
  if (threadIdx.x == 0) *lowest = (unsigned long long)n;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    if (wrong(i)) {
      atomicMin(lowest, (unsigned long long)i);
      break;
    }
  __syncthreads();
  const int64_t first = (int64_t)*lowest;
  __syncthreads();
  return first;
}

__device__ __forceinline__ void leave(Finding* found, Rule rule, int64_t a = 0, int64_t b = 0, int64_t c = 0, int64_t d = 0) {
  if (threadIdx.x == 0) *found = {rule, {a, b, c, d}};
}

// Queries of packed sequences, and where their keys lie: packed too (cu_k), or in a paged cache (block_table).
struct Sequences {
  const int32_t *cu_q, *cu_k, *kv_len, *block_table;
  int64_t count, table_width;
  __device__ int64_t queries(int64_t s) const { return cu_q[s + 1] - cu_q[s]; }
  __device__ int64_t keys(int64_t s) const { return block_table ? kv_len[s] : cu_k[s + 1] - cu_k[s]; }
  // Position of a query minus its number in the sequence: the last query stands at the last key.
  __device__ int64_t offset(int64_t s) const { return keys(s) - queries(s); }
  // Row of the tensors of keys and values that holds key i of sequence s.
  __device__ int64_t key_row(int64_t s, int64_t i) const {
    return block_table ? (int64_t)block_table[s * table_width + i / kPageSize] * kPageSize + i % kPageSize : cu_k[s] + i;
  }
};

// The last s in [0, n) with begin(s) <= at, where begin rises from begin(0) <= at.
template <class Begin> __device__ __forceinline__ int64_t last_from(int64_t n, int64_t at, Begin begin) {
  int64_t low = 0, high = n;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (begin(middle) <= at) low = middle;
    else high = middle;
  }
  return low;
}

Sequences sequences_of(const lr_tensor& cu_q, const lr_tensor& cu_k, const lr_tensor& kv_len, const lr_tensor& block_table);
// Leaves a finding about them, kFine when there is none. `tokens`: rows of queries; `rows`: of keys, or blocks of the pool.
void enqueue_check(Finding* found, const Sequences& sequences, int64_t tokens, int64_t rows);

}  // namespace lr
#endif
