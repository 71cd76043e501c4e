// philox4x32-10 (Salmon et al., SC11), and dropout by it: element e of a tensor takes word e % 4 of philox(key, counter = e / 4).
#ifndef LOWRANK_CUDA_DEVICE_PHILOX_CUH
#define LOWRANK_CUDA_DEVICE_PHILOX_CUH
#include "launch.cuh"

namespace lr {

__device__ __forceinline__ void philox(uint64_t key, uint64_t counter, uint32_t (&c)[4]) {
  c[0] = (uint32_t)counter;
  c[1] = (uint32_t)(counter >> 32);
  c[2] = c[3] = 0;
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint32_t a_high = __umulhi(0xD2511F53u, c[0]), a_low = 0xD2511F53u * c[0], b_high = __umulhi(0xCD9E8D57u, c[2]), b_low = 0xCD9E8D57u * c[2];
    c[0] = b_high ^ c[1] ^ k0;
    c[1] = b_low;
    c[2] = a_high ^ c[3] ^ k1;
    c[3] = a_low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// lr_dropout for a kernel: an element is kept, times scale, when its word is at least `least`.
struct Dropout {
  uint64_t key;
  uint32_t least; // 0: everything is kept
  float scale;
};
inline Dropout dropout_of(const lr_dropout& d) {
  const double limit = (double)d.p * 4294967296.0; // below 2^32, for p < 1 is a float
  return {d.key, (uint32_t)limit + ((double)(uint32_t)limit < limit), 1.0f / (1.0f - d.p)};
}

// What N elements from e on are multiplied with.
template <int N> __device__ __forceinline__ void dropout_factors(const Dropout& d, uint64_t e, float (&factor)[N]) {
  uint32_t words[4];
  for (int i = 0; i < N; i++) {
    const uint64_t at = e + (uint64_t)i;
    if (i == 0 || at % 4 == 0) philox(d.key, at / 4, words);
    const uint32_t word = at % 4 == 0 ? words[0] : at % 4 == 1 ? words[1] : at % 4 == 2 ? words[2] : words[3];
    factor[i] = word >= d.least ? d.scale : 0.0f;
  }
}

}  // namespace lr
#endif
