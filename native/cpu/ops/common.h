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

/* The same for small tasks that follow each other in memory: each thread reads on where it was, as processors fetch ahead, and takes from the others'
 * parts when its own is done. Fewer than `least` tasks are not worth a thread. */
template <typename Hold, typename Body> LR_INLINE void parallel_streams(lr_queue* queue, int64_t tasks, int64_t least, const Hold& hold, const Body& body) {
  constexpr int64_t kStreams = 64;
  struct alignas(64) Part {
    int64_t next, end;
  } parts[kStreams];
  const int64_t streams = min64(min64(queue->threads, kStreams), ceil_div(tasks, least));
  for (int64_t i = 0; i < streams; i++) parts[i] = {tasks * i / streams, tasks * (i + 1) / streams};
  parallel_for(queue, streams, [&](int64_t first, int32_t thread) {
    const auto held = hold();
    for (int64_t i = 0; i < streams; i++) {
      Part& part = parts[(first + i) % streams];
      for (int64_t task; (task = __atomic_fetch_add(&part.next, 1, __ATOMIC_RELAXED)) < part.end;) body(task, thread, held);
    }
  });
}

}}  // namespace LR_ISA
#endif
