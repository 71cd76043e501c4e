// The optimizers over the parameter arena. grad_stats decides on the device whether the step happens, and counts it; adamw (Loshchilov & Hutter
// 2019, as torch.optim.AdamW) and sgd (as torch.optim.SGD) read that and clip by themselves: one launch over all segments, gridDim.y of them side
// by side.
// hot: adamw_kernel: 256 threads, 24 bytes shared, 5 blocks
#include <vector>

#include "../table.cuh"

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

__device__ double power(double base, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2) result *= base;
  return result;
}

__device__ float clip_factor(const lr_optim_header* state, double max_grad_norm) {
  const double ratio = max_grad_norm / (sqrt(state->grad_norm_sq) + 1e-6);
  return max_grad_norm > 0 && ratio < 1.0 ? (float)ratio : 1.0f;
}

struct AdamW {
  float *p, *m, *v;
  const float* g;
  double lr, beta1, beta2, eps, max_grad_norm;
};

__global__ void adamw_kernel(AdamW a, const lr_optim_header* state, const lr_optim_segment* segments, int64_t count) {
  LR_SHARED_MEMORY(memory);
  double* shared = (double*)memory; // correction1, sqrt(correction2), clip: what needs many operations, once a block
  if (!state->finite) return;
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
  for (int64_t s = blockIdx.y; s < count; s += gridDim.y) {
    const lr_optim_segment segment = segments[s];
    const double rate = a.lr * (double)segment.lr_scale;
    const float keep = (float)(1.0 - rate * (double)segment.weight_decay), size = (float)(-rate / correction1);
    LR_FOR_EACH(at, segment.end - segment.begin) {
      const int64_t i = segment.begin + at;
      const float gradient = a.g[i] * clip, old = a.m[i];
      const float mean = fmaf(weight1, gradient - old, from_mean ? old : gradient);
      const float square = fmaf(weight2 * gradient, gradient, decay2 * a.v[i]);
      a.m[i] = mean;
      a.v[i] = square;
      a.p[i] = fmaf(size, mean / (sqrtf(square) / root2 + epsilon), a.p[i] * keep);
    }
  }
}

struct Sgd {
  float *p, *buffer; // buffer NULL: no momentum
  const float* g;
  double lr, momentum, dampening, max_grad_norm;
  int nesterov;
};

__global__ void sgd_kernel(Sgd a, const lr_optim_header* state, const lr_optim_segment* segments, int64_t count) {
  if (!state->finite) return;
  const bool first = state->step == 1;
  const float clip = clip_factor(state, a.max_grad_norm), old = (float)a.momentum, fresh = (float)(1.0 - a.dampening);
  for (int64_t s = blockIdx.y; s < count; s += gridDim.y) {
    const lr_optim_segment segment = segments[s];
    const float size = (float)(-a.lr * (double)segment.lr_scale);
    LR_FOR_EACH(at, segment.end - segment.begin) {
      const int64_t i = segment.begin + at;
      const float value = a.p[i];
      float step = fmaf(segment.weight_decay, value, a.g[i] * clip);
      if (a.buffer) {
        const float moved = first ? step : fmaf(old, a.buffer[i], fresh * step);
        a.buffer[i] = moved;
        step = a.nesterov ? fmaf(old, moved, step) : moved;
      }
      a.p[i] = fmaf(size, step, value);
    }
  }
}

struct Arena {
  lr_error error;
  int64_t count = 0, longest = 0;
  dim3 grid() const { return dim3(blocks_for(longest, kThreads), (unsigned)(count < 1 ? 1 : count < 65535 ? count : 65535)); }
};

// The segments are few and come from the host: they are read back and checked there.
Arena check_arena(const char* op, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& header, const lr_tensor& segments) {
  Check check(op);
  Arena arena;
  check.tensor("param", param, LR_F32);
  check.tensor("grad", grad, LR_F32, elements(param));
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("segments", segments, LR_U8);
  check.require(elements(segments) % (int64_t)sizeof(lr_optim_segment) == 0, "segments has %lld bytes, not a multiple of %d",
                (long long)elements(segments), (int)sizeof(lr_optim_segment));
  arena.error = check.error;
  if (check.failed) return arena;
  const int64_t n = elements(param);
  arena.count = elements(segments) / (int64_t)sizeof(lr_optim_segment);
  std::vector<lr_optim_segment> s((size_t)arena.count);
  if (arena.count) cudaMemcpyAsync(s.data(), segments.data, s.size() * sizeof(lr_optim_segment), cudaMemcpyDeviceToHost, stream());
  arena.error = wait_for_stream(op);
  if (arena.error.code != LR_OK) return arena;
  for (size_t i = 0; i < s.size() && !check.failed; i++) {
    check.require(s[i].begin >= 0 && s[i].begin <= s[i].end && s[i].end <= n && s[i].begin % 256 == 0,
                  "segment %lld is [%lld, %lld), which is no part of the arena of %lld elements that begins at a multiple of 256", (long long)i,
                  (long long)s[i].begin, (long long)s[i].end, (long long)n);
    check.require(i == 0 || s[i - 1].end <= s[i].begin, "segments %lld and %lld overlap or are out of order", (long long)i - 1, (long long)i);
    check.require(s[i].bits == 32 || s[i].bits == 8, "segment %lld has moments of %d bits; 32 and 8 exist", (long long)i, (int)s[i].bits);
    if (!check.failed && s[i].bits == 8) {
      check.require(false, "segment %lld asks for 8-bit moments, which this device does not compute yet; use 32 bits", (long long)i);
      check.error.code = LR_UNSUPPORTED;
    }
    if (s[i].end - s[i].begin > arena.longest) arena.longest = s[i].end - s[i].begin;
  }
  arena.error = check.error;
  return arena;
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

lr_error adamw(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor header, lr_tensor segments, double lr,
               double beta1, double beta2, double eps, double max_grad_norm) {
  const Arena arena = check_arena("adamw", param, grad, header, segments);
  if (arena.error.code != LR_OK) return arena.error;
  Check check("adamw");
  check.tensor("exp_avg", exp_avg, LR_F32, elements(param));
  check.tensor("exp_avg_sq", exp_avg_sq, LR_F32, elements(param));
  check.require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas must be in [0, 1) but are %g and %g", beta1, beta2);
  if (check.failed) return check.error;
  const AdamW a = {(float*)param.data, (float*)exp_avg.data, (float*)exp_avg_sq.data, (const float*)grad.data, lr, beta1, beta2, eps, max_grad_norm};
  lr_optim_header* state = (lr_optim_header*)header.data;
  LR_LAUNCH(adamw_kernel, arena.grid(), kThreads, 3 * sizeof(double), a, state, (const lr_optim_segment*)segments.data, arena.count);
  return finish("adamw");
}

lr_error sgd(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor momentum_buffer, lr_tensor header, lr_tensor segments, double lr, double momentum,
             double dampening, int32_t nesterov, double max_grad_norm) {
  const Arena arena = check_arena("sgd", param, grad, header, segments);
  if (arena.error.code != LR_OK) return arena.error;
  Check check("sgd");
  if (momentum != 0) check.tensor("momentum_buffer", momentum_buffer, LR_F32, elements(param));
  check.require(momentum >= 0, "momentum must not be negative but is %g", momentum);
  check.require(!nesterov || (momentum > 0 && dampening == 0), "nesterov needs a momentum and no dampening but they are %g and %g", momentum, dampening);
  if (check.failed) return check.error;
  const Sgd a = {(float*)param.data, momentum != 0 ? (float*)momentum_buffer.data : nullptr, (const float*)grad.data, lr, momentum, dampening, max_grad_norm,
                 nesterov};
  lr_optim_header* state = (lr_optim_header*)header.data;
  LR_LAUNCH(sgd_kernel, arena.grid(), kThreads, 0, a, state, (const lr_optim_segment*)segments.data, arena.count);
  return finish("sgd");
}

}  // namespace lr
