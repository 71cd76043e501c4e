// bf16 and f16 as bits: the conversions of the hardware, rounding to nearest even; bytes picked from a register.
#ifndef LOWRANK_EMU_NUMBERS_H
#define LOWRANK_EMU_NUMBERS_H
#include <cstdint>
#include <cstring>

namespace emu {

inline float bits_to_float(uint32_t u) { float x; std::memcpy(&x, &u, 4); return x; }
inline uint32_t float_to_bits(float x) { uint32_t u; std::memcpy(&u, &x, 4); return u; }

inline float bf16_to_float(uint16_t h) { return bits_to_float(static_cast<uint32_t>(h) << 16); }
inline uint16_t float_to_bf16(float x) {
  const uint32_t u = float_to_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // cvt.rn.bf16 gives the canonical NaN
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

inline float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | fraction << 13);
  if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -tiny : tiny;
}
inline uint16_t float_to_f16(float x) {
  const uint32_t u = float_to_bits(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u)  // below 2^-14: the sum with 0.5 rounds at the last bit of the subnormal
    return static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u));
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

// prmt: byte i by nibble i of the selector; its highest bit spreads the byte's sign instead.
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> (4 * i) & 15, byte = static_cast<uint32_t>(both >> (8 * (nibble & 7)) & 0xff);
    result |= (nibble & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return result;
}

}  // namespace emu
#endif
