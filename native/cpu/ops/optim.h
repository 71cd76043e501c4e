/* The optimizer over the parameter arena. grad_stats decides on the device whether the step is finite; adamw (Loshchilov & Hutter
 * 2019, as torch.optim.AdamW) reads that decision, clips and counts by itself. The bias corrections are float64. */
#ifndef LOWRANK_CPU_OPS_OPTIM_H
#define LOWRANK_CPU_OPS_OPTIM_H
#include "check.h"
#include "ranges.h"
#include "reduce.h"

namespace LR_ISA { namespace {

LR_INLINE bool is_finite(double x) { return x - x == 0.0; }

lr_error grad_stats(lr_queue* queue, lr_tensor header, lr_tensor grad, lr_tensor loss) {
  Check check("grad_stats");
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("grad", grad, LR_F32);
  check.optional("loss", loss, LR_F32);
  if (check.failed) return check.error;
  Scratch scratch(queue);
  if (scratch.sizing()) return success();
  lr_optim_header* state = (lr_optim_header*)header.data;
  const float* g = (const float*)grad.data;
  state->grad_norm_sq = dot_f64(queue, g, g, elements(grad));
  bool finite = is_finite(state->grad_norm_sq);
  if (present(loss))
    for (int64_t i = 0; i < elements(loss); i++) finite = finite && is_finite((double)((const float*)loss.data)[i]);
  state->finite = finite ? 1 : 0;
  return success();
}

/* base^n for n >= 1 by repeated squaring: no libm. */
LR_INLINE double power(double base, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2) result *= base;
  return result;
}

LR_INLINE lr_error check_segments(const lr_tensor& segments, int64_t n) {
  const lr_optim_segment* s = (const lr_optim_segment*)segments.data;
  const int64_t count = elements(segments) / (int64_t)sizeof(lr_optim_segment);
  Check check("adamw");
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
  return success();
}

lr_error adamw(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor header, lr_tensor segments,
               double lr, double beta1, double beta2, double eps, double max_grad_norm) {
  Check check("adamw");
  check.tensor("param", param, LR_F32);
  check.tensor("grad", grad, LR_F32, elements(param));
  check.tensor("exp_avg", exp_avg, LR_F32, elements(param));
  check.tensor("exp_avg_sq", exp_avg_sq, LR_F32, elements(param));
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("segments", segments, LR_U8);
  check.require(elements(segments) % (int64_t)sizeof(lr_optim_segment) == 0, "segments has %lld bytes, not a multiple of %d",
                (long long)elements(segments), (int)sizeof(lr_optim_segment));
  check.require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas must be in [0, 1) but are %g and %g", beta1, beta2);
  if (check.failed) return check.error;
  const int64_t n = elements(param), count = elements(segments) / (int64_t)sizeof(lr_optim_segment);
  const lr_error wrong = check_segments(segments, n);
  if (wrong.code != LR_OK) return wrong;

  lr_optim_header* state = (lr_optim_header*)header.data;
  if (!state->finite) {
    state->skipped++;
    state->consecutive++;
    return success();
  }
  const double step = (double)++state->step;
  state->consecutive = 0;
  const double correction1 = 1.0 - power(beta1, (int64_t)step), correction2 = 1.0 - power(beta2, (int64_t)step);
  const double norm = __builtin_sqrt(state->grad_norm_sq), ratio = max_grad_norm / (norm + 1e-6);
  const VF clip = VF::set(max_grad_norm > 0 && ratio < 1.0 ? (float)ratio : 1.0f);
  const VF weight1 = VF::set((float)(1.0 - beta1)), decay2 = VF::set((float)beta2), weight2 = VF::set((float)(1.0 - beta2));
  const VF root2 = VF::set((float)__builtin_sqrt(correction2)), epsilon = VF::set((float)eps);
  float *p = (float*)param.data, *m = (float*)exp_avg.data, *v = (float*)exp_avg_sq.data;
  const float* g = (const float*)grad.data;
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) {
    for (int64_t s = 0; s < count; s++) {
      const lr_optim_segment& segment = ((const lr_optim_segment*)segments.data)[s];
      const double rate = lr * (double)segment.lr_scale;
      const VF keep = VF::set((float)(1.0 - rate * (double)segment.weight_decay)), size = VF::set((float)(-rate / correction1));
      for_vectors(max64(begin, segment.begin), min64(end, segment.end), [&](int64_t i, int64_t lanes) {
        const VF gradient = load_lanes(g + i, lanes) * clip, old = load_lanes(m + i, lanes);
        const VF mean = fma(weight1, gradient - old, old);
        const VF square = fma(weight2 * gradient, gradient, decay2 * load_lanes(v + i, lanes));
        store_lanes(mean, m + i, lanes);
        store_lanes(square, v + i, lanes);
        store_lanes(fma(size, mean / (sqrt(square) / root2 + epsilon), load_lanes(p + i, lanes) * keep), p + i, lanes);
      });
    }
  });
  return success();
}

}}  // namespace LR_ISA
#endif
