#include <algorithm>
#include <cmath>

#include "fake.h"

#define LR_ISA lr_math_test
#include "../cpu/simd/scalar.h"

#include "../cpu/simd/math.h"

namespace lr::test {
namespace {

float exp_of(float x) { return lr_math_test::exp_scalar(x); }
float exp2_of(float x) { return lr_math_test::exp2_scalar(x); }

// Distance from float64's in units of the last place of the nearest float32.
double ulps_from(double exact, float value) {
  const float nearest = static_cast<float>(exact);
  return std::fabs(value - exact) / (std::nextafter(nearest, INFINITY) - nearest);
}
double ulps(float x) { return ulps_from(std::exp(static_cast<double>(x)), exp_of(x)); }

TEST(Exp, IsWithin13TenthsOfAnUlpOfFloat64WhereTheResultIsNormal) {
  double worst = 0;
  for (float x = -87.0f; x < 88.7f; x += 1.0f / 4096) worst = std::max(worst, ulps(x + x * 1e-5f));
  for (float x = 1e-8f; x < 1.0f; x *= 1.001f) worst = std::max({worst, ulps(x), ulps(-x)});
  EXPECT_LT(worst, 1.31);
  EXPECT_GT(worst, 0.5);  // it has looked
}

TEST(Exp, TakesAllFloats) {
  EXPECT_EQ(exp_of(0.0f), 1.0f);
  EXPECT_EQ(exp_of(-0.0f), 1.0f);
  EXPECT_EQ(exp_of(INFINITY), INFINITY);
  EXPECT_EQ(exp_of(89.0f), INFINITY);
  EXPECT_EQ(exp_of(-INFINITY), 0.0f);
  EXPECT_EQ(exp_of(-104.0f), 0.0f);
  EXPECT_NEAR(exp_of(-100.0f) / 1.401298464e-45f, std::exp(-100.0) / 1.401298464e-45, 0.51);
  EXPECT_TRUE(std::isnan(exp_of(NAN)));
}

TEST(Exp2, IsWithin2UlpOfFloat64WhereTheResultIsNormal) {
  double worst = 0;
  for (float x = -126.0f; x < 127.9f; x += 1.0f / 4096) {
    const float odd = x + x * 1e-5f;
    worst = std::max({worst, ulps_from(std::exp2(x), exp2_of(x)), odd > -126.0f ? ulps_from(std::exp2(odd), exp2_of(odd)) : 0});
  }
  for (float x = 1e-8f; x < 1.0f; x *= 1.001f)
    for (float each : {x, -x}) worst = std::max(worst, ulps_from(std::exp2(each), exp2_of(each)));
  EXPECT_LE(worst, 2.0);
  EXPECT_GT(worst, 0.5);  // it has looked
}

TEST(Exp2, TakesAllFloats) {
  EXPECT_EQ(exp2_of(0.0f), 1.0f);
  EXPECT_EQ(exp2_of(-0.0f), 1.0f);
  EXPECT_EQ(exp2_of(3.0f), 8.0f);
  EXPECT_EQ(exp2_of(INFINITY), INFINITY);
  EXPECT_EQ(exp2_of(1e30f), INFINITY);
  EXPECT_EQ(exp2_of(-INFINITY), 0.0f);
  EXPECT_EQ(exp2_of(-1e30f), 0.0f);
  EXPECT_EQ(exp2_of(-126.0f), 0x1p-126f);
  EXPECT_EQ(exp2_of(std::nextafter(-126.0f, -INFINITY)), 0.0f) << "not normal";
  EXPECT_EQ(exp2_of(-140.25f), 0.0f);
  EXPECT_TRUE(std::isnan(exp2_of(NAN)));
}

}  // namespace
}  // namespace lr::test
