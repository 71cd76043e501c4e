/* The portable variant: four lanes of compiler vectors (SSE2 or NEON where the compiler's baseline has them). */
#ifndef LOWRANK_CPU_SIMD_SCALAR_H
#define LOWRANK_CPU_SIMD_SCALAR_H
#include "half.h"

namespace LR_ISA { namespace {

constexpr int kLanes = 4;
constexpr bool kNativeBf16 = false;
constexpr bool kBytePlanes = false;
typedef Vec<float, 4> VF;
typedef Vec<int32_t, 4> VI;
typedef Vec<uint32_t, 4> VU;
typedef Vec<double, 2> VD;
typedef Vec<uint64_t, 2> VQ;

template <typename V, typename F> LR_INLINE V each(const F& f) { /* lane i = f(i) */
  V r;
  for (int i = 0; i < V::lanes; i++) r.v[i] = f(i);
  return r;
}

LR_INLINE VF load_bf16(const uint16_t* p) { return each<VF>([=](int i) { return bf16_to_f32(p[i]); }); }
LR_INLINE VF load_f16(const uint16_t* p) { return each<VF>([=](int i) { return f16_to_f32(p[i]); }); }
LR_INLINE void store_bf16(VF a, uint16_t* p) { for (int i = 0; i < 4; i++) p[i] = f32_to_bf16(a.v[i]); }
LR_INLINE void store_f16(VF a, uint16_t* p) { for (int i = 0; i < 4; i++) p[i] = f32_to_f16(a.v[i]); }
LR_INLINE VF round_bf16(VF a) { return each<VF>([=](int i) { return round_bf16(a.v[i]); }); }

LR_INLINE VD low_f64(VF a) { return each<VD>([=](int i) { return (double)a.v[i]; }); }
LR_INLINE VD high_f64(VF a) { return each<VD>([=](int i) { return (double)a.v[i + 2]; }); }
LR_INLINE VF from_f64(VD low, VD high) { return each<VF>([=](int i) { return (float)(i < 2 ? low.v[i & 1] : high.v[i & 1]); }); }

/* The 64-bit products of the low 32 bits of each lane. */
LR_INLINE VQ multiply_low(VQ a, VQ b) { return each<VQ>([=](int i) { return (uint64_t)(uint32_t)a.v[i] * (uint32_t)b.v[i]; }); }

/* kLanes nibbles of kLanes / 2 bytes, the high one first. */
LR_INLINE VI load_nibbles(const uint8_t* p) { return each<VI>([=](int i) { return i & 1 ? p[i / 2] & 15 : p[i / 2] >> 4; }); }

/* kLanes bytes, each in a lane of its own. */
LR_INLINE VI load_bytes(const uint8_t* p) { return each<VI>([=](int i) { return p[i]; }); }

/* A table of 16 floats, looked up with the low four bits of an index. */
struct Table16 {
  VF part[4];
  static LR_INLINE Table16 load(const float* t) { return {{VF::load(t), VF::load(t + 4), VF::load(t + 8), VF::load(t + 12)}}; }
  /* f of every value. */
  template <typename F> LR_INLINE Table16 map(F f) const { return {{f(part[0]), f(part[1]), f(part[2]), f(part[3])}}; }
  LR_INLINE VF operator()(VI i) const { return each<VF>([=](int j) { return part[(i.v[j] & 15) / 4].v[i.v[j] & 3]; }); }
};
typedef MemoryTable256<4> Table256;

LR_INLINE void store_far(VF a, float* p) { a.store(p); }
LR_INLINE void end_far_stores() {}

/* Rows become columns. */
LR_INLINE void transpose(VF (&rows)[4]) {
  VF t[4] = {rows[0], rows[1], rows[2], rows[3]};
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) rows[i].v[j] = t[j].v[i];
}

}}  // namespace LR_ISA
#endif
