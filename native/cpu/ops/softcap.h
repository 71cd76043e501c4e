/* Soft capping of logits (Gemma 2): y = cap * tanh(factor * x / cap).  dx = dy * factor * (1 - (y / cap)^2) */
#ifndef LOWRANK_CPU_OPS_SOFTCAP_H
#define LOWRANK_CPU_OPS_SOFTCAP_H
#include "../../abi/activation.h"
#include "../simd/math.h"
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

lr_error softcap(lr_queue* queue, lr_tensor y, lr_tensor x, float factor, float cap) {
  Check check("softcap");
  check_softcap(check, y, x, cap);
  if (check.failed) return check.error;
  const VF scale = VF::set(factor), bound = VF::set(cap);
  parallel_ranges(queue, elements(x), [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      store_lanes(bound * tanh(scale * load_lanes((const float*)x.data + i, lanes) / bound), (float*)y.data + i, lanes);
    });
  });
  return success();
}

lr_error softcap_grad(lr_queue* queue, lr_tensor dx, lr_tensor dy, lr_tensor y, float factor, float cap) {
  Check check("softcap_grad");
  check_softcap_grad(check, dx, dy, y, cap);
  if (check.failed) return check.error;
  const VF scale = VF::set(factor), bound = VF::set(cap), one = VF::set(1.0f);
  parallel_ranges(queue, elements(y), [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      const VF t = load_lanes((const float*)y.data + i, lanes) / bound;
      store_lanes(load_lanes((const float*)dy.data + i, lanes) * scale * (one - t * t), (float*)dx.data + i, lanes);
    });
  });
  return success();
}

}}  // namespace LR_ISA
#endif
