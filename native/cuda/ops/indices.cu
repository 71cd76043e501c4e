// Findings about index tensors: where they wait until the host reads them, their sentences, and the check of packed sequences and of the paged cache.
#include <vector>

#include "../device/indices.cuh"
#include "../table.cuh"

namespace lr {
namespace {

// One block. Rules in the order of cpu/ops/paged.h; the lowest violation of the first rule is found.
__global__ void check_sequences_kernel(Finding* found, Sequences s, int64_t tokens, int64_t rows) {
  LR_SHARED_MEMORY(memory);
  unsigned long long* lowest = (unsigned long long*)memory;
  const auto rises = [&](const int32_t* cu, int64_t total, Rule ends, Rule falls) {
    if (cu[0] != 0 || cu[s.count] != total) return leave(found, ends, total, cu[0], cu[s.count]), false;
    const int64_t at = first_where(s.count, lowest, [&](int64_t i) { return cu[i] > cu[i + 1]; });
    if (at < s.count) leave(found, falls, cu[at], cu[at + 1]);
    return at == s.count;
  };
  if (!rises(s.cu_q, tokens, kCuQEnds, kCuQFalls)) return;
  if (!s.block_table) {
    if (s.cu_k == s.cu_q && rows != tokens) return leave(found, kCuQEnds, rows, 0, tokens);
    if (s.cu_k != s.cu_q && !rises(s.cu_k, rows, kCuKEnds, kCuKFalls)) return;
    return leave(found, kFine);
  }
  const int64_t room = s.table_width * kPageSize;
  int64_t at = first_where(s.count, lowest, [&](int64_t i) { return s.kv_len[i] < s.queries(i) || s.kv_len[i] > room; });
  // The CPU meets a wrong page of an earlier sequence first.
  const auto outside = [&](int64_t i) { return s.block_table[i] < 0 || s.block_table[i] >= rows; };
  const int64_t page = first_where(at * s.table_width, lowest, [&](int64_t i) {
    return i % s.table_width < ((int64_t)s.kv_len[i / s.table_width] + kPageSize - 1) / kPageSize && outside(i);
  });
  if (page < at * s.table_width) return leave(found, kPageOutside, page / s.table_width, page % s.table_width, s.block_table[page], rows);
  if (at == s.count) return leave(found, kFine);
  if (s.kv_len[at] < s.queries(at)) return leave(found, kKeysFew, at, s.kv_len[at], s.queries(at));
  leave(found, kKeysMany, at, s.kv_len[at], s.table_width, room);
}

const char* sentence(int64_t rule) {
  switch (rule) {
    case kIdOutside: return "ids[%lld] is %lld but the table has %lld rows";
    case kCuQEnds: return "cu_q must run from 0 to %lld but runs from %lld to %lld";
    case kCuKEnds: return "cu_k must run from 0 to %lld but runs from %lld to %lld";
    case kCuQFalls: return "cu_q must not fall but goes from %lld to %lld";
    case kCuKFalls: return "cu_k must not fall but goes from %lld to %lld";
    case kKeysFew: return "kv_len[%lld] is %lld, less than the %lld queries of its sequence";
    case kKeysMany: return "kv_len[%lld] is %lld but its %lld blocks hold %lld keys";
    case kPageOutside: return "block_table[%lld, %lld] is %lld but the pool has %lld blocks";
    case kLabelOutside: return "label %lld of row %lld is outside [0, %lld) and is not -100";
    default: return "an index is wrong";
  }
}

// Findings of the entries since they were last read, in a ring on the device; the calls they belong to, here.
constexpr int kFindings = 256;
struct CallPlace {
  const char* op;
  void* owner;
};
Finding* ring;
CallPlace calls[kFindings];
int used = 0;

struct LateError {
  void* owner;
  lr_error error;
};
std::vector<LateError> late_errors;

lr_error error_of(const char* op, const Finding& found) {
  lr_error error = success();
  if (found.rule == kFine) return error;
  error.code = LR_INVALID;
  error.op = op;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  snprintf(error.text, sizeof error.text, sentence(found.rule), (long long)found.at[0], (long long)found.at[1], (long long)found.at[2], (long long)found.at[3]);
#pragma GCC diagnostic pop
  return error;
}

// Waits, and moves the ring's errors to the list.
lr_error collect_findings() {
  static Finding found[kFindings];
  const int count = used;
  late_errors.reserve(late_errors.size() + (size_t)count); // may throw: nothing is lost yet
  used = 0;
  if (count) {
    cudaMemcpyAsync(found, ring, count * sizeof(Finding), cudaMemcpyDeviceToHost, stream());
    cudaMemsetAsync(ring, 0, count * sizeof(Finding), stream()); // kFine, where a check is never launched
  }
  const lr_error error = wait_for_stream("synchronize");
  if (error.code != LR_OK) return error;
  for (int i = 0; i < count; i++)
    if (found[i].rule != kFine) late_errors.push_back({calls[i].owner, error_of(calls[i].op, found[i])});
  return success();
}

}  // namespace

cudaError_t make_findings() {
  if (ring) return cudaSuccess;
  const cudaError_t status = cudaMalloc((void**)&ring, kFindings * sizeof(Finding));
  return status == cudaSuccess ? cudaMemsetAsync(ring, 0, kFindings * sizeof(Finding), stream()) : status;
}

Finding* next_finding(lr_queue* queue, const char* op) {
  if (used == kFindings) collect_findings(); // its failure stays with the device
  calls[used] = {op, queue->owner};
  return ring + used++;
}

lr_error read_finding(Finding* found) {
  const int last = --used;
  cudaMemcpyAsync(found, ring + last, sizeof *found, cudaMemcpyDeviceToHost, stream());
  const lr_error error = wait_for_stream(calls[last].op);
  return error.code == LR_OK ? error_of(calls[last].op, *found) : error;
}

lr_error report_findings(void (*late)(void* owner, const lr_error* error)) {
  const lr_error error = collect_findings();
  for (const LateError& e : late_errors) late(e.owner, &e.error);
  late_errors.clear();
  return error;
}

Sequences sequences_of(const lr_tensor& cu_q, const lr_tensor& cu_k, const lr_tensor& kv_len, const lr_tensor& block_table) {
  const bool paged = present(block_table);
  return {(const int32_t*)cu_q.data,
          (const int32_t*)(present(cu_k) ? cu_k.data : cu_q.data),
          (const int32_t*)kv_len.data,
          paged ? (const int32_t*)block_table.data : nullptr,
          elements(cu_q) - 1,
          paged ? block_table.shape[1] : 0};
}

void enqueue_check(Finding* found, const Sequences& sequences, int64_t tokens, int64_t rows) {
  LR_LAUNCH(check_sequences_kernel, 1, kThreads, sizeof(unsigned long long), found, sequences, tokens, rows);
}

}  // namespace lr
