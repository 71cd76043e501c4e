/* Loops over long flat arrays: a fixed partition that does not know the number of threads, and vectors of any float dtype. */
#ifndef LOWRANK_CPU_OPS_RANGES_H
#define LOWRANK_CPU_OPS_RANGES_H
#include "common.h"

namespace LR_ISA { namespace {

constexpr int64_t kRange = 16384;

/* body(begin, end) over [0, n) in ranges of `range` elements. */
template <typename Body> LR_INLINE void parallel_ranges(lr_queue* queue, int64_t n, const Body& body, int64_t range = kRange) {
  if (n <= range) {
    if (n > 0) body((int64_t)0, n);
    return;
  }
  parallel_for(queue, ceil_div(n, range), [&](int64_t task, int32_t) { body(task * range, min64(n, (task + 1) * range)); });
}

/* vector(i, lanes) for the vectors of [begin, end): lanes is kLanes but for the last one. */
template <typename Body> LR_INLINE void for_vectors(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, (int64_t)kLanes);
  if (i < end) body(i, end - i);
}
LR_INLINE VF load_lanes(const float* p, int64_t lanes) { return lanes == kLanes ? VF::load(p) : load_n<VF>(p, lanes); }
LR_INLINE void store_lanes(VF a, float* p, int64_t lanes) {
  if (lanes == kLanes) a.store(p);
  else store_n(a, p, lanes);
}

/* Past the caches where p allows it; end_far_stores orders them. */
LR_INLINE void store_far_lanes(VF a, float* p, int64_t lanes) {
  if (lanes == kLanes && (uintptr_t)p % sizeof(VF) == 0) store_far(a, p);
  else store_lanes(a, p, lanes);
}

/* A task's stores into a result of `n` floats. A long one leaves the caches before it is read, and a store into them reads the line first, so past
 * 16 MiB, half of a usual last cache, stores go by them; not in place, where the lines are there. */
struct FarStores {
  bool far;
  LR_INLINE FarStores(int64_t n, bool in_place) : far(!in_place && n > (int64_t)(16 << 20) / 4) {}
  LR_INLINE ~FarStores() { if (far) end_far_stores(); }
  LR_INLINE void store(VF a, float* p, int64_t lanes) const {
    if (far) store_far_lanes(a, p, lanes);
    else store_lanes(a, p, lanes);
  }
};

LR_INLINE void store_bf16_lanes(VF a, uint16_t* p, int64_t lanes) {
  if (lanes == kLanes) store_bf16(a, p);
  else
    for (int64_t i = 0; i < lanes; i++) p[i] = f32_to_bf16(a[(int)i]);
}

/* kLanes values from element i of a float32, bfloat16 or float16 array. */
LR_INLINE VF load_any(const void* data, int32_t dtype, int64_t i) {
  if (dtype == LR_F32) return VF::load((const float*)data + i);
  return dtype == LR_BF16 ? load_bf16((const uint16_t*)data + i) : load_f16((const uint16_t*)data + i);
}
LR_INLINE float load_one(const void* data, int32_t dtype, int64_t i) {
  if (dtype == LR_F32) return ((const float*)data)[i];
  const uint16_t half = ((const uint16_t*)data)[i];
  return dtype == LR_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}
LR_INLINE VF load_any_lanes(const void* data, int32_t dtype, int64_t i, int64_t lanes) {
  if (lanes == kLanes) return load_any(data, dtype, i);
  VF r = VF::zero();
  for (int64_t l = 0; l < lanes; l++) r.v[l] = load_one(data, dtype, i + l);
  return r;
}
LR_INLINE void store_any(VF a, void* data, int32_t dtype, int64_t i) {
  if (dtype == LR_F32) a.store((float*)data + i);
  else if (dtype == LR_BF16) store_bf16(a, (uint16_t*)data + i);
  else store_f16(a, (uint16_t*)data + i);
}
LR_INLINE void store_one(float a, void* data, int32_t dtype, int64_t i) {
  if (dtype == LR_F32) ((float*)data)[i] = a;
  else ((uint16_t*)data)[i] = dtype == LR_BF16 ? f32_to_bf16(a) : f32_to_f16(a);
}

}}  // namespace LR_ISA
#endif
