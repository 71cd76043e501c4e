// Block quantisation with the semantics of bitsandbytes 0.50, described in cpu/ops/quantize.h, byte for byte. A warp a block of values.
// hot: quantize_4bit_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../../core/codes.h"
#include "../device/code8.cuh"
#include "../device/reduce.cuh"
#include "../device/shared.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int kWarps = kThreads / kWarpSize;
constexpr float kTiny = 1e-38f;

struct Code4 {
  float midpoints[15];
  uint8_t order[16];
};

// Code of the rank: the number of midpoints strictly below x; NaN takes the highest.
__device__ __forceinline__ uint32_t nearest_code4(const Code4& code, float x) {
  int rank = 0;
  for (int i = 0; i < 15; i++) rank += !(x <= code.midpoints[i]);
  return code.order[rank];
}

template <class T>
__global__ void quantize_4bit_kernel(uint8_t* codes, float* absmax, int32_t* non_finite, const T* x, int64_t n, int64_t blocksize, Code4 code) {
  const int lane = (int)threadIdx.x % kWarpSize;
  for (int64_t block = (int64_t)blockIdx.x * kWarps + threadIdx.x / kWarpSize; block * blocksize < n; block += (int64_t)gridDim.x * kWarps) {
    const int64_t begin = block * blocksize, end = begin + blocksize < n ? begin + blocksize : n;
    // Bit patterns of absolute values are ordered as integers, NaN above all.
    uint32_t largest_bits = 0;
    int bad = 0;
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      const uint32_t magnitude = __float_as_uint(to_float(x[i])) & 0x7fffffffu;
      largest_bits = magnitude > largest_bits ? magnitude : largest_bits;
      bad += magnitude >= 0x7f800000u;
    }
    largest_bits = warp_reduce(largest_bits, Max());
    bad = warp_reduce(bad, Add());
    float largest = __uint_as_float(largest_bits);
    const bool full = end - begin == blocksize;
    const float divisor = largest <= kTiny ? kTiny : largest; // NaN passes
    if (!full) largest = divisor;
    const float factor = full ? 1.0f / divisor : divisor;
    if (lane == 0) {
      absmax[block] = largest;
      if (bad && non_finite) atomicAdd(non_finite, bad);
    }
    for (int64_t i = begin + 2 * lane; i < end; i += 2 * kWarpSize) {
      const float high = to_float(x[i]), low = i + 1 < end ? to_float(x[i + 1]) : 0.0f;
      const uint32_t high_code = nearest_code4(code, full ? high * factor : high / factor), low_code = nearest_code4(code, full ? low * factor : low / factor);
      codes[i / 2] = (uint8_t)(high_code << 4 | low_code);
    }
  }
}

// Quantises x - *offset (offset NULL: 0).
__global__ void quantize_8bit_kernel(uint8_t* codes, float* absmax, const float* x, const float* offset, const float* map, int64_t n, int64_t blocksize) {
  LR_SHARED_MEMORY(memory);
  float* midpoints = (float*)memory; // 255
  for (int i = (int)threadIdx.x; i < 255; i += (int)blockDim.x) midpoints[i] = code8_midpoint(map, i);
  __syncthreads();
  const int lane = (int)threadIdx.x % kWarpSize;
  const float shift = offset ? *offset : 0.0f;
  for (int64_t block = (int64_t)blockIdx.x * kWarps + threadIdx.x / kWarpSize; block * blocksize < n; block += (int64_t)gridDim.x * kWarps) {
    const int64_t begin = block * blocksize, end = begin + blocksize < n ? begin + blocksize : n;
    uint32_t largest = 0;
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      const uint32_t magnitude = __float_as_uint(x[i] - shift) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
    largest = warp_reduce(largest, Max());
    if (lane == 0) absmax[block] = __uint_as_float(largest);
    const float inverse = 1.0f / __uint_as_float(largest);
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      codes[i] = (uint8_t)(largest ? nearest_code8(midpoints, __fmul_rn(x[i] - shift, inverse)) : 0);
    }
  }
}

void check_quantize8(Check& check, const lr_tensor& codes, const lr_tensor& absmax, const lr_tensor& x, const char* x_name, const lr_tensor& map,
                     int32_t blocksize) {
  check.tensor(x_name, x, LR_F32);
  check.require(blocksize >= 1, "blocksize must be positive but is %d", (int)blocksize);
  check.tensor("map", map, LR_F32, 256);
  if (check.failed) return;
  check.tensor("codes", codes, LR_U8, elements(x));
  check.tensor("absmax of blocks", absmax, LR_F32, (elements(x) + blocksize - 1) / blocksize);
}

void quantize_blocks8(const lr_tensor& codes, const lr_tensor& absmax, const lr_tensor& x, const float* offset, const lr_tensor& map, int64_t blocksize) {
  const int64_t n = elements(x);
  LR_LAUNCH(quantize_8bit_kernel, blocks_for(n, blocksize * kWarps), kThreads, 255 * sizeof(float), (uint8_t*)codes.data, (float*)absmax.data,
            (const float*)x.data, offset, (const float*)map.data, n, blocksize);
}

}  // namespace

lr_error quantize_4bit(lr_queue*, lr_tensor codes, lr_tensor absmax, lr_tensor non_finite, lr_tensor x, int32_t code4, int32_t blocksize) {
  Check check("quantize_4bit");
  check.floating("x", x);
  check.require(code4 == LR_NF4 || code4 == LR_FP4, "code4 must be 0 (nf4) or 1 (fp4) but is %d", (int)code4);
  check.require(blocksize >= 32 && blocksize <= 4096 && (blocksize & (blocksize - 1)) == 0,
                "blocksize must be a power of two from 32 to 4096 but is %d", (int)blocksize);
  if (check.failed) return check.error;
  const int64_t n = elements(x);
  check.tensor("codes", codes, LR_U8, (n + 1) / 2);
  check.tensor("absmax", absmax, LR_F32, (n + blocksize - 1) / blocksize);
  check.optional("non_finite", non_finite, LR_I32, 1);
  if (check.failed) return check.error;
  Code4 code;
  const uint8_t* order = code4 == LR_FP4 ? lowrank::kFp4Order : lowrank::kNf4Order;
  for (int i = 0; i < 16; i++) code.order[i] = order[i];
  lowrank::code4_midpoints(code4 == LR_FP4 ? lowrank::kFp4Values : lowrank::kNf4Values, order, code.midpoints);
  with_type(x.dtype, [&](auto of_x) {
    using T = decltype(of_x);
    LR_LAUNCH(quantize_4bit_kernel<T>, blocks_for(n, (int64_t)blocksize * kWarps), kThreads, 0, (uint8_t*)codes.data, (float*)absmax.data,
              (int32_t*)non_finite.data, (const T*)x.data, n, (int64_t)blocksize, code);
  });
  return finish("quantize_4bit");
}

lr_error quantize_8bit(lr_queue*, lr_tensor codes, lr_tensor absmax, lr_tensor x, lr_tensor map, int32_t blocksize) {
  Check check("quantize_8bit");
  check_quantize8(check, codes, absmax, x, "x", map, blocksize);
  if (check.failed) return check.error;
  quantize_blocks8(codes, absmax, x, nullptr, map, blocksize);
  return finish("quantize_8bit");
}

lr_error quantize_absmax(lr_queue*, lr_tensor codes, lr_tensor nested_absmax, lr_tensor offset, lr_tensor absmax, lr_tensor map, int32_t blocksize) {
  Check check("quantize_absmax");
  check_quantize8(check, codes, nested_absmax, absmax, "absmax", map, blocksize);
  check.tensor("offset", offset, LR_F32, 1);
  const int64_t n = present(absmax) ? elements(absmax) : 0;
  if (check.failed || n == 0) return check.error;
  enqueue_dot((float*)offset.data, nullptr, (const float*)absmax.data, nullptr, n, 1.0 / (double)n, false);
  quantize_blocks8(codes, nested_absmax, absmax, (const float*)offset.data, map, blocksize);
  return finish("quantize_absmax");
}

}  // namespace lr
