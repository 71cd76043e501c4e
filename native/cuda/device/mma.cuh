// Every PTX instruction the kernels use, one named inline each; the emulator answers to the same names. Compute capability 8.0 and up.
// Fragments: PTX ISA 9.0, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k8". With g = lane / 4, i = lane % 4:
//   A 16 x 16  a[0] = (g, 2i..2i+1)  a[1] = (g+8, 2i..)  a[2] = (g, 2i+8..)  a[3] = (g+8, 2i+8..)      two 16-bit values a register, low half first
//   B 16 x 8   b[0] = (2i..2i+1, g)  b[1] = (2i+8.., g)
//   C 16 x 8   c[0..1] = (g, 2i..2i+1)   c[2..3] = (g+8, 2i..2i+1)
// ldmatrix of A (row-major) with x4, rows from lane % 16 and column 8 (lane / 16), gives a[0..3]; of W [n, k] row-major it gives B = Wᵀ.
#ifndef LOWRANK_CUDA_DEVICE_MMA_CUH
#define LOWRANK_CUDA_DEVICE_MMA_CUH
#include "launch.cuh"
#if !defined(__CUDACC__)
#include "../../emu/numbers.h"
#endif

namespace lr {

#if defined(__CUDACC__)

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// 8 x 8 matrices of 16-bit values from shared memory; lane 8 m + r brings the address of row r of matrix m, 16-byte aligned.
__device__ __forceinline__ void load_matrix_x1(uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_x1_trans(uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c += a b, float32 sums.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Operands are float32 bits, of which the upper 19 count.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Copies Bytes (4, 8 or 16) from global to shared memory in the background; only the first `source_bytes` are read, the rest becomes 0. By L1 or past it,
// which only the 16-byte form can.
template <int Bytes, bool ByL1 = Bytes != 16> __device__ __forceinline__ void copy_async(void* to, const void* from, int source_bytes = Bytes) {
  if constexpr (!ByL1)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(source_bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "n"(Bytes), "r"(source_bytes) : "memory");
}
// Closes the group of the copies since the last commit.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most Pending of this thread's groups are on their way; a barrier then shows the bytes to the others.
template <int Pending> __device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory"); }

// Barrier `id` (1 to 15) of `count` threads, a multiple of 32.
__device__ __forceinline__ void named_barrier(int id, int count) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory"); }

// Two float32 rounded to nearest even, packed: `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Byte i of the result is the byte of high:low that nibble i of `selector` names, 0 to 7.
__device__ __forceinline__ uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
  return r;
}
// 2^x to about 2 units in the last place; results below the normal numbers become 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 / x to 1 unit in the last place.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// f16 bits to float32, exact.
__device__ __forceinline__ float f16_to_float(uint16_t h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}

#else

#define LR_LINE int line = __builtin_LINE()
inline void load_matrix_x1(uint32_t (&r)[1], const void* row, LR_LINE) { emu::load_matrix(r, 1, false, row, line); }
inline void load_matrix_x2(uint32_t (&r)[2], const void* row, LR_LINE) { emu::load_matrix(r, 2, false, row, line); }
inline void load_matrix_x4(uint32_t (&r)[4], const void* row, LR_LINE) { emu::load_matrix(r, 4, false, row, line); }
inline void load_matrix_x1_trans(uint32_t (&r)[1], const void* row, LR_LINE) { emu::load_matrix(r, 1, true, row, line); }
inline void load_matrix_x2_trans(uint32_t (&r)[2], const void* row, LR_LINE) { emu::load_matrix(r, 2, true, row, line); }
inline void load_matrix_x4_trans(uint32_t (&r)[4], const void* row, LR_LINE) { emu::load_matrix(r, 4, true, row, line); }
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], LR_LINE) { emu::multiply(emu::kBf16, c, a, b, line); }
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], LR_LINE) { emu::multiply(emu::kF16, c, a, b, line); }
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], LR_LINE) { emu::multiply(emu::kTf32, c, a, b, line); }
template <int Bytes, bool ByL1 = Bytes != 16> void copy_async(void* to, const void* from, int source_bytes = Bytes, LR_LINE) { emu::copy_async(to, from, Bytes, source_bytes, line); }
inline void copy_async_commit() { emu::copy_async_commit(); }
template <int Pending> void copy_async_wait() { emu::copy_async_wait(Pending); }
inline void named_barrier(int id, int count, LR_LINE) { emu::barrier(id, count, line); }
inline uint32_t pack_bf16(float low, float high) { return emu::float_to_bf16(low) | (uint32_t)emu::float_to_bf16(high) << 16; }
inline uint32_t pack_f16(float low, float high) { return emu::float_to_f16(low) | (uint32_t)emu::float_to_f16(high) << 16; }
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) { return emu::permute_bytes(low, high, selector); }
inline float exp2_approx(float x) { return std::exp2(x); }
inline float reciprocal_approx(float x) { return 1.0f / x; }
inline float f16_to_float(uint16_t h) { return emu::f16_to_float(h); }
#undef LR_LINE

#endif

}  // namespace lr
#endif
