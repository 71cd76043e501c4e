/* Sums in float64 over a partition into at most kParts parts that depends on the length alone. */
#ifndef LOWRANK_CPU_OPS_REDUCE_H
#define LOWRANK_CPU_OPS_REDUCE_H
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

constexpr int64_t kParts = 64;

/* Σ a b over n elements; b NULL counts as 1. */
LR_INLINE double dot_range(const float* a, const float* b, int64_t n) {
  VD sums[4] = {VD::zero(), VD::zero(), VD::zero(), VD::zero()};
  const VF one = VF::set(1.0f);
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (int h = 0; h < 2; h++) {
      const VF x = VF::load(a + i + h * kLanes), y = b ? VF::load(b + i + h * kLanes) : one;
      sums[2 * h] = fma(low_f64(x), low_f64(y), sums[2 * h]);
      sums[2 * h + 1] = fma(high_f64(x), high_f64(y), sums[2 * h + 1]);
    }
  }
  double total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; i++) total += (double)a[i] * (b ? (double)b[i] : 1.0);
  return total;
}

/* The sum of part(begin, end) over the partition of n elements. */
template <class Part> LR_INLINE double sum_parts(lr_queue* queue, int64_t n, const Part& part) {
  double parts[kParts];
  const int64_t range = max64(4096, round_up(ceil_div(n, kParts), 256)), count = ceil_div(n, range);
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) { parts[begin / range] = part(begin, end); }, range);
  double total = 0.0;
  for (int64_t i = 0; i < count; i++) total += parts[i];
  return total;
}

LR_INLINE double dot_f64(lr_queue* queue, const float* a, const float* b, int64_t n) {
  return sum_parts(queue, n, [&](int64_t begin, int64_t end) { return dot_range(a + begin, b ? b + begin : nullptr, end - begin); });
}

lr_error dot(lr_queue* queue, lr_tensor y, lr_tensor a, lr_tensor b, float scale, int32_t accumulate) {
  Check check("dot");
  check.tensor("a", a, LR_F32);
  check.optional("b", b, LR_F32, elements(a));
  check.tensor("y", y, LR_F32, 1);
  if (check.failed) return check.error;
  const double total = (double)scale * dot_f64(queue, (const float*)a.data, (const float*)b.data, elements(a));
  float* result = (float*)y.data;
  *result = (float)(accumulate ? (double)*result + total : total);
  return success();
}

}}  // namespace LR_ISA
#endif
