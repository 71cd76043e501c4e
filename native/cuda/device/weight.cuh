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

// The same as a call: where it stands in code that is unrolled.
__device__ __noinline__ inline float call_absmax_of(const lr_weight& w, int64_t block) { return absmax_of(w, block); }

// v[0 .. n) = N values of a float32 array from p on, the others zero.
template <int N> __device__ __forceinline__ void load_floats(const float* p, int n, float (&v)[N]) {
  if (n == N && reinterpret_cast<uintptr_t>(p) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 f = load4(p + i);
      v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = i < n ? p[i] : 0.0f;
  }
}

// v[0 .. n) = W[row, column ..), the others zero. Any kind, any alignment, blocks that cross rows.
template <int N> __device__ __forceinline__ void load_values(const lr_weight& w, int64_t row, int64_t column, int n, float (&v)[N]) {
  const int64_t at = row * w.k + column;
  if (w.kind == LR_WEIGHT_DENSE && w.dtype == LR_F32) {
    load_floats<N>((const float*)w.data + at, n, v);
  } else if (w.kind == LR_WEIGHT_DENSE) {
    const bool is_bf16 = w.dtype == LR_BF16;
#pragma unroll
    for (int i = 0; i < N; i++) {
      const uint16_t bits = i < n ? ((const uint16_t*)w.data)[at + i] : (uint16_t)0;
      v[i] = is_bf16 ? to_float(bf16{bits}) : to_float(f16{bits});
    }
  } else {
    float scale = 0.0f;
    int64_t next_block = at;
#pragma unroll
    for (int i = 0; i < N; i++) {
      v[i] = 0.0f;
      if (i >= n) continue;
      const int64_t e = at + i;
      if (e >= next_block) {
        const int64_t block = e / w.blocksize;
        scale = call_absmax_of(w, block);
        next_block = (block + 1) * w.blocksize;
      }
      const uint8_t byte = ((const uint8_t*)w.data)[e / 2];
      v[i] = w.code[e % 2 ? byte & 15 : byte >> 4] * scale;
      if (w.round) v[i] = round_bf16(v[i]);
    }
  }
}

// 4-bit in rows and blocks of whole 32 values, blocks powers of two, rows that begin at multiples of 16 bytes: what fast paths ask for.
inline bool is_coded(const lr_weight& w) {
  const auto power_of_two = [](int64_t n) { return n > 0 && (n & (n - 1)) == 0; };
  return w.kind == LR_WEIGHT_4BIT && w.k % 32 == 0 && aligned16(w.data) && w.blocksize >= 32 && power_of_two(w.blocksize) &&
         (!w.nested_absmax || power_of_two(w.nested_blocksize));
}

// Element i of a float32, bfloat16 or float16 vector.
__device__ __forceinline__ float load_any(const void* data, int32_t dtype, int64_t i) {
  if (dtype == LR_F32) return ((const float*)data)[i];
  return dtype == LR_BF16 ? to_float(((const bf16*)data)[i]) : to_float(((const f16*)data)[i]);
}

}  // namespace lr
#endif
