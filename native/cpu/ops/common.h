/* What every op uses: abi/entry.h and the parallel loop. */
#ifndef LOWRANK_CPU_OPS_COMMON_H
#define LOWRANK_CPU_OPS_COMMON_H
#include <string.h>
#include "../../abi/entry.h"
#include "../simd/half.h"

namespace LR_ISA { namespace {

using namespace lr;

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

}}  // namespace LR_ISA
#endif
