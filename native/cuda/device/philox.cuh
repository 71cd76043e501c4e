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

// Whether elements first .. first + 3 are kept: bytes of 1 or 0, the first one lowest.
__device__ __forceinline__ uint32_t kept_bytes(const Dropout& d, uint64_t first) {
  uint32_t words[4], kept = 0;
#pragma unroll 1
  for (uint64_t counter = first / 4; counter <= (first + 3) / 4; counter++) {
    philox(d.key, counter, words);
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const uint64_t place = 4 * counter + (uint64_t)w - first; // wraps in front of the first
      if (place < 4 && words[w] >= d.least) kept |= 1u << (8 * (int)place);
    }
  }
  return kept;
}

// The mask of a tile of Rows x Columns elements of a matrix with `stride` columns, as bytes mask[row * Columns + column]. By all threads of the block; a
// barrier shows it to them.
template <int Rows, int Columns> __device__ __forceinline__ void write_mask(unsigned char* mask, const Dropout& d, int64_t row0, int64_t column0, int64_t stride) {
#pragma unroll 1
  for (int at = (int)threadIdx.x; at < Rows * Columns / 4; at += (int)blockDim.x) {
    const int row = at / (Columns / 4), column = at % (Columns / 4) * 4;
    const uint64_t first = (uint64_t)(row0 + row) * (uint64_t)stride + (uint64_t)(column0 + column);
    *reinterpret_cast<uint32_t*>(mask + row * Columns + column) = kept_bytes(d, first);
  }
}

}  // namespace lr
#endif
