/* philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11; Random123's constants). */
#ifndef LOWRANK_CPU_SIMD_PHILOX_H
#define LOWRANK_CPU_SIMD_PHILOX_H
#include "vec.h"

namespace LR_ISA { namespace {

/* `blocks` (at most 16) successive counters: out[4 i + w] is word w of counter + i; the counter's high 64 bits are zero. */
LR_INLINE void philox(uint64_t key, uint64_t counter, int blocks, uint32_t* out) {
  uint32_t c0[16], c1[16], c2[16], c3[16];
  for (int i = 0; i < 16; i++) {
    c0[i] = (uint32_t)(counter + (uint64_t)i);
    c1[i] = (uint32_t)((counter + (uint64_t)i) >> 32);
    c2[i] = c3[i] = 0;
  }
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < 16; i++) {
      uint64_t a = (uint64_t)c0[i] * 0xD2511F53u, b = (uint64_t)c2[i] * 0xCD9E8D57u;
      c0[i] = (uint32_t)(b >> 32) ^ c1[i] ^ k0;
      c1[i] = (uint32_t)b;
      c2[i] = (uint32_t)(a >> 32) ^ c3[i] ^ k1;
      c3[i] = (uint32_t)a;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < blocks; i++) {
    out[4 * i] = c0[i];
    out[4 * i + 1] = c1[i];
    out[4 * i + 2] = c2[i];
    out[4 * i + 3] = c3[i];
  }
}

}}  // namespace LR_ISA
#endif
