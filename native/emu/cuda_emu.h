// CUDA's language and runtime as .cu files see them, for a plain C++17 compiler: threads are fibers, every memory access is observed.
//
// The .cu files are compiled with -fsanitize=thread but linked to the callbacks of observe.cc instead of ThreadSanitizer's runtime: the
// compiler reports each load and store with its address and size, and shadow.cc judges it. Nothing in a kernel is written for the emulator.
// A launch that breaks a rule stops there; cudaStreamSynchronize returns cudaErrorEmulated and cudaGetErrorString the report.
#ifndef LOWRANK_EMU_CUDA_EMU_H
#define LOWRANK_EMU_CUDA_EMU_H
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Where in the source an intrinsic is called, as a default argument.
#define LR_EMU_LINE int line = __builtin_LINE()

namespace emu {

uint3 thread_index();
uint3 block_index();
uint3 block_size();
uint3 grid_size();
unsigned char* shared_memory();

enum class WarpOp : int { kSync, kShuffle, kVote, kLoadMatrix, kMma };
// One lane's part of an operation that its warp does together: done once, by the lane that comes last.
struct WarpRequest {
  WarpOp op;
  uint32_t mask;
  int kind = 0;            // which shuffle, vote, element type or matrix count
  int source = 0;          // shuffles: lane, delta or lane mask as given
  int width = 32;
  uint64_t value = 0;      // in and out
  uint32_t* out = nullptr; // ldmatrix: registers that are written
  const void* in = nullptr;
  const void* a = nullptr; // mma
  const void* b = nullptr;
  float* c = nullptr;
};
void warp_operation(WarpRequest& request, int line);

enum Shuffle { kIndex, kUp, kDown, kXor };
enum Vote { kBallot, kAll, kAny };
enum Element { kBf16, kF16, kTf32 };

template <class T>
T shuffle(int kind, unsigned mask, T value, int source, int width, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  WarpRequest request{WarpOp::kShuffle, mask, kind, source, width};
  std::memcpy(&request.value, &value, sizeof value);
  warp_operation(request, line);
  std::memcpy(&value, &request.value, sizeof value);
  return value;
}
unsigned vote(int kind, unsigned mask, bool predicate, int line);

void barrier(int id, int count, int line);
void load_matrix(uint32_t* registers, int count, bool transposed, const void* row, int line);
void multiply(int element, float* c, const uint32_t* a, const uint32_t* b, int line);
void copy_async(void* to, const void* from, int bytes, int source_bytes, int line);
void copy_async_commit();
void copy_async_wait(int pending);

// An atomic access: judged as one, and nobody is between its two halves, since fibers switch only in the emulator's functions.
void atomic_load(void* value, void* address, size_t bytes);
void atomic_store(void* address, const void* value, size_t bytes);
// A vector access, whose alignment is checked even where the compiler splits it.
void vector_access(const void* address, size_t bytes);
template <class T, class F>
T atomic(T* address, F change) {
  T old;
  atomic_load(&old, address, sizeof(T));
  const T value = change(old);
  atomic_store(address, &value, sizeof(T));
  return old;
}

struct Launch {
  const char* kernel;
  dim3 grid, block;
  size_t shared;
  void (*body)(const void* arguments);  // runs the kernel as one thread
  std::vector<unsigned char> arguments;
};

}  // namespace emu

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_size())
#define gridDim (::emu::grid_size())

inline void __syncthreads(LR_EMU_LINE) { emu::barrier(0, 0, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, LR_EMU_LINE) {
  emu::WarpRequest request{emu::WarpOp::kSync, mask};
  emu::warp_operation(request, line);
}
template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32, LR_EMU_LINE) { return emu::shuffle(emu::kIndex, mask, v, lane, width, line); }
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, LR_EMU_LINE) { return emu::shuffle(emu::kUp, mask, v, (int)d, width, line); }
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, LR_EMU_LINE) { return emu::shuffle(emu::kDown, mask, v, (int)d, width, line); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int m, int width = 32, LR_EMU_LINE) { return emu::shuffle(emu::kXor, mask, v, m, width, line); }
inline unsigned __ballot_sync(unsigned mask, int p, LR_EMU_LINE) { return emu::vote(emu::kBallot, mask, p != 0, line); }
inline int __all_sync(unsigned mask, int p, LR_EMU_LINE) { return (int)emu::vote(emu::kAll, mask, p != 0, line); }
inline int __any_sync(unsigned mask, int p, LR_EMU_LINE) { return (int)emu::vote(emu::kAny, mask, p != 0, line); }

template <class T> T atomicAdd(T* p, T v) { return emu::atomic(p, [v](T old) { return (T)(old + v); }); }
template <class T> T atomicMax(T* p, T v) { return emu::atomic(p, [v](T old) { return old < v ? v : old; }); }
template <class T> T atomicMin(T* p, T v) { return emu::atomic(p, [v](T old) { return v < old ? v : old; }); }
template <class T> T atomicExch(T* p, T v) { return emu::atomic(p, [v](T) { return v; }); }
template <class T> T atomicCAS(T* p, T expected, T v) { return emu::atomic(p, [=](T old) { return old == expected ? v : old; }); }

inline uint32_t __float_as_uint(float x) { uint32_t u; std::memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(uint32_t u) { float x; std::memcpy(&x, &u, 4); return x; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)(((uint64_t)a * b) >> 32); }

// The runtime. Streams are lazy: what was enqueued runs when the stream, or an event behind it, is waited for.
// LOWRANK_EMU_FAIL=<n>:<code>[:sticky] makes the n-th call of the runtime from the first look at that text on return an error of that number; sticky:
// and all calls after it, as an error does that costs a real device its context. <n>:new: the n-th `operator new` of the kernels' host code throws.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorEmulated = 700
};
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeHost = 1, cudaMemoryTypeDevice = 2 };
struct cudaPointerAttributes { cudaMemoryType type; };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3, cudaMemcpyDefault = 4 };
struct CUstream_st;
struct CUevent_st;
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace emu {

// Checks the limits now, runs the grid when the stream is waited for. Arguments are copied at the call.
cudaError_t enqueue(cudaStream_t stream, Launch launch);

template <class... P, class... A>
cudaError_t launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, A&&... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...), "a kernel's arguments are bytes");
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> values;
  };
  const Call call{kernel, std::tuple<P...>(static_cast<P>(args)...)};
  const auto* bytes = reinterpret_cast<const unsigned char*>(&call);
  const auto body = [](const void* arguments) {
    const Call& call = *static_cast<const Call*>(arguments);
    std::apply(call.kernel, call.values);
  };
  return enqueue(stream, {name, grid, block, shared, body, {bytes, bytes + sizeof call}});
}

}  // namespace emu
#endif
