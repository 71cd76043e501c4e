/* philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11; Random123's constants). */
#ifndef LOWRANK_CPU_SIMD_PHILOX_H
#define LOWRANK_CPU_SIMD_PHILOX_H
#include "vec.h"

namespace LR_ISA { namespace {

/* `blocks` (at most 16) successive counters: out[4 i + w] is word w of counter + i; the counter's high 64 bits are zero.
 * Each 64-bit lane holds one counter's word in its low half; the high halves are never read. */
LR_INLINE void philox(uint64_t key, uint64_t counter, int blocks, uint32_t* out) {
  constexpr int lanes = VQ::lanes;
  for (int first = 0; first < blocks; first += lanes) {
    uint64_t low[lanes], high[lanes];
    for (int i = 0; i < lanes; i++) low[i] = counter + (uint64_t)(first + i);
    VQ c0 = VQ::load(low), c1 = c0 >> 32, c2 = VQ::zero(), c3 = VQ::zero();
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
      VQ a = multiply_low(c0, VQ::set(0xD2511F53u)), b = multiply_low(c2, VQ::set(0xCD9E8D57u));
      c0 = (b >> 32) ^ c1 ^ VQ::set(k0);
      c1 = b;
      c2 = (a >> 32) ^ c3 ^ VQ::set(k1);
      c3 = a;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const VQ mask = VQ::set(0xffffffffu);
    ((c0 & mask) | (c1 << 32)).store(low);
    ((c2 & mask) | (c3 << 32)).store(high);
    for (int i = 0; i < lanes && first + i < blocks; i++) {
      uint64_t words[2] = {low[i], high[i]};
      for (int w = 0; w < 4; w++) out[4 * (first + i) + w] = (uint32_t)(words[w / 2] >> (32 * (w & 1)));
    }
  }
}

}}  // namespace LR_ISA
#endif
