/* Gated linear units (Shazeer 2020): y = a(gate) * up. Every a here is g * s(z), s the logistic function, so that large negative g lose no digits:
 *   SiLU: z = g.   GELU in its tanh form: z = 2 sqrt(2 / pi) (g + 0.044715 g^3), for 0.5 (1 + tanh(z / 2)) = s(z).
 *   dgate = dy * up * s * (1 + g * (1 - s) * dz/dg),  dup = dy * g * s */
#ifndef LOWRANK_CPU_OPS_GLU_H
#define LOWRANK_CPU_OPS_GLU_H
#include "../../abi/activation.h"
#include "../simd/math.h"
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* z and dz/dg; a call per vector, inlined where the activation is known. */
struct Silu {
  LR_INLINE VF z(VF g) const { return g; }
  LR_INLINE VF slope(VF) const { return VF::set(1.0f); }
};
struct GeluTanh {
  LR_INLINE VF z(VF g) const { return VF::set(1.5957691216057308f) * fma(VF::set(0.044715f) * g * g, g, g); }
  LR_INLINE VF slope(VF g) const { return VF::set(1.5957691216057308f) * fma(VF::set(0.134145f) * g, g, VF::set(1.0f)); }
};

template <typename Activation> void glu_forward(lr_queue* queue, float* y, const float* gate, const float* up, int64_t n, Activation a) {
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) {
    const FarStores out(n, y == gate || y == up);
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      const VF g = load_lanes(gate + i, lanes), u = load_lanes(up + i, lanes);
      out.store(g * sigmoid(a.z(g)) * u, y + i, lanes);
    });
  });
}

template <typename Activation>
void glu_backward(lr_queue* queue, float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n, Activation a) {
  const VF one = VF::set(1.0f);
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) {
    const FarStores out(n, dgate == dy || dgate == gate || dgate == up || dup == dy || dup == gate || dup == up);
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      const VF g = load_lanes(gate + i, lanes), u = load_lanes(up + i, lanes);
      const VF d = load_lanes(dy + i, lanes), s = sigmoid(a.z(g));
      out.store(d * u * s * (one + g * (one - s) * a.slope(g)), dgate + i, lanes);
      out.store(d * g * s, dup + i, lanes);
    });
  });
}

/* y = a(gate) * up of n elements. */
void glu_any(lr_queue* queue, float* y, const float* gate, const float* up, int64_t n, int32_t activation) {
  if (activation == LR_SILU) glu_forward(queue, y, gate, up, n, Silu{});
  else glu_forward(queue, y, gate, up, n, GeluTanh{});
}

lr_error glu(lr_queue* queue, lr_tensor y, lr_tensor gate, lr_tensor up, int32_t activation) {
  Check check("glu");
  check_glu(check, y, gate, up, activation);
  if (check.failed) return check.error;
  glu_any(queue, (float*)y.data, (const float*)gate.data, (const float*)up.data, elements(gate), activation);
  return success();
}

lr_error glu_grad(lr_queue* queue, lr_tensor dgate, lr_tensor dup, lr_tensor dy, lr_tensor gate, lr_tensor up, int32_t activation) {
  Check check("glu_grad");
  check_glu_grad(check, dgate, dup, dy, gate, up, activation);
  if (check.failed) return check.error;
  auto run = [&](auto a) {
    glu_backward(queue, (float*)dgate.data, (float*)dup.data, (const float*)dy.data, (const float*)gate.data, (const float*)up.data, elements(gate), a);
  };
  if (activation == LR_SILU) run(Silu{});
  else run(GeluTanh{});
  return success();
}

}}  // namespace LR_ISA
#endif
