/* RMSNorm over the last dimension (Zhang & Sennrich 2019), with the residual addition before it.
 *   sum = x + residual, rstd = 1 / sqrt(mean(sum²) + eps), y = sum * rstd * (unit_offset + weight)
 * Backward, with xhat = sum * rstd and g = dy * (unit_offset + weight):
 *   dx = rstd * (g - xhat * mean(g * xhat)) + dsum,   dweight += Σ_rows dy * xhat */
#ifndef LOWRANK_CPU_OPS_RMS_NORM_H
#define LOWRANK_CPU_OPS_RMS_NORM_H
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

lr_error rms_norm(lr_queue* queue, lr_tensor y, lr_tensor sum_out, lr_tensor rstd, lr_tensor x, lr_tensor residual, lr_tensor weight, float eps,
                  int32_t unit_offset) {
  Check check("rms_norm");
  check.tensor("x", x, LR_F32);
  check.require(x.rank >= 1, "x must have at least 1 dimension");
  if (check.failed) return check.error;
  const int64_t n = elements(x), d = x.shape[x.rank - 1], rows = d > 0 ? n / d : 0;
  check.tensor("weight", weight, LR_F32, d);
  check.tensor("y", y, LR_F32, n);
  check.optional("residual", residual, LR_F32, n);
  check.optional("sum", sum_out, LR_F32, n);
  check.optional("rstd", rstd, LR_F32, rows);
  if (check.failed || n == 0) return check.error;
  const float* w = (const float*)weight.data;
  const VF offset = VF::set(unit_offset ? 1.0f : 0.0f);
  parallel_ranges(queue, rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* px = (const float*)x.data + r * d;
      const float* pr = residual.data ? (const float*)residual.data + r * d : nullptr;
      float* py = (float*)y.data + r * d;
      float* ps = sum_out.data ? (float*)sum_out.data + r * d : py; /* y holds the sum until the row's norm is known */
      VF squares[2] = {VF::zero(), VF::zero()};
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        VF s = load_lanes(px + i, lanes);
        if (pr) s = s + load_lanes(pr + i, lanes);
        store_lanes(s, ps + i, lanes);
        const int which = (int)(i / kLanes) & 1;
        squares[which] = fma(s, s, squares[which]);
      });
      const float scale = 1.0f / __builtin_sqrtf(sum(squares[0] + squares[1]) / (float)d + eps);
      if (rstd.data) ((float*)rstd.data)[r] = scale;
      const VF factor = VF::set(scale);
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        store_lanes(load_lanes(ps + i, lanes) * factor * (offset + load_lanes(w + i, lanes)), py + i, lanes);
      });
    }
  }, max64(1, kRange / d));
  return success();
}

/* In a row this short g - xhat * mean(g * xhat) may cancel down to what eps leaves (all of it when d is 1), so it is formed in double. */
constexpr int64_t kShortRow = 4;

void short_row_grad(float* dx, const float* dy, const float* sum_in, const float* dsum, const float* weight, int64_t d, float eps,
                           float unit_offset, int32_t accumulate) {
  double squares = 0, products = 0;
  for (int64_t i = 0; i < d; i++) {
    squares += (double)sum_in[i] * sum_in[i];
    products += (double)dy[i] * (unit_offset + weight[i]) * sum_in[i];
  }
  const double inverse = 1.0 / (squares / (double)d + eps), factor = __builtin_sqrt(inverse), mean = products / (double)d;
  for (int64_t i = 0; i < d; i++) {
    const double result = factor * ((double)dy[i] * (unit_offset + weight[i]) - sum_in[i] * inverse * mean) + (dsum ? dsum[i] : 0.0f);
    dx[i] = (float)(accumulate ? dx[i] + result : result);
  }
}

/* The rows of one part, whose share of dweight is summed by itself; parts are then added in order. */
constexpr int64_t kNormParts = 32;

lr_error rms_norm_grad(lr_queue* queue, lr_tensor dx, lr_tensor dweight, lr_tensor dy, lr_tensor dsum, lr_tensor sum_in, lr_tensor rstd,
                       lr_tensor weight, float eps, int32_t unit_offset, int32_t accumulate) {
  Check check("rms_norm_grad");
  check.tensor("sum", sum_in, LR_F32);
  check.require(sum_in.rank >= 1, "sum must have at least 1 dimension");
  if (check.failed) return check.error;
  const int64_t n = elements(sum_in), d = sum_in.shape[sum_in.rank - 1], rows = d > 0 ? n / d : 0;
  check.tensor("weight", weight, LR_F32, d);
  check.tensor("dy", dy, LR_F32, n);
  check.tensor("rstd", rstd, LR_F32, rows);
  check.optional("dx", dx, LR_F32, n);
  check.optional("dsum", dsum, LR_F32, n);
  check.optional("dweight", dweight, LR_F32, d);
  if (check.failed) return check.error;
  const int64_t part_rows = max64(1, ceil_div(rows, kNormParts)), parts = ceil_div(rows, part_rows);
  Scratch scratch(queue);
  float* partial = dweight.data ? scratch.take<float>(parts * d) : nullptr;
  if (scratch.sizing() || n == 0) return success();
  const float* w = (const float*)weight.data;
  const VF offset = VF::set(unit_offset ? 1.0f : 0.0f);
  parallel_for(queue, parts, [&](int64_t part, int32_t) {
    float* pw = partial ? partial + part * d : nullptr;
    if (pw) memset(pw, 0, (size_t)d * sizeof(float));
    for (int64_t r = part * part_rows; r < min64(rows, (part + 1) * part_rows); r++) {
      const float *pg = (const float*)dy.data + r * d, *ps = (const float*)sum_in.data + r * d;
      const float scale = ((const float*)rstd.data)[r];
      const VF factor = VF::set(scale);
      VF products[2] = {VF::zero(), VF::zero()};
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        const VF xhat = load_lanes(ps + i, lanes) * factor, g = load_lanes(pg + i, lanes);
        const int which = (int)(i / kLanes) & 1;
        products[which] = fma(g * (offset + load_lanes(w + i, lanes)), xhat, products[which]);
        if (pw) store_lanes(fma(g, xhat, load_lanes(pw + i, lanes)), pw + i, lanes);
      });
      if (!dx.data) continue;
      float* px = (float*)dx.data + r * d;
      const float* pd = dsum.data ? (const float*)dsum.data + r * d : nullptr;
      if (d <= kShortRow) {
        short_row_grad(px, pg, ps, pd, w, d, eps, unit_offset ? 1.0f : 0.0f, accumulate);
        continue;
      }
      const VF mean = VF::set(sum(products[0] + products[1]) / (float)d);
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        const VF xhat = load_lanes(ps + i, lanes) * factor;
        const VF g = load_lanes(pg + i, lanes) * (offset + load_lanes(w + i, lanes));
        VF result = factor * (g - xhat * mean);
        if (pd) result = result + load_lanes(pd + i, lanes);
        if (accumulate) result = result + load_lanes(px + i, lanes);
        store_lanes(result, px + i, lanes);
      });
    }
  });
  if (!partial) return success();
  float* out = (float*)dweight.data;
  for (int64_t part = 0; part < parts; part++)
    for_vectors(0, d, [&](int64_t i, int64_t lanes) {
      store_lanes(load_lanes(out + i, lanes) + load_lanes(partial + part * d + i, lanes), out + i, lanes);
    });
  return success();
}

}}  // namespace LR_ISA
#endif
