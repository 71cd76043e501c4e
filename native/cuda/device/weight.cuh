// Values of a weight, dense or 4-bit (backend.h, lr_weight): value = code[nibble] * absmax[block] in float32.
#ifndef LOWRANK_CUDA_DEVICE_WEIGHT_CUH
#define LOWRANK_CUDA_DEVICE_WEIGHT_CUH
#include "shared.cuh"

namespace lr {

// Doubly quantised or not. The product is rounded before the sum, as everywhere: no fused multiply-add.
__device__ __forceinline__ float absmax_of(const lr_weight& w, int64_t block) {
  if (!w.nested_absmax) return ((const float*)w.absmax)[block];
  const float scale = __fmul_rn(w.nested_code[((const uint8_t*)w.absmax)[block]], w.nested_absmax[block / w.nested_blocksize]);
  return __fadd_rn(scale, *w.nested_offset);
}

// v[0 .. n) = W[row, column ..), zeros up to N. Any kind, any alignment, blocks that cross rows.
template <int N> __device__ __forceinline__ void load_values(const lr_weight& w, int64_t row, int64_t column, int n, float (&v)[N]) {
  const int64_t at = row * w.k + column;
  if (w.kind == LR_WEIGHT_DENSE && w.dtype == LR_F32 && n == N && (reinterpret_cast<uintptr_t>(w.data) + 4 * (uintptr_t)at) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 f = load4((const float*)w.data + at + i);
      v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
    return;
  }
  float scale = 0.0f;
  int64_t next_block = at;
#pragma unroll
  for (int i = 0; i < N; i++) {
    v[i] = 0.0f;
    if (i >= n) continue;
    const int64_t e = at + i;
    if (w.kind == LR_WEIGHT_4BIT) {
      if (e >= next_block) {
        const int64_t block = e / w.blocksize;
        scale = absmax_of(w, block);
        next_block = (block + 1) * w.blocksize;
      }
      const uint8_t byte = ((const uint8_t*)w.data)[e / 2];
      v[i] = w.code[e % 2 ? byte & 15 : byte >> 4] * scale;
      if (w.round) v[i] = round_bf16(v[i]);
    } else if (w.dtype == LR_F32) {
      v[i] = ((const float*)w.data)[e];
    } else {
      v[i] = w.dtype == LR_BF16 ? to_float(((const bf16*)w.data)[e]) : to_float(((const f16*)w.data)[e]);
    }
  }
}

// Element i of a float32, bfloat16 or float16 vector.
__device__ __forceinline__ float load_any(const void* data, int32_t dtype, int64_t i) {
  if (dtype == LR_F32) return ((const float*)data)[i];
  return dtype == LR_BF16 ? to_float(((const bf16*)data)[i]) : to_float(((const f16*)data)[i]);
}

}  // namespace lr
#endif
