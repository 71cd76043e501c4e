/* The optimizers over the parameter arena. grad_stats decides on the device whether the step happens, and counts it; adamw (Loshchilov &
 * Hutter 2019, as torch.optim.AdamW) and sgd (as torch.optim.SGD) read that and clip by themselves. */
#ifndef LOWRANK_CPU_OPS_OPTIM_H
#define LOWRANK_CPU_OPS_OPTIM_H
#include "common.h"
#include "ranges.h"
#include "reduce.h"

namespace LR_ISA { namespace {

LR_INLINE bool is_finite(double x) { return x - x == 0.0; }

lr_error grad_stats(lr_queue* queue, lr_tensor header, lr_tensor grad, lr_tensor loss) {
  Check check("grad_stats");
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("grad", grad, LR_F32);
  check.optional("loss", loss, LR_F32);
  check.aligned("header", header);
  if (check.failed) return check.error;
  Scratch scratch(queue);
  if (scratch.sizing()) return success();
  lr_optim_header* state = (lr_optim_header*)header.data;
  constexpr int64_t most = (int64_t)1 << 53;
  check.require(state->step >= 0 && state->step < most && state->skipped >= 0 && state->skipped < most && state->consecutive >= 0 && state->consecutive < INT32_MAX,
                "the header's counts of steps are no counts");
  if (check.failed) return check.error;
  const float* g = (const float*)grad.data;
  state->grad_norm_sq = dot_f64(queue, g, g, elements(grad));
  bool finite = is_finite(state->grad_norm_sq);
  if (present(loss))
    for (int64_t i = 0; i < elements(loss); i++) finite = finite && is_finite((double)((const float*)loss.data)[i]);
  state->finite = finite ? 1 : 0;
  state->step += finite;
  state->skipped += !finite;
  state->consecutive = finite ? 0 : state->consecutive + 1;
  return success();
}

/* base^n for n >= 1 by repeated squaring: no libm. */
LR_INLINE double power(double base, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2) result *= base;
  return result;
}

/* What every optimizer takes: the arena, its header, its segments. */
LR_INLINE lr_error check_arena(const char* op, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& header, const lr_tensor& segments) {
  Check check(op);
  check.tensor("param", param, LR_F32);
  check.tensor("grad", grad, LR_F32, elements(param));
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("segments", segments, LR_U8);
  check.aligned("header", header);
  check.aligned("segments", segments);
  check.apart("segments", segments, "header", header);
  check.apart("segments", segments, "param", param);
  check.require(elements(segments) % (int64_t)sizeof(lr_optim_segment) == 0, "segments has %lld bytes, not a multiple of %d",
                (long long)elements(segments), (int)sizeof(lr_optim_segment));
  if (check.failed) return check.error;
  const lr_optim_segment* s = (const lr_optim_segment*)segments.data;
  const int64_t n = elements(param), count = elements(segments) / (int64_t)sizeof(lr_optim_segment);
  for (int64_t i = 0; i < count; i++) {
    check.require(s[i].begin >= 0 && s[i].begin <= s[i].end && s[i].end <= n && s[i].begin % 256 == 0,
                  "segment %lld is [%lld, %lld), which is no part of the arena of %lld elements that begins at a multiple of 256", (long long)i,
                  (long long)s[i].begin, (long long)s[i].end, (long long)n);
    check.require(i == 0 || s[i - 1].end <= s[i].begin, "segments %lld and %lld overlap or are out of order", (long long)(i - 1), (long long)i);
    check.require(s[i].bits == 32 || s[i].bits == 8, "segment %lld has moments of %d bits; 32 and 8 exist", (long long)i, (int)s[i].bits);
    if (check.failed) return check.error;
    if (s[i].bits == 8) {
      check.require(false, "segment %lld asks for 8-bit moments, which the CPU does not compute yet; use 32 bits", (long long)i);
      check.error.code = LR_UNSUPPORTED;
      return check.error;
    }
  }
  return check.error;
}

LR_INLINE float clip_factor(const lr_optim_header* state, double max_grad_norm) {
  const double ratio = max_grad_norm / (__builtin_sqrt(state->grad_norm_sq) + 1e-6);
  return max_grad_norm > 0 && ratio < 1.0 ? (float)ratio : 1.0f;
}

/* body(segment) returns update(i, lanes), which is called for all elements of the segment. */
template <class Body>
LR_INLINE void for_segments(lr_queue* queue, int64_t n, const lr_tensor& segments, Body body) {
  const int64_t count = elements(segments) / (int64_t)sizeof(lr_optim_segment);
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) {
    for (int64_t s = 0; s < count; s++) {
      const lr_optim_segment& segment = ((const lr_optim_segment*)segments.data)[s];
      for_vectors(max64(begin, segment.begin), min64(end, segment.end), body(segment));
    }
  });
}

lr_error adamw(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor header, lr_tensor segments,
               double lr, double beta1, double beta2, double eps, double max_grad_norm) {
  const lr_error wrong = check_arena("adamw", param, grad, header, segments);
  if (wrong.code != LR_OK) return wrong;
  const int64_t n = elements(param);
  Check check("adamw");
  check.tensor("exp_avg", exp_avg, LR_F32, n);
  check.tensor("exp_avg_sq", exp_avg_sq, LR_F32, n);
  check.apart("segments", segments, "exp_avg", exp_avg);
  check.apart("segments", segments, "exp_avg_sq", exp_avg_sq);
  check.require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas must be in [0, 1) but are %g and %g", beta1, beta2);
  if (check.failed) return check.error;

  const lr_optim_header* state = (const lr_optim_header*)header.data;
  if (!state->finite) return success();
  const double correction1 = 1.0 - power(beta1, state->step), correction2 = 1.0 - power(beta2, state->step);
  const VF clip = VF::set(clip_factor(state, max_grad_norm));
  /* The mean is reached from the nearer end, so that a small beta1 does not cancel: m + (1 - b) (g - m), or g - b (g - m). */
  const bool from_mean = beta1 > 0.5;
  const VF weight1 = VF::set((float)(from_mean ? 1.0 - beta1 : -beta1)), decay2 = VF::set((float)beta2), weight2 = VF::set((float)(1.0 - beta2));
  const VF root2 = VF::set((float)__builtin_sqrt(correction2)), epsilon = VF::set((float)eps);
  float *p = (float*)param.data, *m = (float*)exp_avg.data, *v = (float*)exp_avg_sq.data;
  const float* g = (const float*)grad.data;
  for_segments(queue, n, segments, [&](const lr_optim_segment& segment) {
    const double rate = lr * (double)segment.lr_scale;
    const VF keep = VF::set((float)(1.0 - rate * (double)segment.weight_decay)), size = VF::set((float)(-rate / correction1));
    return [=](int64_t i, int64_t lanes) {
      const VF gradient = load_lanes(g + i, lanes) * clip, old = load_lanes(m + i, lanes);
      const VF mean = fma(weight1, gradient - old, from_mean ? old : gradient);
      const VF square = fma(weight2 * gradient, gradient, decay2 * load_lanes(v + i, lanes));
      store_lanes(mean, m + i, lanes);
      store_lanes(square, v + i, lanes);
      store_lanes(fma(size, mean / (sqrt(square) / root2 + epsilon), load_lanes(p + i, lanes) * keep), p + i, lanes);
    };
  });
  return success();
}

lr_error sgd(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor momentum_buffer, lr_tensor header, lr_tensor segments, double lr,
             double momentum, double dampening, int32_t nesterov, double max_grad_norm) {
  const lr_error wrong = check_arena("sgd", param, grad, header, segments);
  if (wrong.code != LR_OK) return wrong;
  const int64_t n = elements(param);
  Check check("sgd");
  if (momentum != 0) check.tensor("momentum_buffer", momentum_buffer, LR_F32, n);
  check.apart("segments", segments, "momentum_buffer", momentum_buffer);
  check.require(momentum >= 0, "momentum must not be negative but is %g", momentum);
  check.require(!nesterov || (momentum > 0 && dampening == 0), "nesterov needs a momentum and no dampening but they are %g and %g", momentum, dampening);
  if (check.failed) return check.error;

  const lr_optim_header* state = (const lr_optim_header*)header.data;
  if (!state->finite) return success();
  const bool first = state->step == 1, moving = momentum != 0;
  const VF clip = VF::set(clip_factor(state, max_grad_norm));
  const VF old = VF::set((float)momentum), fresh = VF::set((float)(1.0 - dampening));
  float *p = (float*)param.data, *b = (float*)momentum_buffer.data;
  const float* g = (const float*)grad.data;
  for_segments(queue, n, segments, [&](const lr_optim_segment& segment) {
    const VF decay = VF::set(segment.weight_decay), size = VF::set((float)(-lr * (double)segment.lr_scale));
    return [=](int64_t i, int64_t lanes) {
      const VF value = load_lanes(p + i, lanes);
      VF step = fma(decay, value, load_lanes(g + i, lanes) * clip);
      if (moving) {
        const VF buffer = first ? step : fma(old, load_lanes(b + i, lanes), fresh * step);
        store_lanes(buffer, b + i, lanes);
        step = nesterov ? fma(old, buffer, step) : buffer;
      }
      store_lanes(fma(size, step, value), p + i, lanes);
    };
  });
  return success();
}

}}  // namespace LR_ISA
#endif
