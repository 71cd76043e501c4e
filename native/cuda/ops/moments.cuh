// Optimizers walk the arena segment by segment, whatever width its moments have; 8-bit ones as described in cpu/ops/moments.h, a warp a block of
// 256 elements.
#ifndef LOWRANK_CUDA_OPS_MOMENTS_CUH
#define LOWRANK_CUDA_OPS_MOMENTS_CUH
#include "../../abi/optim.h"
#include "../device/code8.cuh"
#include "../device/reduce.cuh"
#include "../device/shared.cuh"

namespace lr {
namespace {

// What is between two operations of a bf16 parameter's step, as torch rounds it; nothing for float.
template <class T> __device__ __forceinline__ float as_stored(float x) { return to_float(from_float<T>(x)); }

struct Moment {
  void* values; // as the parameters
  uint8_t* state;
  float* absmax;
};

Moment moment(const lr_tensor& values, const lr_tensor& state, const lr_tensor& absmax) {
  return {values.data, (uint8_t*)state.data, (float*)absmax.data};
}

struct Parameters {
  void* p;
  const float* g;
  Moment moments[2];
  const float* maps; // NULL: no segment has 8-bit moments; the kernel then has no maps either
};

// The maps of kCount moments and the midpoints between their values, in shared memory. The caller synchronises before the first use.
template <int kCount>
struct QuantMaps {
  static constexpr size_t kBytes = kCount * (256 + 256) * sizeof(float);
  const float *map, *midpoints;
  __device__ QuantMaps() : map(nullptr), midpoints(nullptr) {}
  __device__ QuantMaps(unsigned char* memory, const Parameters& at) {
    float* to = (float*)memory;
    map = to;
    midpoints = to + 256 * kCount;
    for (int i = (int)threadIdx.x; i < 256 * kCount; i += (int)blockDim.x) {
      to[i] = at.maps[i];
      to[256 * kCount + i] = i % 256 < 255 ? code8_midpoint(at.maps + i / 256 * 256, i % 256) : 0.0f;
    }
  }
};

// kMaps 0: no segment has 8-bit moments, and the kernel none of the registers that they take.
// rule_of(segment) returns rule(param, grad, moments), which gives the new parameter and changes kCount moments in place. T: float or bf16, of the
// parameters and of moments that are no codes.
template <int kCount, class T, int kMaps, class Rules>
__device__ __forceinline__ void for_segments(const Parameters& at, const QuantMaps<kMaps>& maps, const lr_optim_segment* segments, int64_t count,
                                             const Rules& rule_of) {
  T* const p = (T*)at.p;
  constexpr int kRoom = kCount > 0 ? kCount : 1, kEach = (int)(kMomentBlock / kWarpSize);
  for (int64_t s = blockIdx.y; s < count; s += gridDim.y) {
    const lr_optim_segment segment = segments[s];
    const auto rule = rule_of(segment);
    const int64_t size = segment.end - segment.begin, first = segment.block * kMomentBlock;
    if (kMaps == 0 || segment.bits == 32) {
      LR_FOR_EACH(i, size) {
        float m[kRoom];
        for (int k = 0; k < kCount; k++) m[k] = to_float(((const T*)at.moments[k].values)[first + i]);
        p[segment.begin + i] = from_float<T>(rule(to_float(p[segment.begin + i]), at.g[segment.begin + i], m));
        for (int k = 0; k < kCount; k++) ((T*)at.moments[k].values)[first + i] = from_float<T>(m[k]);
      }
      continue;
    }
    if constexpr (kMaps > 0) {
      const int lane = (int)threadIdx.x % kWarpSize, warps = (int)blockDim.x / kWarpSize;
      for (int64_t block = (int64_t)blockIdx.x * warps + threadIdx.x / kWarpSize; block * kMomentBlock < size; block += (int64_t)gridDim.x * warps) {
        const int64_t begin = block * kMomentBlock;
        float m[kEach][kRoom], scale[kRoom];
        uint32_t largest[kRoom];
        for (int k = 0; k < kCount; k++) {
          // Only the lane that will replace it reads it.
          scale[k] = __shfl_sync(kAllLanes, lane == 0 ? at.moments[k].absmax[segment.block + block] : 0.0f, 0);
          largest[k] = 0;
        }
        for (int e = 0; e < kEach; e++) {
          const int64_t i = begin + e * kWarpSize + lane;
          if (i >= size) break;
          for (int k = 0; k < kCount; k++) m[e][k] = maps.map[256 * k + at.moments[k].state[first + i]] * scale[k];
          p[segment.begin + i] = from_float<T>(rule(to_float(p[segment.begin + i]), at.g[segment.begin + i], m[e]));
          for (int k = 0; k < kCount; k++) {
            const uint32_t magnitude = __float_as_uint(m[e][k]) & 0x7fffffffu;
            largest[k] = magnitude > largest[k] ? magnitude : largest[k];
          }
        }
        for (int k = 0; k < kCount; k++) {
          largest[k] = warp_reduce(largest[k], Max());
          if (lane == 0) at.moments[k].absmax[segment.block + block] = __uint_as_float(largest[k]);
          const float inverse = 1.0f / __uint_as_float(largest[k]);
          const float *map = maps.map + 256 * k, *midpoints = maps.midpoints + 256 * k;
          for (int e = 0; e < kEach; e++) {
            const int64_t i = begin + e * kWarpSize + lane;
            if (i >= size) break;
            int code = largest[k] ? nearest_code8(midpoints, __fmul_rn(m[e][k], inverse)) : 0;
            if (largest[k] && (m[e][k] < 0.0f) != (map[code] < 0.0f)) code += m[e][k] > 0.0f ? 1 : -1;
            at.moments[k].state[first + i] = (uint8_t)code;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lr
#endif
