// The nearest entry of an ascending map of 256 values, as cpu/ops/quantize.h finds it.
#ifndef LOWRANK_CUDA_DEVICE_CODE8_CUH
#define LOWRANK_CUDA_DEVICE_CODE8_CUH
#include "launch.cuh"

namespace lr {

// Midpoint i for a strict comparison: those below an even code are moved down by one unit in the last place, so a tie is above them.
__device__ __forceinline__ float code8_midpoint(const float* map, int i) {
  const float middle = (map[i] + map[i + 1]) * 0.5f;
  if (i % 2 == 0) return middle;
  const uint32_t bits = __float_as_uint(middle);
  return middle == 0.0f ? __uint_as_float(0x80000001u) : __uint_as_float(middle > 0.0f ? bits - 1 : bits + 1);
}

// Number of midpoints strictly below x.
__device__ __forceinline__ int nearest_code8(const float* midpoints, float x) {
  int rank = 0;
  for (int step = 128; step > 0; step /= 2)
    if (!(x <= midpoints[rank + step - 1])) rank += step;
  return rank;
}

}  // namespace lr
#endif
