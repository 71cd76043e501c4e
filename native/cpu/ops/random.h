/* random: element e takes word e % 4 of philox4x32-10(key, counter = e / 4). Uniform: a + (b - a) * (the word's upper 24 bits) / 2^24.
 * Normal: Box-Muller on the words (0, 1) and (2, 3), in float64 without fused operations, so every variant gives the same bits. */
#ifndef LOWRANK_CPU_OPS_RANDOM_H
#define LOWRANK_CPU_OPS_RANDOM_H
#include "../simd/math.h"
#include "../simd/philox.h"
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* Natural logarithm of a normal double (fdlibm's e_log.c, below 1 ulp). */
LR_INLINE double log_f64(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  const uint64_t shifted = u - 0x3fe6a09e667f3bcdull; /* sqrt(1/2) */
  const int64_t exponent = (int64_t)shifted >> 52;
  u -= (uint64_t)exponent << 52;
  double m;
  memcpy(&m, &u, 8);
  const double f = m - 1.0, s = f / (2.0 + f), z = s * s, half = 0.5 * f * f, e = (double)exponent;
  const double r = z * (6.666666666666735130e-01 + z * (3.999999999940941908e-01 + z * (2.857142874366239149e-01 +
                   z * (2.222219843214978396e-01 + z * (1.818357216161805012e-01 + z * (1.531383769920937332e-01 +
                   z * 1.479819860511658591e-01))))));
  return e * 6.93147180369123816490e-01 - ((half - (s * (half + r) + e * 1.90821492927058770002e-10)) - f);
}

LR_INLINE void normal_pair(uint32_t first, uint32_t second, double* z0, double* z1) {
  const double radius = __builtin_sqrt(-2.0 * log_f64(((double)first + 0.5) * 0x1p-32));
  double sine, cosine;
  sin_cos((double)second * (6.283185307179586476925 * 0x1p-32), &sine, &cosine);
  *z0 = radius * cosine;
  *z1 = radius * sine;
}

lr_error random(lr_queue* queue, lr_tensor y, int32_t normal, float a, float b, uint64_t key) {
  Check check("random");
  check.tensor("y", y, LR_F32);
  check.require(a == a && b == b, "the parameters must be numbers");
  check.require(normal || a <= b, "the uniform interval [%g, %g) is empty", (double)a, (double)b);
  if (check.failed) return check.error;
  float* out = (float*)y.data;
  parallel_ranges(queue, elements(y), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += 64) {
      uint32_t words[64];
      float values[64];
      philox(key, (uint64_t)at / 4, 16, words);
      if (normal) {
        for (int i = 0; i < 64; i += 2) {
          double z0, z1;
          normal_pair(words[i], words[i + 1], &z0, &z1);
          values[i] = (float)((double)a + (double)b * z0);
          values[i + 1] = (float)((double)a + (double)b * z1);
        }
      } else {
        for (int i = 0; i < 64; i++) {
          const float v = a + (b - a) * ((float)(words[i] >> 8) * 0x1p-24f);
          values[i] = v < b ? v : a; /* the sum may round up to b */
        }
      }
      memcpy(out + at, values, (size_t)min64(64, end - at) * sizeof(float));
    }
  });
  return success();
}

}}  // namespace LR_ISA
#endif
