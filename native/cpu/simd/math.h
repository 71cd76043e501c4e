/* Elementary functions, the same bits rule on every machine of a variant: no libm. Included after an ISA header.
 * exp, exp2 (minimax polynomials, 1 at 0), log, tanh (Cephes'): f32 vectors, at most 2 ulp. sin_cos: double, about 1 ulp of double (fdlibm's kernels). */
#ifndef LOWRANK_CPU_SIMD_MATH_H
#define LOWRANK_CPU_SIMD_MATH_H
#include "vec.h"

namespace LR_ISA { namespace {

LR_INLINE VF exp(VF x) {
  const VF c = max(VF::set(-104.0f), min(VF::set(89.0f), x)); /* NaN passes: min and max give their second operand then */
  const VF n = round_product(c, VF::set(1.44269504088896341f));
  VF r = fma(n, VF::set(-0.693359375f), c); /* exact: 9 bits times at most 8 */
  r = fma(n, VF::set(2.12194440e-4f), r);
  VF p = VF::set(1.3843657216e-3f);
  p = fma(p, r, VF::set(8.3741564304e-3f));
  p = fma(p, r, VF::set(4.1668001562e-2f));
  p = fma(p, r, VF::set(1.6666431725e-1f));
  p = fma(p, r, VF::set(4.9999994040e-1f));
  p = fma(p, r, VF::set(1.0f));
  return times_power(fma(p, r, VF::set(1.0f)), n);
}

/* 2^x, within 2 ulp; 1 at 0, and 0 where the result would not be normal. */
LR_INLINE VF exp2(VF x) {
  VF n;
  const VF f = fraction(x, &n);
  VF p = VF::set(2.1612938144e-4f);
  p = fma(p, f, VF::set(1.2467839988e-3f));
  p = fma(p, f, VF::set(9.6754524857e-3f));
  p = fma(p, f, VF::set(5.5485282093e-2f));
  p = fma(p, f, VF::set(2.4022930861e-1f));
  p = fma(p, f, VF::set(6.9314706326e-1f));
  return power_of_fraction(fma(p, f, VF::set(1.0f)), n, x);
}

/* Natural logarithm of x > 0, normal or subnormal; 0 gives -inf, negative values NaN. */
LR_INLINE VF log(VF x) {
  const VF one = VF::set(1.0f), tiny = VF::set(1.17549435e-38f), inf = VF::set(__builtin_inff());
  VI subnormal = x < tiny;
  VF s = select(subnormal, x * VF::set(8388608.0f), x);
  VI u = bits(s) - VI::set(0x3f3504f3); /* sqrt(1/2) */
  VI e = u >> 23;
  VF m = from_bits((u & VI::set(0x7fffff)) + VI::set(0x3f3504f3));
  VF n = to_float(e) - select(subnormal, VF::set(23.0f), VF::zero());
  VF f = m - one, z = f * f;
  VF p = VF::set(7.0376836292e-2f);
  p = fma(p, f, VF::set(-1.1514610310e-1f));
  p = fma(p, f, VF::set(1.1676998740e-1f));
  p = fma(p, f, VF::set(-1.2420140846e-1f));
  p = fma(p, f, VF::set(1.4249322787e-1f));
  p = fma(p, f, VF::set(-1.6668057665e-1f));
  p = fma(p, f, VF::set(2.0000714765e-1f));
  p = fma(p, f, VF::set(-2.4999993993e-1f));
  p = fma(p, f, VF::set(3.3333331174e-1f));
  VF y = p * f * z;
  y = fma(n, VF::set(-2.12194440e-4f), y);
  y = fma(z, VF::set(-0.5f), y);
  VF r = fma(n, VF::set(0.693359375f), f + y);
  r = select(x < inf, r, x);                                  /* inf and NaN */
  r = select(x == VF::zero(), -inf, r);
  return select(x < VF::zero(), VF::set(__builtin_nanf("")), r);
}

LR_INLINE VF tanh(VF x) {
  VF a = abs(x), z = x * x;
  VF p = VF::set(-5.70498872745e-3f);
  p = fma(p, z, VF::set(2.06390887954e-2f));
  p = fma(p, z, VF::set(-5.37397155531e-2f));
  p = fma(p, z, VF::set(1.33314422036e-1f));
  p = fma(p, z, VF::set(-3.33332819422e-1f));
  VF small = fma(p * z, x, x);
  VF large = VF::set(1.0f) - VF::set(2.0f) / (exp(a + a) + VF::set(1.0f));
  large = from_bits(bits(large) | (bits(x) & VI::set((int32_t)0x80000000u)));
  return select(a < VF::set(0.625f), small, large);
}

LR_INLINE VF sigmoid(VF x) { return VF::set(1.0f) / (VF::set(1.0f) + exp(-x)); }

/* Of one value. Not overloads: a double would silently become a float. */
LR_INLINE float log_scalar(float x) { return log(VF::set(x))[0]; }
LR_INLINE float exp_scalar(float x) { return exp(VF::set(x))[0]; }
LR_INLINE float exp2_scalar(float x) { return exp2(VF::set(x))[0]; }

/* base^exponent for a finite base >= 1 and |exponent| <= 100 or so, in double: exp(exponent * log(base)) by series, a few ulp. */
LR_INLINE double power_f64(double base, double exponent) {
  int64_t word;
  __builtin_memcpy(&word, &base, sizeof word);
  const int64_t reduced = word - 0x3fe6a09e667f3bcd; /* sqrt(1/2) */
  const int64_t e = reduced >> 52, mantissa = (reduced & 0xfffffffffffff) + 0x3fe6a09e667f3bcd;
  double m;
  __builtin_memcpy(&m, &mantissa, sizeof m);
  const double s = (m - 1.0) / (m + 1.0), z = s * s; /* log m = 2 atanh s, |s| < 0.172 */
  double series = 0.0;
  for (int k = 23; k >= 1; k -= 2) series = series * z + 1.0 / k;
  const double x = exponent * ((double)e * 0.693147180559945309 + 2.0 * s * series);
  const int64_t n = (int64_t)(x * 1.44269504088896341 + (x < 0 ? -0.5 : 0.5));
  const double r = x - (double)n * 0.693147180559945309;
  double y = 1.0;
  for (int k = 14; k >= 1; k--) y = 1.0 + y * r / k;
  const int64_t scale = (1023 + (n < -1022 ? -1022 : n > 1023 ? 1023 : n)) << 52;
  double two_n;
  __builtin_memcpy(&two_n, &scale, sizeof two_n);
  return y * two_n;
}

/* Sine and cosine of x (radians, |x| < 2^30, otherwise NaN): Cody-Waite in three parts of pi/2, whose products with the quotient are exact. */
LR_INLINE void sin_cos(double angle, double* sine, double* cosine) {
  const bool reducible = angle > -0x1p30 && angle < 0x1p30;
  const double x = reducible ? angle : 0.0, nan = __builtin_nan("");
  double q = x * 0.63661977236758134308;
  int64_t n = (int64_t)(q < 0 ? q - 0.5 : q + 0.5);
  double d = (double)n;
  double r = x - d * 1.57079632673412561417e+00; /* 33 bits each */
  r = r - d * 6.07710050630396597660e-11;
  r = r - d * 2.02226624879595063154e-21;
  double z = r * r;
  double s = r + r * z * (-1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 + z * (-1.98412698298579493134e-04 +
             z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))));
  double c = 1.0 - 0.5 * z + z * z * (4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * (2.48015872894767294178e-05 +
             z * (-2.75573143513906633035e-07 + z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
  double a = n & 1 ? c : s, b = n & 1 ? s : c;
  *sine = !reducible ? nan : n & 2 ? -a : a;
  *cosine = !reducible ? nan : (n + 1) & 2 ? -b : b;
}

}}  // namespace LR_ISA
#endif
