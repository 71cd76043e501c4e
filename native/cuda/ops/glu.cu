// y = a(gate) * up (glu.cuh), where a linear's epilogue cannot, and its gradients:
//   dgate = dy * up * s * (1 + g * (1 - s) * dz/dg),  dup = dy * g * s
// hot: glu_kernel: 256 threads, 0 bytes shared, 6 blocks
// hot: glu_grad_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../../abi/activation.h"
#include "../device/glu.cuh"
#include "../table.cuh"

namespace lr {
namespace {

template <class Activation> __global__ void glu_kernel(float* y, const float* gate, const float* up, int64_t n, Activation a) {
  LR_FOR_EACH(i, n) y[i] = gated(a, gate[i], up[i]);
}

template <class Activation> __global__ void glu_grad_kernel(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n, Activation a) {
  LR_FOR_EACH(i, n) {
    const float g = gate[i], u = up[i], d = dy[i], s = sigmoid(a.z(g));
    dgate[i] = d * u * s * (1.0f + g * (1.0f - s) * a.slope(g));
    dup[i] = d * g * s;
  }
}

template <class Body> void with_activation(int32_t activation, Body body) {
  if (activation == LR_SILU) body(Silu{});
  else body(GeluTanh{});
}

}  // namespace

lr_error glu(lr_queue*, lr_tensor y, lr_tensor gate, lr_tensor up, int32_t activation) {
  Check check("glu");
  check_glu(check, y, gate, up, activation);
  if (check.failed) return check.error;
  const int64_t n = elements(gate);
  with_activation(activation, [&](auto a) {
    LR_LAUNCH(glu_kernel<decltype(a)>, blocks_for(n, kThreads), kThreads, 0, (float*)y.data, (const float*)gate.data, (const float*)up.data, n, a);
  });
  return finish("glu");
}

lr_error glu_grad(lr_queue*, lr_tensor dgate, lr_tensor dup, lr_tensor dy, lr_tensor gate, lr_tensor up, int32_t activation) {
  Check check("glu_grad");
  check_glu_grad(check, dgate, dup, dy, gate, up, activation);
  if (check.failed) return check.error;
  const int64_t n = elements(gate);
  with_activation(activation, [&](auto a) {
    LR_LAUNCH(glu_grad_kernel<decltype(a)>, blocks_for(n, kThreads), kThreads, 0, (float*)dgate.data, (float*)dup.data, (const float*)dy.data,
              (const float*)gate.data, (const float*)up.data, n, a);
  });
  return finish("glu_grad");
}

}  // namespace lr
