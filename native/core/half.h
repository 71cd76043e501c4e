/* Conversion between float32 and the two 16-bit formats, rounding to nearest even. Internal linkage: every ISA object
 * gets its own copy. */
#ifndef LOWRANK_CORE_HALF_H
#define LOWRANK_CORE_HALF_H
#include <stdint.h>
#include <string.h>

namespace lowrank {

static inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float bf16_to_f32(uint16_t value) { return float_of(static_cast<uint32_t>(value) << 16); }

static inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* Exponent moved by a multiplication, which also makes subnormals right (F. Giesen, "half to float done quick"). */
static inline float f16_to_f32(uint16_t value) {
  const uint32_t magnitude = static_cast<uint32_t>(value & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t scaled = bits_of(float_of(magnitude) * float_of(0x77800000u)); /* 2^112 */
  const uint32_t special = magnitude | 0x7f800000u;
  return float_of(sign | (magnitude >= 0x0f800000u ? special : scaled));
}

static inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    /* Subnormal: adding 0.5 lets the hardware round at the 2^-24 place. */
    const uint32_t rounded = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    return static_cast<uint16_t>(sign | rounded);
  }
  const uint32_t rounded = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  return static_cast<uint16_t>(sign | rounded);
}

}  // namespace lowrank
#endif
