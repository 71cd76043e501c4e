/* Block quantisation with the semantics of bitsandbytes 0.50. Blocks run over the flat tensor.
 * 4-bit: a full block is multiplied by 1 / max(absmax, 1e-38); a short last one is divided by its absmax, which is at least 1e-38.
 *   The code's rank is the number of midpoints strictly below the scaled value; NaN takes the highest. Element 2i is in the high
 *   nibble, an odd count is padded with the code of 0.
 * 8-bit: nearest entry of an ascending map of 256 values to x * (1 / absmax), as in the library's CUDA kernels: on a midpoint the even
 *   code wins, and an all-zero block has code 0. */
#ifndef LOWRANK_CPU_OPS_QUANTIZE_H
#define LOWRANK_CPU_OPS_QUANTIZE_H
#include "../../core/codes.h"
#include "common.h"
#include "ranges.h"
#include "reduce.h"

namespace LR_ISA { namespace {

constexpr float kTiny = 1e-38f;

/* max(a, 1e-38) that lets NaN through. */
LR_INLINE float at_least_tiny(float a) { return a <= kTiny ? kTiny : a; }

/* Rank among ascending values by a binary search in a heap of the 15 midpoints, then the code of that rank. */
struct NearestCode4 {
  float heap[16], codes[16];
  explicit NearestCode4(int32_t code4) {
    const uint8_t* order = code4 == LR_FP4 ? lowrank::kFp4Order : lowrank::kNf4Order;
    float midpoints[15];
    lowrank::code4_midpoints(code4 == LR_FP4 ? lowrank::kFp4Values : lowrank::kNf4Values, order, midpoints);
    for (int level = 0, at = 0; level < 4; level++)
      for (int i = 0; i < 1 << level; i++) heap[at++] = midpoints[((2 * i + 1) << (3 - level)) - 1];
    heap[15] = 0.0f;
    for (int i = 0; i < 16; i++) codes[i] = f32_from_bits(order[i]);
  }
  LR_INLINE VI operator()(VF x) const {
    const Table16 midpoint = Table16::load(heap), code = Table16::load(codes);
    VI at = VI::zero();
    for (int level = 0; level < 4; level++) at = at + at + VI::set(2) + (x <= midpoint(at));
    return bits(code(at - VI::set(15)));
  }
};

/* Largest |x| of [begin, end), NaN if there is one: bit patterns of absolute values are ordered as integers. */
LR_INLINE float block_absmax(const void* x, int32_t dtype, int64_t begin, int64_t end) {
  VI largest = VI::zero();
  for_vectors(begin, end, [&](int64_t i, int64_t lanes) { largest = max(largest, bits(abs(load_any_lanes(x, dtype, i, lanes)))); });
  return f32_from_bits((uint32_t)hmax(largest));
}

LR_INLINE int32_t count_non_finite(const void* x, int32_t dtype, int64_t begin, int64_t end) {
  int32_t count = 0;
  for (int64_t i = begin; i < end; i++) count += (f32_bits(load_one(x, dtype, i)) & 0x7f800000u) == 0x7f800000u;
  return count;
}

lr_error quantize_4bit(lr_queue* queue, lr_tensor codes, lr_tensor absmax, lr_tensor non_finite, lr_tensor x, int32_t code4, int32_t blocksize) {
  Check check("quantize_4bit");
  check.floating("x", x);
  check.require(code4 == LR_NF4 || code4 == LR_FP4, "code4 must be 0 (nf4) or 1 (fp4) but is %d", (int)code4);
  check.require(blocksize >= 32 && blocksize <= 4096 && (blocksize & (blocksize - 1)) == 0,
                "blocksize must be a power of two from 32 to 4096 but is %d", (int)blocksize);
  if (check.failed) return check.error;
  const int64_t n = elements(x);
  check.tensor("codes", codes, LR_U8, ceil_div(n, 2));
  check.tensor("absmax", absmax, LR_F32, ceil_div(n, blocksize));
  check.optional("non_finite", non_finite, LR_I32, 1);
  if (check.failed) return check.error;
  const NearestCode4 nearest(code4);
  parallel_ranges(queue, n, [&](int64_t range_begin, int64_t range_end) {
    int32_t bad = 0;
    for (int64_t begin = range_begin; begin < range_end; begin += blocksize) {
      const int64_t end = min64(range_end, begin + blocksize);
      const bool full = end - begin == blocksize;
      float largest = block_absmax(x.data, x.dtype, begin, end);
      if (!(largest < __builtin_inff())) bad += count_non_finite(x.data, x.dtype, begin, end);
      const float divisor = at_least_tiny(largest);
      if (!full) largest = divisor;
      ((float*)absmax.data)[begin / blocksize] = largest;
      const VF factor = VF::set(full ? 1.0f / divisor : divisor);
      for (int64_t at = begin; at < end; at += 32) {
        int32_t code[32];
        for (int64_t i = 0; i < 32; i += kLanes) {
          const int64_t lanes = max64(0, min64(kLanes, end - at - i));
          const VF value = load_any_lanes(x.data, x.dtype, at + i, lanes); /* lanes past the end are 0, the padding */
          nearest(full ? value * factor : value / factor).store(code + i);
        }
        uint8_t* out = (uint8_t*)codes.data + at / 2;
        if (end - at >= 32) {
          for (int i = 0; i < 16; i++) out[i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
        } else {
          for (int i = 0; i < (end - at + 1) / 2; i++) out[i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
        }
      }
    }
    if (bad && non_finite.data) __atomic_fetch_add((int32_t*)non_finite.data, bad, __ATOMIC_RELAXED);
  });
  return success();
}

/* Midpoints for a strict comparison: those below an even code are moved down by one unit in the last place, so a tie is above them. */
LR_INLINE void code8_midpoints(const float* map, float* midpoints) {
  for (int i = 0; i < 255; i++) {
    const float middle = (map[i] + map[i + 1]) * 0.5f;
    const uint32_t bits = f32_bits(middle);
    midpoints[i] = i % 2 == 0 ? middle : middle == 0.0f ? -1.4e-45f : f32_from_bits(middle > 0.0f ? bits - 1 : bits + 1);
  }
}

/* Number of midpoints strictly below x. */
LR_INLINE uint8_t nearest_code8(const float* midpoints, float x) {
  int low = 0;
  for (int step = 128; step > 0; step /= 2)
    if (!(x <= midpoints[low + step - 1])) low += step;
  return (uint8_t)low;
}

/* Quantises x - offset. */
LR_INLINE void quantize_blocks8(lr_queue* queue, uint8_t* codes, float* absmax, const float* x, float offset, int64_t n, const float* map,
                                int64_t blocksize) {
  float midpoints[255];
  code8_midpoints(map, midpoints);
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) {
    uint32_t largest = 0;
    for (int64_t i = begin; i < end; i++) {
      const uint32_t magnitude = f32_bits(x[i] - offset) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
    absmax[begin / blocksize] = f32_from_bits(largest);
    const float inverse = 1.0f / f32_from_bits(largest);
    for (int64_t i = begin; i < end; i++) codes[i] = largest ? nearest_code8(midpoints, (x[i] - offset) * inverse) : 0;
  }, blocksize);
}

LR_INLINE void check_quantize8(Check& check, const lr_tensor& codes, const lr_tensor& absmax, const lr_tensor& x, const char* x_name,
                               const lr_tensor& map, int32_t blocksize) {
  check.tensor(x_name, x, LR_F32);
  check.require(blocksize >= 1, "blocksize must be positive but is %d", (int)blocksize);
  check.tensor("map", map, LR_F32, 256);
  if (check.failed) return;
  check.tensor("codes", codes, LR_U8, elements(x));
  check.tensor("absmax of blocks", absmax, LR_F32, ceil_div(elements(x), blocksize));
}

lr_error quantize_8bit(lr_queue* queue, lr_tensor codes, lr_tensor absmax, lr_tensor x, lr_tensor map, int32_t blocksize) {
  Check check("quantize_8bit");
  check_quantize8(check, codes, absmax, x, "x", map, blocksize);
  if (check.failed) return check.error;
  quantize_blocks8(queue, (uint8_t*)codes.data, (float*)absmax.data, (const float*)x.data, 0.0f, elements(x), (const float*)map.data, blocksize);
  return success();
}

lr_error quantize_absmax(lr_queue* queue, lr_tensor codes, lr_tensor nested_absmax, lr_tensor offset, lr_tensor absmax, lr_tensor map,
                         int32_t blocksize) {
  Check check("quantize_absmax");
  check_quantize8(check, codes, nested_absmax, absmax, "absmax", map, blocksize);
  check.tensor("offset", offset, LR_F32, 1);
  if (check.failed || elements(absmax) == 0) return check.error;
  const int64_t n = elements(absmax);
  const float mean = (float)(dot_f64(queue, (const float*)absmax.data, nullptr, n) / (double)n);
  *(float*)offset.data = mean;
  quantize_blocks8(queue, (uint8_t*)codes.data, (float*)nested_absmax.data, (const float*)absmax.data, mean, n, (const float*)map.data, blocksize);
  return success();
}

}}  // namespace LR_ISA
#endif
