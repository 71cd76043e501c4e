/* Optimizers walk the arena segment by segment, whatever width its moments have. 8-bit moments (Dettmers et al. 2022, 8-bit Optimizers via
 * Block-wise Quantization) with the semantics of bitsandbytes' CUDA kernels: a block of 256 elements is decoded, updated as float32 and
 * quantised again by its new largest magnitude; a code whose sign is not that of its value moves by one. */
#ifndef LOWRANK_CPU_OPS_MOMENTS_H
#define LOWRANK_CPU_OPS_MOMENTS_H
#include "../../abi/optim.h"
#include "common.h"
#include "quantize.h"
#include "ranges.h"

namespace LR_ISA { namespace {

static_assert(kRange % kMomentBlock == 0, "a range holds whole blocks of moments");

/* Values of float32 and of bfloat16 tensors. */
LR_INLINE VF load_values(const float* p, int64_t lanes) { return load_lanes(p, lanes); }
LR_INLINE void store_values(VF a, float* p, int64_t lanes) { store_lanes(a, p, lanes); }
LR_INLINE VF load_values(const uint16_t* p, int64_t lanes) { return load_any_lanes(p, LR_BF16, 0, lanes); }
LR_INLINE void store_values(VF a, uint16_t* p, int64_t lanes) { store_bf16_lanes(a, p, lanes); }

/* What is between two operations of a bf16 parameter's step, as torch rounds it; nothing for float. */
template <class T> struct AsStored {
  LR_INLINE VF operator()(VF x) const { return x; }
};
template <> struct AsStored<uint16_t> {
  LR_INLINE VF operator()(VF x) const { return round_bf16(x); }
};

struct Moment {
  void* values; /* as the parameters */
  uint8_t* state;
  float* absmax;
  const float* map;
  float midpoints[255];

  LR_INLINE void set(const lr_tensor& values_tensor, const lr_tensor& state_tensor, const lr_tensor& absmax_tensor, const float* map_values) {
    values = values_tensor.data;
    state = (uint8_t*)state_tensor.data;
    absmax = (float*)absmax_tensor.data;
    map = map_values;
    if (map) code8_midpoints(map, midpoints);
  }

  /* `size` moments from element `at`, which begins a block. */
  LR_INLINE void decode(int64_t at, int64_t size, float* out) const {
    const float scale = absmax[at / kMomentBlock];
    for (int64_t i = 0; i < size; i++) out[i] = map[state[at + i]] * scale;
  }
  LR_INLINE void encode(int64_t at, int64_t size, const float* in) const {
    const float largest = block_absmax(in, LR_F32, 0, size), inverse = 1.0f / largest;
    absmax[at / kMomentBlock] = largest;
    if (largest == 0.0f) {
      memset(state + at, 0, (size_t)size);
      return;
    }
    for (int64_t i = 0; i < size; i++) {
      uint8_t code = nearest_code8(midpoints, in[i] * inverse);
      if ((in[i] < 0.0f) != (map[code] < 0.0f)) code = (uint8_t)(in[i] > 0.0f ? code + 1 : code - 1);
      state[at + i] = code;
    }
  }
};

/* rule(param, grad, moments, as_stored) for `size` elements; T is the type of the parameters, M that of the moments. */
template <int kCount, class T, class M, class Rule>
LR_INLINE void update_elements(T* p, const float* g, M* const* moments, int64_t size, const Rule& rule) {
  for_vectors(0, size, [&](int64_t i, int64_t lanes) {
    VF m[kCount > 0 ? kCount : 1];
    for (int k = 0; k < kCount; k++) m[k] = load_values(moments[k] + i, lanes);
    store_values(rule(load_values(p + i, lanes), load_lanes(g + i, lanes), m, AsStored<T>()), p + i, lanes);
    for (int k = 0; k < kCount; k++) store_values(m[k], moments[k] + i, lanes);
  });
}

template <int kCount, class T, class Rules>
LR_INLINE void for_segments_of(lr_queue* queue, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& segments, const Moment* moments,
                               const Rules& rule_of) {
  const int64_t count = elements(segments) / (int64_t)sizeof(lr_optim_segment);
  constexpr int kRoom = kCount > 0 ? kCount : 1;
  parallel_ranges(queue, elements(param), [&](int64_t range_begin, int64_t range_end) {
    for (int64_t s = 0; s < count; s++) {
      const lr_optim_segment& segment = ((const lr_optim_segment*)segments.data)[s];
      const int64_t begin = max64(range_begin, segment.begin), end = min64(range_end, segment.end);
      if (begin >= end) continue;
      const auto rule = rule_of(segment);
      T* p = (T*)param.data;
      const float* g = (const float*)grad.data;
      const int64_t first = segment.block * kMomentBlock - segment.begin; /* element i of the arena has the moments first + i */
      if (segment.bits == 32) {
        T* values[kRoom];
        for (int k = 0; k < kCount; k++) values[k] = (T*)moments[k].values + first + begin;
        update_elements<kCount>(p + begin, g + begin, values, end - begin, rule);
        continue;
      }
      float decoded[kRoom][kMomentBlock], *values[kRoom];
      for (int k = 0; k < kCount; k++) values[k] = decoded[k];
      for (int64_t block = begin; block < end; block += kMomentBlock) {
        const int64_t size = min64(kMomentBlock, end - block);
        for (int k = 0; k < kCount; k++) moments[k].decode(first + block, size, decoded[k]);
        update_elements<kCount>(p + block, g + block, values, size, rule);
        for (int k = 0; k < kCount; k++) moments[k].encode(first + block, size, decoded[k]);
      }
    }
  });
}

/* rule_of(segment) returns rule(param, grad, moments, as_stored), which gives the new parameters and changes kCount moments in place. */
template <int kCount, class Rules>
LR_INLINE void for_segments(lr_queue* queue, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& segments, const Moment* moments,
                            const Rules& rule_of) {
  if (param.dtype == LR_BF16) for_segments_of<kCount, uint16_t>(queue, param, grad, segments, moments, rule_of);
  else for_segments_of<kCount, float>(queue, param, grad, segments, moments, rule_of);
}

}}  // namespace LR_ISA
#endif
