/* bf16 and f16 to and from f32, one value at a time; ISA headers add vector forms. All conversions round to nearest even. */
#ifndef LOWRANK_CPU_SIMD_HALF_H
#define LOWRANK_CPU_SIMD_HALF_H
#include "vec.h"

namespace LR_ISA { namespace {

LR_INLINE uint32_t f32_bits(float x) { uint32_t u; __builtin_memcpy(&u, &x, 4); return u; }
LR_INLINE float f32_from_bits(uint32_t u) { float x; __builtin_memcpy(&x, &u, 4); return x; }

LR_INLINE float bf16_to_f32(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }
LR_INLINE uint16_t f32_to_bf16(float x) {
  uint32_t u = f32_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u); /* a quiet NaN */
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
LR_INLINE float round_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

LR_INLINE float f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return f32_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude < 0x400u) { /* zero or subnormal: magnitude * 2^-24, exact */
    float x = (float)magnitude * 0x1p-24f;
    return sign ? -x : x;
  }
  return f32_from_bits(sign | ((magnitude << 13) + 0x38000000u));
}
LR_INLINE uint16_t f32_to_f16(float x) {
  uint32_t u = f32_bits(x), sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
  if (u < 0x38800000u) { /* below 2^-14: adding 0.5 aligns the subnormal's last bit with that of the sum, so the FPU rounds */
    uint32_t r = f32_bits(f32_from_bits(u) + 0.5f) - 0x3f000000u;
    return (uint16_t)(sign | r);
  }
  return (uint16_t)(sign | ((u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13));
}

}}  // namespace LR_ISA
#endif
