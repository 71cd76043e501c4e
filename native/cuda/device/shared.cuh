// Values in memory: 16-bit floats as types of their own, elements of any float dtype, vectors of 16 bytes.
#ifndef LOWRANK_CUDA_DEVICE_SHARED_CUH
#define LOWRANK_CUDA_DEVICE_SHARED_CUH
#include "mma.cuh"

namespace lr {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
__device__ __forceinline__ float to_float(f16 x) { return f16_to_float(x.bits); }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return {(uint16_t)pack_bf16(x, 0.0f)}; }
template <> __device__ __forceinline__ f16 from_float<f16>(float x) { return {(uint16_t)pack_f16(x, 0.0f)}; }
__device__ __forceinline__ float round_bf16(float x) { return to_float(from_float<bf16>(x)); }

// 16 bytes at once; the address must be a multiple of 16.
__device__ __forceinline__ float4 load4(const float* p) {
#if !defined(__CUDACC__)
  emu::vector_access(p, 16);
#endif
  return *reinterpret_cast<const float4*>(p);
}
// Four values; the address must be a multiple of 8.
__device__ __forceinline__ float4 load4(const bf16* p) {
#if !defined(__CUDACC__)
  emu::vector_access(p, 8);
#endif
  const uint2 pairs = *reinterpret_cast<const uint2*>(p);
  return make_float4(__uint_as_float(pairs.x << 16), __uint_as_float(pairs.x & 0xffff0000u), __uint_as_float(pairs.y << 16), __uint_as_float(pairs.y & 0xffff0000u));
}
__device__ __forceinline__ void store4(float* p, float4 v) {
#if !defined(__CUDACC__)
  emu::vector_access(p, 16);
#endif
  *reinterpret_cast<float4*>(p) = v;
}
// Eight values as one chunk of a bf16 tile.
__device__ __forceinline__ void store_chunk(unsigned char* to, const float (&v)[8]) {
  const uint4 packed = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  store4(reinterpret_cast<float*>(to), make_float4(__uint_as_float(packed.x), __uint_as_float(packed.y), __uint_as_float(packed.z), __uint_as_float(packed.w)));
}

// Byte of a chunk of 16 bytes in a tile of rows of `Chunks` chunks: 4 or a multiple of 8. Chunk c of row r lies at c ^ (r % 8), where two rows share 128
// bytes at c ^ (r / 2 % 4): the eight rows that ldmatrix reads fall in different banks without padding.
template <int Chunks> __device__ __forceinline__ int chunk_at(int row, int chunk) {
  return (row * Chunks + (chunk ^ (Chunks == 4 ? row >> 1 & 3 : row & 7))) * 16;
}

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Calls body with a value of the element type, float, bf16 or f16, for `using T = decltype(value)`. On the host.
template <class Body> void with_type(int32_t dtype, Body body) {
  if (dtype == LR_F32) body(float{});
  else if (dtype == LR_BF16) body(bf16{});
  else body(f16{});
}

}  // namespace lr
#endif
