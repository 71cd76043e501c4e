/* SwiGLU (Shazeer 2020): y = silu(gate) * up, silu(g) = g * sigmoid(g).
 *   dgate = dy * up * sigmoid(g) * (1 + g * (1 - sigmoid(g))),  dup = dy * silu(g) */
#ifndef LOWRANK_CPU_OPS_SWIGLU_H
#define LOWRANK_CPU_OPS_SWIGLU_H
#include "../simd/math.h"
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

lr_error swiglu(lr_queue* queue, lr_tensor y, lr_tensor gate, lr_tensor up) {
  Check check("swiglu");
  check.tensor("gate", gate, LR_F32);
  check.tensor("up", up, LR_F32, elements(gate));
  check.tensor("y", y, LR_F32, elements(gate));
  if (check.failed) return check.error;
  parallel_ranges(queue, elements(gate), [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      const VF g = load_lanes((const float*)gate.data + i, lanes), u = load_lanes((const float*)up.data + i, lanes);
      store_lanes(g * sigmoid(g) * u, (float*)y.data + i, lanes);
    });
  });
  return success();
}

lr_error swiglu_grad(lr_queue* queue, lr_tensor dgate, lr_tensor dup, lr_tensor dy, lr_tensor gate, lr_tensor up) {
  Check check("swiglu_grad");
  check.tensor("gate", gate, LR_F32);
  check.tensor("up", up, LR_F32, elements(gate));
  check.tensor("dy", dy, LR_F32, elements(gate));
  check.tensor("dgate", dgate, LR_F32, elements(gate));
  check.tensor("dup", dup, LR_F32, elements(gate));
  if (check.failed) return check.error;
  const VF one = VF::set(1.0f);
  parallel_ranges(queue, elements(gate), [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      const VF g = load_lanes((const float*)gate.data + i, lanes), u = load_lanes((const float*)up.data + i, lanes);
      const VF d = load_lanes((const float*)dy.data + i, lanes), s = sigmoid(g);
      store_lanes(d * u * s * (one + g * (one - s)), (float*)dgate.data + i, lanes);
      store_lanes(d * g * s, (float*)dup.data + i, lanes);
    });
  });
  return success();
}

}}  // namespace LR_ISA
#endif
