// Sums and maxima of a warp and of a block, in a fixed order; every thread receives the result.
#ifndef LOWRANK_CUDA_DEVICE_REDUCE_CUH
#define LOWRANK_CUDA_DEVICE_REDUCE_CUH
#include "launch.cuh"

namespace lr {

struct Add { template <class T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Max { template <class T> __device__ T operator()(T a, T b) const { return a < b ? b : a; } };

template <class T, class Op> __device__ __forceinline__ T warp_reduce(T x, Op op) {
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

// `partial` has room for one T a warp. All threads of the block must call; it may be used again at once.
template <class T, class Op> __device__ __forceinline__ T block_reduce(T x, Op op, T* partial) {
  const int lane = (int)threadIdx.x % kWarpSize, warp = (int)threadIdx.x / kWarpSize, warps = (int)blockDim.x / kWarpSize;
  x = warp_reduce(x, op);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  T total = partial[0];
  for (int w = 1; w < warps; w++) total = op(total, partial[w]);
  __syncthreads();
  return total;
}

}  // namespace lr
#endif
