// Dequantisation of 4-bit weights (value = code[nibble] * absmax[block] in float32, the product rounded to bf16 where the weight says so),
// with double quantisation in the same kernel, and of 8-bit blocks (value = map[code] * absmax[block]). A thread a byte.
// hot: dequantize_4bit_kernel: 256 threads, 0 bytes shared, 5 blocks
#include "../device/weight.cuh"
#include "../table.cuh"

namespace lr {
namespace {

template <class T> __global__ void dequantize_4bit_kernel(T* y, lr_weight w, int64_t n) {
  LR_FOR_EACH(at, (n + 1) / 2) {
    const uint8_t byte = ((const uint8_t*)w.data)[at];
    for (int half = 0; half < 2; half++) {
      const int64_t i = 2 * at + half;
      if (i >= n) break;
      const float product = w.code[half ? byte & 15 : byte >> 4] * absmax_of(w, i / w.blocksize);
      y[i] = from_float<T>(w.round ? round_bf16(product) : product);
    }
  }
}

__global__ void dequantize_8bit_kernel(float* y, const uint8_t* codes, const float* absmax, const float* map, int64_t n, int64_t blocksize) {
  LR_FOR_EACH(i, n) y[i] = map[codes[i]] * absmax[i / blocksize];
}

}  // namespace

lr_error dequantize_4bit(lr_queue*, lr_tensor y, const lr_weight* weight) {
  const lr_weight& w = *weight;
  Check check("dequantize_4bit");
  check.require(w.kind == LR_WEIGHT_4BIT, "the weight must be 4-bit but is dense");
  check.floating("y", y, w.n * w.k);
  check.require(w.blocksize >= 1, "blocksize must be positive but is %d", (int)w.blocksize);
  check.require(!w.nested_absmax || w.nested_blocksize >= 1, "nested blocksize must be positive but is %d", (int)w.nested_blocksize);
  if (check.failed) return check.error;
  const int64_t n = w.n * w.k;
  with_type(y.dtype, [&](auto of_y) {
    using T = decltype(of_y);
    LR_LAUNCH(dequantize_4bit_kernel<T>, blocks_for((n + 1) / 2, kThreads), kThreads, 0, (T*)y.data, w, n);
  });
  return finish("dequantize_4bit");
}

lr_error dequantize_8bit(lr_queue*, lr_tensor y, lr_tensor codes, lr_tensor absmax, lr_tensor map, int32_t blocksize) {
  Check check("dequantize_8bit");
  check.tensor("y", y, LR_F32);
  check.require(blocksize >= 1, "blocksize must be positive but is %d", (int)blocksize);
  check.tensor("map", map, LR_F32, 256);
  if (check.failed) return check.error;
  const int64_t n = elements(y);
  check.tensor("codes", codes, LR_U8, n);
  check.tensor("absmax", absmax, LR_F32, (n + blocksize - 1) / blocksize);
  if (check.failed) return check.error;
  LR_LAUNCH(dequantize_8bit_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)y.data, (const uint8_t*)codes.data, (const float*)absmax.data,
            (const float*)map.data, n, (int64_t)blocksize);
  return finish("dequantize_8bit");
}

}  // namespace lr
