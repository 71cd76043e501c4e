/* The optimizers over the parameter arena. grad_stats decides on the device whether the step happens, and counts it; adamw (Loshchilov &
 * Hutter 2019, as torch.optim.AdamW; Adam), lion (Chen et al. 2023) and sgd (as torch.optim.SGD) read that and clip by themselves. */
#ifndef LOWRANK_CPU_OPS_OPTIM_H
#define LOWRANK_CPU_OPS_OPTIM_H
#include "moments.h"
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

LR_INLINE Segments check_arena_here(Check& check, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& header, const lr_tensor& segments) {
  check_arena(check, param, grad, header, segments);
  if (check.failed) return {};
  return check_segments(check, segments, (const lr_optim_segment*)segments.data, param);
}

LR_INLINE float clip_factor(const lr_optim_header* state, double max_grad_norm) {
  const double ratio = max_grad_norm / (__builtin_sqrt(state->grad_norm_sq) + 1e-6);
  return max_grad_norm > 0 && ratio < 1.0 ? (float)ratio : 1.0f;
}

lr_error adamw(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor state1, lr_tensor absmax1,
               lr_tensor state2, lr_tensor absmax2, lr_tensor qmaps, lr_tensor header, lr_tensor segments, double lr, double beta1, double beta2,
               double eps, double max_grad_norm, int32_t decoupled) {
  Check check("adamw");
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_adamw(check, all, exp_avg, exp_avg_sq, state1, absmax1, state2, absmax2, qmaps, beta1, beta2);
  if (check.failed) return check.error;

  const lr_optim_header* state = (const lr_optim_header*)header.data;
  if (!state->finite) return success();
  const double correction1 = 1.0 - power(beta1, state->step), correction2 = 1.0 - power(beta2, state->step);
  const VF clip = VF::set(clip_factor(state, max_grad_norm));
  /* The mean is reached from the nearer end, so that a small beta1 does not cancel: m + (1 - b) (g - m), or g - b (g - m). */
  const bool from_mean = beta1 > 0.5;
  const VF weight1 = VF::set((float)(from_mean ? 1.0 - beta1 : -beta1)), decay2 = VF::set((float)beta2), weight2 = VF::set((float)(1.0 - beta2));
  const VF root2 = VF::set((float)__builtin_sqrt(correction2)), epsilon = VF::set((float)eps);
  const float* maps = (const float*)qmaps.data;
  Moment moments[2];
  moments[0].set(exp_avg, state1, absmax1, maps);
  moments[1].set(exp_avg_sq, state2, absmax2, maps ? maps + 256 : nullptr);
  for_segments<2>(queue, param, grad, segments, moments, [&](const lr_optim_segment& segment) {
    const double rate = lr * (double)segment.lr_scale;
    const VF keep = VF::set(decoupled ? (float)(1.0 - rate * (double)segment.weight_decay) : 1.0f);
    const VF decay = VF::set(decoupled ? 0.0f : segment.weight_decay), size = VF::set((float)(-rate / correction1));
    return [=](VF p, VF g, VF* m, auto as_stored) {
      const VF clipped = as_stored(g * clip), gradient = decoupled ? clipped : as_stored(fma(decay, p, clipped));
      m[0] = as_stored(fma(weight1, gradient - m[0], from_mean ? m[0] : gradient));
      m[1] = as_stored(fma(weight2 * gradient, gradient, as_stored(decay2 * m[1])));
      return fma(size, m[0] / as_stored(as_stored(as_stored(sqrt(m[1])) / root2) + epsilon), as_stored(p * keep));
    };
  });
  return success();
}

lr_error lion(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor state1, lr_tensor absmax1, lr_tensor qmap,
              lr_tensor header, lr_tensor segments, double lr, double beta1, double beta2, double max_grad_norm) {
  Check check("lion");
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_lion(check, all, exp_avg, state1, absmax1, qmap, beta1, beta2);
  if (check.failed) return check.error;

  const lr_optim_header* state = (const lr_optim_header*)header.data;
  if (!state->finite) return success();
  const VF clip = VF::set(clip_factor(state, max_grad_norm)), zero = VF::zero();
  const VF old1 = VF::set((float)beta1), fresh1 = VF::set((float)(1.0 - beta1)), old2 = VF::set((float)beta2), fresh2 = VF::set((float)(1.0 - beta2));
  Moment moment;
  moment.set(exp_avg, state1, absmax1, (const float*)qmap.data);
  for_segments<1>(queue, param, grad, segments, &moment, [&](const lr_optim_segment& segment) {
    const double rate = lr * (double)segment.lr_scale;
    const VF keep = VF::set((float)(1.0 - rate * (double)segment.weight_decay)), up = VF::set((float)rate), down = VF::set((float)-rate);
    return [=](VF p, VF g, VF* m, auto) {
      const VF gradient = g * clip, direction = old1 * m[0] + fresh1 * gradient;
      m[0] = old2 * m[0] + fresh2 * gradient;
      return p * keep + select(zero < direction, down, select(direction < zero, up, zero));
    };
  });
  return success();
}

lr_error sgd(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor momentum_buffer, lr_tensor header, lr_tensor segments, double lr,
             double momentum, double dampening, int32_t nesterov, double max_grad_norm) {
  Check check("sgd");
  const bool moving = momentum != 0;
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_sgd(check, all, momentum_buffer, momentum, dampening, nesterov);
  if (check.failed) return check.error;

  const lr_optim_header* state = (const lr_optim_header*)header.data;
  if (!state->finite) return success();
  const bool first = state->step == 1;
  const VF clip = VF::set(clip_factor(state, max_grad_norm));
  const VF old = VF::set((float)momentum), fresh = VF::set((float)(1.0 - dampening));
  Moment buffer;
  buffer.set(momentum_buffer, lr_tensor(), lr_tensor(), nullptr);
  const auto rule_of = [&](const lr_optim_segment& segment) {
    const VF decay = VF::set(segment.weight_decay), size = VF::set((float)(-lr * (double)segment.lr_scale));
    return [=](VF p, VF g, VF* m, auto) {
      VF step = fma(decay, p, g * clip);
      if (moving) {
        m[0] = first ? step : fma(old, m[0], fresh * step);
        step = nesterov ? fma(old, m[0], step) : m[0];
      }
      return fma(size, step, p);
    };
  };
  if (moving) for_segments<1>(queue, param, grad, segments, &buffer, rule_of);
  else for_segments<0>(queue, param, grad, segments, &buffer, rule_of);
  return success();
}

}}  // namespace LR_ISA
#endif
