// What every .cu file starts from: the language (nvcc, or the emulator's stand-in), launches, shared memory, and the host side of an entry.
#ifndef LOWRANK_CUDA_DEVICE_LAUNCH_CUH
#define LOWRANK_CUDA_DEVICE_LAUNCH_CUH
#include "../../abi/entry.h"
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "../../emu/cuda_emu.h"
#endif

// The block's dynamic shared memory, 128-byte aligned; the only way to have some.
#if defined(__CUDACC__)
#define LR_SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#else
#define LR_SHARED_MEMORY(name) unsigned char* const name = ::emu::shared_memory()
#endif

namespace lr {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 256;       // of a block, where an op does not need another number
constexpr int64_t kMaxBlocks = 4096; // of a grid whose threads walk in strides

// The one stream of the device; backend.cu makes it.
cudaStream_t stream();

// kernel<<<grid, block, shared, stream>>>(arguments), with the kernel's name for reports. Failures are found by `finish`.
#define LR_LAUNCH(kernel, grid, block, ...) ::lr::launch(#kernel, kernel, grid, block, ::lr::stream(), __VA_ARGS__)

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t on, size_t shared, A... arguments) {
#if defined(__CUDACC__)
  (void)name;
  // Beyond 48 KiB a kernel must ask.
  if (shared > 48 * 1024) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  kernel<<<grid, block, shared, on>>>(static_cast<P>(arguments)...);
#else
  emu::launch(name, kernel, grid, block, shared, on, arguments...);
#endif
}

// Blocks for n items, `each` a block; what lies beyond kMaxBlocks is walked in strides.
inline unsigned blocks_for(int64_t n, int64_t each) {
  const int64_t blocks = (n + each - 1) / each;
  return (unsigned)(blocks < 1 ? 1 : blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// for (int64_t i : every n-th element of this thread). Indices are 64 bits wide: tensors may exceed 2^31 elements.
#define LR_FOR_EACH(i, n) \
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, i##_step = (int64_t)gridDim.x * blockDim.x; i < (n); i += i##_step)

// Ends an entry, which does not wait for its kernels: a launch that was refused is its error, what goes wrong in a kernel is found by `synchronize`.
// With CUDA_LAUNCH_BLOCKING=1 it waits, so that a failure names its op.
lr_error finish(const char* op);
// Waits for what was enqueued, where the host needs the bytes that it copied.
lr_error wait_for_stream(const char* op);

}  // namespace lr
#endif
