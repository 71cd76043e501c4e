/* What every op uses: errors, sizes of tensors, the parallel loop and the scratch allocator. */
#ifndef LOWRANK_CPU_OPS_COMMON_H
#define LOWRANK_CPU_OPS_COMMON_H
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "../../abi/backend.h"
#include "../simd/half.h"

namespace LR_ISA { namespace {

LR_INLINE lr_error success() {
  lr_error e;
  e.code = LR_OK;
  e.op = "";
  e.text[0] = 0;
  return e;
}

__attribute__((format(printf, 2, 3), unused)) lr_error invalid(const char* op, const char* format, ...) {
  lr_error e;
  e.code = LR_INVALID;
  e.op = op;
  va_list args;
  va_start(args, format);
  vsnprintf(e.text, sizeof(e.text), format, args);
  va_end(args);
  return e;
}

LR_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
LR_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
LR_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LR_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

LR_INLINE int64_t elements(const lr_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) n *= t.shape[i];
  return n;
}
LR_INLINE size_t dtype_size(int32_t dtype) { return dtype == LR_F32 || dtype == LR_I32 ? 4 : dtype == LR_U8 ? 1 : 2; }

LR_INLINE size_t bytes_of(const lr_tensor& t) { return (size_t)elements(t) * dtype_size(t.dtype); }
/* Of sizes of different tensors, whose product no memory bounds. */
LR_INLINE int64_t times(int64_t a, int64_t b) {
  int64_t r;
  return __builtin_mul_overflow(a, b, &r) ? INT64_MAX : r;
}

/* body(task, thread) for every task in [0, tasks). */
template <typename Body> LR_INLINE void parallel_for(lr_queue* queue, int64_t tasks, const Body& body) {
  if (tasks <= 0) return;
  queue->parallel(queue, tasks, [](void* ctx, int64_t task, int32_t thread) { (*static_cast<const Body*>(ctx))(task, thread); },
                  const_cast<Body*>(&body));
}

/* Hands out 64-byte aligned parts of the queue's scratch. While sizing it only counts (and returns NULL). Usage:
 *   Scratch scratch(queue);  float* a = scratch.take<float>(n);  if (scratch.sizing()) return success(); */
struct Scratch {
  lr_queue* queue;
  size_t used = 0;
  explicit Scratch(lr_queue* q) : queue(q) {}
  template <typename T> LR_INLINE T* take(int64_t n) {
    size_t at = used;
    used += ((size_t)(n > 0 ? n : 0) * sizeof(T) + 63) & ~(size_t)63;
    return queue->sizing ? nullptr : reinterpret_cast<T*>(static_cast<char*>(queue->scratch) + at);
  }
  LR_INLINE bool sizing() {
    if (queue->sizing) queue->scratch_size = used;
    return queue->sizing != 0;
  }
};

}}  // namespace LR_ISA
#endif
