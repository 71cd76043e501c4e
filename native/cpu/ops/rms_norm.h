/* RMSNorm over the last dimension (Zhang & Sennrich 2019), with an addition behind it.
 *   rstd = 1 / sqrt(mean(x²) + eps), y = x * rstd * (unit_offset + weight) + residual
 * Backward, with xhat = x * rstd and g = dy * (unit_offset + weight):
 *   dx = rstd * (g - xhat * mean(g * xhat)) + residual,   dweight += Σ_rows dy * xhat */
#ifndef LOWRANK_CPU_OPS_RMS_NORM_H
#define LOWRANK_CPU_OPS_RMS_NORM_H
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* The lanes of what add(i, lanes, sum) makes of sums over a row of d, which are two, in turns, so that they wait less for each other. */
template <typename Add> LR_INLINE float row_sum(int64_t d, const Add& add) {
  VF even = VF::zero(), odd = VF::zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= d; i += 2 * kLanes) {
    even = add(i, kLanes, even);
    odd = add(i + kLanes, kLanes, odd);
  }
  if (i < d) even = add(i, min64(kLanes, d - i), even);
  if (i + kLanes < d) odd = add(i + kLanes, d - i - kLanes, odd);
  return sum(even + odd);
}

lr_error rms_norm(lr_queue* queue, lr_tensor y, lr_tensor rstd, lr_tensor x, lr_tensor residual, lr_tensor weight, float eps, int32_t unit_offset) {
  Check check("rms_norm");
  check.tensor("x", x, LR_F32);
  check.require(x.rank >= 1, "x must have at least 1 dimension");
  if (check.failed) return check.error;
  const int64_t n = elements(x), d = x.shape[x.rank - 1], rows = d > 0 ? n / d : 0;
  check.tensor("weight", weight, LR_F32, d);
  check.tensor("y", y, LR_F32, n);
  check.optional("residual", residual, LR_F32, n);
  check.optional("rstd", rstd, LR_F32, rows);
  if (check.failed || n == 0) return check.error;
  const float* w = (const float*)weight.data;
  const VF offset = VF::set(unit_offset ? 1.0f : 0.0f);
  parallel_ranges(queue, rows, [&](int64_t begin, int64_t end) {
    const FarStores out(n, y.data == x.data || y.data == residual.data);
    for (int64_t r = begin; r < end; r++) {
      const float* px = (const float*)x.data + r * d;
      const float* pr = residual.data ? (const float*)residual.data + r * d : nullptr;
      float* py = (float*)y.data + r * d;
      const float squares = row_sum(d, [&](int64_t i, int64_t lanes, VF sum) {
        const VF s = load_lanes(px + i, lanes);
        return fma(s, s, sum);
      });
      const float scale = 1.0f / __builtin_sqrtf(squares / (float)d + eps);
      if (rstd.data) ((float*)rstd.data)[r] = scale;
      const VF factor = VF::set(scale);
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        VF result = load_lanes(px + i, lanes) * factor * (offset + load_lanes(w + i, lanes));
        if (pr) result = result + load_lanes(pr + i, lanes);
        __builtin_prefetch(px + d + i); /* the next row: else memory would rest meanwhile */
        out.store(result, py + i, lanes);
      });
    }
  }, max64(1, kRange / d));
  return success();
}

/* In a row this short g - xhat * mean(g * xhat) may cancel down to what eps leaves (all of it when d is 1), so it is formed in double. */
constexpr int64_t kShortRow = 4;

void short_row_grad(float* dx, const float* dy, const float* x, const float* residual, const float* weight, int64_t d, float eps, float unit_offset) {
  double squares = 0, products = 0;
  for (int64_t i = 0; i < d; i++) {
    squares += (double)x[i] * x[i];
    products += (double)dy[i] * (unit_offset + weight[i]) * x[i];
  }
  const double inverse = 1.0 / (squares / (double)d + eps), factor = __builtin_sqrt(inverse), mean = products / (double)d;
  for (int64_t i = 0; i < d; i++) {
    dx[i] = (float)(factor * ((double)dy[i] * (unit_offset + weight[i]) - x[i] * inverse * mean) + (residual ? residual[i] : 0.0f));
  }
}

/* The rows of one part, whose share of dweight is summed by itself; parts are then added in order. */
constexpr int64_t kNormParts = 32;

lr_error rms_norm_grad(lr_queue* queue, lr_tensor dx, lr_tensor dweight, lr_tensor dy, lr_tensor residual, lr_tensor x, lr_tensor rstd,
                       lr_tensor weight, float eps, int32_t unit_offset) {
  Check check("rms_norm_grad");
  check.tensor("x", x, LR_F32);
  check.require(x.rank >= 1, "x must have at least 1 dimension");
  if (check.failed) return check.error;
  const int64_t n = elements(x), d = x.shape[x.rank - 1], rows = d > 0 ? n / d : 0;
  check.tensor("weight", weight, LR_F32, d);
  check.tensor("dy", dy, LR_F32, n);
  check.tensor("rstd", rstd, LR_F32, rows);
  check.optional("dx", dx, LR_F32, n);
  check.optional("residual", residual, LR_F32, n);
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
    const FarStores to(n, dx.data == dy.data || dx.data == x.data || dx.data == residual.data);
    if (pw) memset(pw, 0, (size_t)d * sizeof(float));
    for (int64_t r = part * part_rows; r < min64(rows, (part + 1) * part_rows); r++) {
      const float *pg = (const float*)dy.data + r * d, *px = (const float*)x.data + r * d;
      const float scale = ((const float*)rstd.data)[r];
      const VF factor = VF::set(scale);
      const float products = row_sum(d, [&](int64_t i, int64_t lanes, VF sum) {
        const VF xhat = load_lanes(px + i, lanes) * factor, g = load_lanes(pg + i, lanes);
        if (pw) store_lanes(fma(g, xhat, load_lanes(pw + i, lanes)), pw + i, lanes);
        return fma(g * (offset + load_lanes(w + i, lanes)), xhat, sum);
      });
      if (!dx.data) continue;
      float* out = (float*)dx.data + r * d;
      const float* pr = residual.data ? (const float*)residual.data + r * d : nullptr;
      if (d <= kShortRow) {
        short_row_grad(out, pg, px, pr, w, d, eps, unit_offset ? 1.0f : 0.0f);
        continue;
      }
      const VF mean = VF::set(products / (float)d);
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        const VF xhat = load_lanes(px + i, lanes) * factor;
        const VF g = load_lanes(pg + i, lanes) * (offset + load_lanes(w + i, lanes));
        VF result = factor * (g - xhat * mean);
        if (pr) result = result + load_lanes(pr + i, lanes);
        to.store(result, out + i, lanes);
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
