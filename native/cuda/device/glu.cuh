// Gated linear units (Shazeer 2020): y = a(gate) * up. Every a here is g * s(z), s the logistic function, so that large negative g lose no digits:
//   SiLU: z = g.   GELU in its tanh form: z = 2 sqrt(2 / pi) (g + 0.044715 g^3), for 0.5 (1 + tanh(z / 2)) = s(z).
#ifndef LOWRANK_CUDA_DEVICE_GLU_CUH
#define LOWRANK_CUDA_DEVICE_GLU_CUH
#include "launch.cuh"

namespace lr {

// Without overflow on either side.
__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// z and dz/dg.
struct Silu {
  __device__ float z(float g) const { return g; }
  __device__ float slope(float) const { return 1.0f; }
};
struct GeluTanh {
  __device__ float z(float g) const { return 1.5957691216057308f * fmaf(0.044715f * g * g, g, g); }
  __device__ float slope(float g) const { return 1.5957691216057308f * fmaf(0.134145f * g, g, 1.0f); }
};

template <class Activation> __device__ __forceinline__ float gated(Activation a, float gate, float up) { return gate * sigmoid(a.z(gate)) * up; }
__device__ __forceinline__ float gated(int32_t activation, float gate, float up) {
  return activation == LR_SILU ? gated(Silu{}, gate, up) : gated(GeluTanh{}, gate, up);
}

}  // namespace lr
#endif
