// SwiGLU (Shazeer 2020): y = silu(gate) * up, silu(g) = g * sigmoid(g).
//   dgate = dy * up * sigmoid(g) * (1 + g * (1 - sigmoid(g))),  dup = dy * silu(g)
#include "../table.cuh"

namespace lr {
namespace {

// Without overflow on either side.
__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

__global__ void swiglu_kernel(float* y, const float* gate, const float* up, int64_t n) {
  LR_FOR_EACH(i, n) {
    const float g = gate[i];
    y[i] = g * sigmoid(g) * up[i];
  }
}

__global__ void swiglu_grad_kernel(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n) {
  LR_FOR_EACH(i, n) {
    const float g = gate[i], u = up[i], d = dy[i], s = sigmoid(g);
    dgate[i] = d * u * s * (1.0f + g * (1.0f - s));
    dup[i] = d * g * s;
  }
}

}  // namespace

lr_error swiglu(lr_queue*, lr_tensor y, lr_tensor gate, lr_tensor up) {
  Check check("swiglu");
  check.tensor("gate", gate, LR_F32);
  check.tensor("up", up, LR_F32, elements(gate));
  check.tensor("y", y, LR_F32, elements(gate));
  if (check.failed) return check.error;
  const int64_t n = elements(gate);
  LR_LAUNCH(swiglu_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)y.data, (const float*)gate.data, (const float*)up.data, n);
  return finish("swiglu");
}

lr_error swiglu_grad(lr_queue*, lr_tensor dgate, lr_tensor dup, lr_tensor dy, lr_tensor gate, lr_tensor up) {
  Check check("swiglu_grad");
  check.tensor("gate", gate, LR_F32);
  check.tensor("up", up, LR_F32, elements(gate));
  check.tensor("dy", dy, LR_F32, elements(gate));
  check.tensor("dgate", dgate, LR_F32, elements(gate));
  check.tensor("dup", dup, LR_F32, elements(gate));
  if (check.failed) return check.error;
  const int64_t n = elements(gate);
  LR_LAUNCH(swiglu_grad_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)dgate.data, (float*)dup.data, (const float*)dy.data, (const float*)gate.data,
            (const float*)up.data, n);
  return finish("swiglu_grad");
}

}  // namespace lr
