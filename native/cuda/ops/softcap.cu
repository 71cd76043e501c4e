// Soft capping of logits (Gemma 2): y = cap * tanh(factor * x / cap).  dx = dy * factor * (1 - (y / cap)^2)
#include "../../abi/activation.h"
#include "../table.cuh"

namespace lr {
namespace {

__global__ void softcap_kernel(float* y, const float* x, int64_t n, float factor, float cap) {
  LR_FOR_EACH(i, n) y[i] = cap * tanhf(factor * x[i] / cap);
}

__global__ void softcap_grad_kernel(float* dx, const float* dy, const float* y, int64_t n, float factor, float cap) {
  LR_FOR_EACH(i, n) {
    const float t = y[i] / cap;
    dx[i] = dy[i] * factor * (1.0f - t * t);
  }
}

}  // namespace

lr_error softcap(lr_queue*, lr_tensor y, lr_tensor x, float factor, float cap) {
  Check check("softcap");
  check_softcap(check, y, x, cap);
  if (check.failed) return check.error;
  const int64_t n = elements(x);
  LR_LAUNCH(softcap_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)y.data, (const float*)x.data, n, factor, cap);
  return finish("softcap");
}

lr_error softcap_grad(lr_queue*, lr_tensor dx, lr_tensor dy, lr_tensor y, float factor, float cap) {
  Check check("softcap_grad");
  check_softcap_grad(check, dx, dy, y, cap);
  if (check.failed) return check.error;
  const int64_t n = elements(y);
  LR_LAUNCH(softcap_grad_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)dx.data, (const float*)dy.data, (const float*)y.data, n, factor, cap);
  return finish("softcap_grad");
}

}  // namespace lr
