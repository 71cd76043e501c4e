// The optimizers over the parameter arena. grad_stats decides on the device whether the step happens, and counts it; adamw (Loshchilov & Hutter
// 2019, as torch.optim.AdamW; Adam), lion (Chen et al. 2023) and sgd (as torch.optim.SGD) read that and clip by themselves: one launch over all
// segments, gridDim.y of them side by side. 8-bit moments: moments.cuh.
// hot: adamw_kernel<float, 0>: 256 threads, 32 bytes shared, 4 blocks
// hot: adamw_kernel<bf16, 0>: 256 threads, 32 bytes shared, 4 blocks
// hot: adamw_kernel<float, 2>: 256 threads, 4128 bytes shared, 3 blocks
// hot: adamw_kernel<bf16, 2>: 256 threads, 4128 bytes shared, 3 blocks
//   with maps, the walk over 8-bit blocks holds 16 moments a thread and takes 72 registers; 64 would spill. 768 threads have 12 KiB on their way, 16 B each
#include "../table.cuh"
#include "arena.cuh"
#include "moments.cuh"

namespace lr {
namespace {

__device__ __forceinline__ bool is_finite(double x) { return x - x == 0.0; }

// One block: a loss is one value, or a few. Counts the step, as done or as skipped.
__global__ void count_step_kernel(lr_optim_header* state, const float* loss, int64_t losses) {
  LR_SHARED_MEMORY(memory);
  int* wrong = (int*)memory;
  if (threadIdx.x == 0) *wrong = is_finite(state->grad_norm_sq) ? 0 : 1;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < losses; i += blockDim.x)
    if (!is_finite((double)loss[i])) atomicMax(wrong, 1);
  __syncthreads();
  if (threadIdx.x > 0) return;
  state->finite = *wrong ? 0 : 1;
  state->step += state->finite;
  state->skipped += 1 - state->finite;
  state->consecutive = state->finite ? 0 : state->consecutive + 1;
}

struct AdamW {
  Parameters at;
  double lr, beta1, beta2, eps, max_grad_norm;
  int decoupled;
};

template <class T, int kMaps>
__global__ void adamw_kernel(AdamW a, const lr_optim_header* state, const lr_optim_segment* segments, int64_t count) {
  LR_SHARED_MEMORY(memory);
  if (!state->finite) return;
  double* shared = (double*)memory; // correction1, sqrt(correction2), clip: what needs many operations, once a block
  const QuantMaps<kMaps> maps(memory + 4 * sizeof(double), a.at);
  if (threadIdx.x == 0) {
    shared[0] = 1.0 - power(a.beta1, state->step);
    shared[1] = sqrt(1.0 - power(a.beta2, state->step));
    shared[2] = (double)clip_factor(state, a.max_grad_norm);
  }
  __syncthreads();
  const double correction1 = shared[0];
  const float root2 = (float)shared[1], clip = (float)shared[2], epsilon = (float)a.eps;
  // The mean is reached from the nearer end, so that a small beta1 does not cancel: m + (1 - b) (g - m), or g - b (g - m).
  const bool from_mean = a.beta1 > 0.5;
  const float weight1 = (float)(from_mean ? 1.0 - a.beta1 : -a.beta1), decay2 = (float)a.beta2, weight2 = (float)(1.0 - a.beta2);
  for_segments<2, T>(a.at, maps, segments, count, [&](const lr_optim_segment& segment) {
    const double rate = a.lr * (double)segment.lr_scale;
    const float keep = a.decoupled ? (float)(1.0 - rate * (double)segment.weight_decay) : 1.0f;
    const float decay = a.decoupled ? 0.0f : segment.weight_decay, size = (float)(-rate / correction1);
    return [=](float p, float g, float* m) {
      const float gradient = decay != 0.0f ? as_stored<T>(fmaf(decay, p, as_stored<T>(g * clip))) : as_stored<T>(g * clip);
      m[0] = as_stored<T>(fmaf(weight1, gradient - m[0], from_mean ? m[0] : gradient));
      m[1] = as_stored<T>(fmaf(weight2 * gradient, gradient, as_stored<T>(decay2 * m[1])));
      const float denominator = as_stored<T>(as_stored<T>(as_stored<T>(sqrtf(m[1])) / root2) + epsilon);
      return fmaf(size, m[0] / denominator, as_stored<T>(p * keep));
    };
  });
}

struct Lion {
  Parameters at;
  double lr, beta1, beta2, max_grad_norm;
};

template <class T, int kMaps>
__global__ void lion_kernel(Lion a, const lr_optim_header* state, const lr_optim_segment* segments, int64_t count) {
  LR_SHARED_MEMORY(memory);
  if (!state->finite) return;
  const QuantMaps<kMaps> maps(memory, a.at);
  __syncthreads();
  const float clip = clip_factor(state, a.max_grad_norm);
  const float old1 = (float)a.beta1, fresh1 = (float)(1.0 - a.beta1), old2 = (float)a.beta2, fresh2 = (float)(1.0 - a.beta2);
  for_segments<1, T>(a.at, maps, segments, count, [&](const lr_optim_segment& segment) {
    const double rate = a.lr * (double)segment.lr_scale;
    const float keep = (float)(1.0 - rate * (double)segment.weight_decay), up = (float)rate;
    return [=](float p, float g, float* m) {
      const float gradient = g * clip, direction = old1 * m[0] + fresh1 * gradient;
      m[0] = old2 * m[0] + fresh2 * gradient;
      return p * keep + (direction > 0.0f ? -up : direction < 0.0f ? up : 0.0f);
    };
  });
}

struct Sgd {
  Parameters at;
  double lr, momentum, dampening, max_grad_norm;
  int nesterov;
};

template <bool kMoving>
__global__ void sgd_kernel(Sgd a, const lr_optim_header* state, const lr_optim_segment* segments, int64_t count) {
  if (!state->finite) return;
  const bool first = state->step == 1;
  const float clip = clip_factor(state, a.max_grad_norm), old = (float)a.momentum, fresh = (float)(1.0 - a.dampening);
  for_segments<kMoving ? 1 : 0, float>(a.at, QuantMaps<0>(), segments, count, [&](const lr_optim_segment& segment) {
    const float decay = segment.weight_decay, size = (float)(-a.lr * (double)segment.lr_scale);
    const bool nesterov = a.nesterov != 0;
    return [=](float p, float g, float* m) {
      float step = fmaf(decay, p, g * clip);
      if (kMoving) {
        m[0] = first ? step : fmaf(old, m[0], fresh * step);
        step = nesterov ? fmaf(old, m[0], step) : m[0];
      }
      return fmaf(size, step, p);
    };
  });
}

Segments check_arena_here(Check& check, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& header, const lr_tensor& segments) {
  return check_segments(check, segments, read_segments(check, param, grad, header, segments).data(), param);
}

Parameters parameters(const lr_tensor& param, const lr_tensor& grad) {
  Parameters at = {};
  at.p = param.data;
  at.g = (const float*)grad.data;
  return at;
}

}  // namespace

lr_error grad_stats(lr_queue* queue, lr_tensor header, lr_tensor grad, lr_tensor loss) {
  Check check("grad_stats");
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("grad", grad, LR_F32);
  check.optional("loss", loss, LR_F32);
  if (check.failed) return check.error;
  if (queue->sizing) {
    queue->scratch_size = 0;
    return success();
  }
  lr_optim_header* state = (lr_optim_header*)header.data;
  enqueue_dot(nullptr, &state->grad_norm_sq, (const float*)grad.data, (const float*)grad.data, elements(grad), 1.0, false);
  LR_LAUNCH(count_step_kernel, 1, kThreads, sizeof(int), state, (const float*)loss.data, present(loss) ? elements(loss) : 0);
  return finish("grad_stats");
}

lr_error adamw(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor state1, lr_tensor absmax1, lr_tensor state2,
               lr_tensor absmax2, lr_tensor qmaps, lr_tensor header, lr_tensor segments, double lr, double beta1, double beta2, double eps,
               double max_grad_norm, int32_t decoupled) {
  Check check("adamw");
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_adamw(check, all, exp_avg, exp_avg_sq, state1, absmax1, state2, absmax2, qmaps, beta1, beta2);
  if (check.failed) return check.error;
  AdamW a = {parameters(param, grad), lr, beta1, beta2, eps, max_grad_norm, decoupled};
  a.at.moments[0] = moment(exp_avg, state1, absmax1);
  a.at.moments[1] = moment(exp_avg_sq, state2, absmax2);
  a.at.maps = all.end8 > 0 ? (const float*)qmaps.data : nullptr;
  const lr_optim_header* state = (const lr_optim_header*)header.data;
  const auto kernel = a.at.maps ? param.dtype == LR_BF16 ? adamw_kernel<bf16, 2> : adamw_kernel<float, 2>
                                : param.dtype == LR_BF16 ? adamw_kernel<bf16, 0> : adamw_kernel<float, 0>;
  LR_LAUNCH(kernel, grid_of(all), kThreads, 4 * sizeof(double) + (a.at.maps ? QuantMaps<2>::kBytes : 0), a, state, (const lr_optim_segment*)segments.data, all.count);
  return finish("adamw");
}

lr_error lion(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor state1, lr_tensor absmax1, lr_tensor qmap, lr_tensor header,
              lr_tensor segments, double lr, double beta1, double beta2, double max_grad_norm) {
  Check check("lion");
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_lion(check, all, exp_avg, state1, absmax1, qmap, beta1, beta2);
  if (check.failed) return check.error;
  Lion a = {parameters(param, grad), lr, beta1, beta2, max_grad_norm};
  a.at.moments[0] = moment(exp_avg, state1, absmax1);
  a.at.maps = all.end8 > 0 ? (const float*)qmap.data : nullptr;
  const lr_optim_header* state = (const lr_optim_header*)header.data;
  const auto kernel = a.at.maps ? param.dtype == LR_BF16 ? lion_kernel<bf16, 1> : lion_kernel<float, 1>
                                : param.dtype == LR_BF16 ? lion_kernel<bf16, 0> : lion_kernel<float, 0>;
  LR_LAUNCH(kernel, grid_of(all), kThreads, a.at.maps ? QuantMaps<1>::kBytes : 0, a, state, (const lr_optim_segment*)segments.data, all.count);
  return finish("lion");
}

lr_error sgd(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor momentum_buffer, lr_tensor header, lr_tensor segments, double lr, double momentum,
             double dampening, int32_t nesterov, double max_grad_norm) {
  Check check("sgd");
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_sgd(check, all, momentum_buffer, momentum, dampening, nesterov);
  if (check.failed) return check.error;
  Sgd a = {parameters(param, grad), lr, momentum, dampening, max_grad_norm, nesterov};
  a.at.moments[0] = moment(momentum_buffer, lr_tensor(), lr_tensor());
  const lr_optim_header* state = (const lr_optim_header*)header.data;
  const auto kernel = momentum != 0 ? sgd_kernel<true> : sgd_kernel<false>;
  LR_LAUNCH(kernel, grid_of(all), kThreads, 0, a, state, (const lr_optim_segment*)segments.data, all.count);
  return finish("sgd");
}

}  // namespace lr
