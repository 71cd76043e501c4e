// Gated linear units (Shazeer 2020): y = a(gate) * up. Every a here is g * s(z), s the logistic function, so that large negative g lose no digits:
//   SiLU: z = g.   GELU in its tanh form: z = 2 sqrt(2 / pi) (g + 0.044715 g^3), for 0.5 (1 + tanh(z / 2)) = s(z).
//   dgate = dy * up * s * (1 + g * (1 - s) * dz/dg),  dup = dy * g * s
// hot: glu_kernel: 256 threads, 0 bytes shared, 6 blocks
// hot: glu_grad_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../../abi/activation.h"
#include "../table.cuh"

namespace lr {
namespace {

// Without overflow on either side.
__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// z and dz/dg.
struct Silu {
  __device__ float z(float g) const { return g; }
  __device__ float slope(float) const { return 1.0f; }
};
struct GeluTanh {
  __device__ float z(float g) const { return 1.5957691216057308f * fmaf(0.044715f * g * g, g, g); }
  __device__ float slope(float g) const { return 1.5957691216057308f * fmaf(0.134145f * g, g, 1.0f); }
};

template <class Activation> __global__ void glu_kernel(float* y, const float* gate, const float* up, int64_t n, Activation a) {
  LR_FOR_EACH(i, n) {
    const float g = gate[i];
    y[i] = g * sigmoid(a.z(g)) * up[i];
  }
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
