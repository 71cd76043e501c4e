/* Dequantisation of 4-bit weights (value = code[nibble] * absmax[block] in float32, the product rounded to bf16 where the weight
 * says so) and of 8-bit blocks (value = map[code] * absmax[block]). */
#ifndef LOWRANK_CPU_OPS_DEQUANTIZE_H
#define LOWRANK_CPU_OPS_DEQUANTIZE_H
#include "common.h"
#include "pack.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* Elements [begin, end) of one block; begin is even where the vector loop is entered. */
LR_INLINE void dequantize_block4(const lr_weight& w, const Table16& table, const lr_tensor& y, const FarStores& out, int64_t begin, int64_t end, float scale) {
  const uint8_t* codes = (const uint8_t*)w.data;
  const VF factor = VF::set(scale);
  int64_t i = begin;
  if (i % 2 == 0)
    for (; i + kLanes <= end; i += kLanes) {
      const VF product = table(load_nibbles(codes + i / 2)) * factor, value = w.round ? round_bf16(product) : product;
      if (y.dtype == LR_F32) out.store(value, (float*)y.data + i, kLanes);
      else store_any(value, y.data, y.dtype, i);
    }
  for (; i < end; i++) {
    const float product = w.code[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * scale;
    store_one(w.round ? round_bf16(product) : product, y.data, y.dtype, i);
  }
}

lr_error dequantize_4bit(lr_queue* queue, lr_tensor y, const lr_weight* weight) {
  const lr_weight& w = *weight;
  Check check("dequantize_4bit");
  check.require(w.kind == LR_WEIGHT_4BIT, "the weight must be 4-bit but is dense");
  check.floating("y", y, w.n * w.k);
  check.require(w.blocksize >= 1, "blocksize must be positive but is %d", (int)w.blocksize);
  check.require(!w.nested_absmax || w.nested_blocksize >= 1, "nested blocksize must be positive but is %d", (int)w.nested_blocksize);
  if (check.failed) return check.error;
  const int64_t n = w.n * w.k, blocksize = w.blocksize, blocks = ceil_div(n, blocksize);
  parallel_ranges(queue, blocks, [&](int64_t first, int64_t last) {
    const Table16 table = Table16::load(w.code);
    const FarStores out(n, false);
    for (int64_t b = first; b < last; b++)
      dequantize_block4(w, table, y, out, b * blocksize, min64(n, (b + 1) * blocksize), absmax_of(w, b));
  }, max64(1, kRange / blocksize));
  return success();
}

lr_error dequantize_8bit(lr_queue* queue, lr_tensor y, lr_tensor codes, lr_tensor absmax, lr_tensor map, int32_t blocksize) {
  Check check("dequantize_8bit");
  check.tensor("y", y, LR_F32);
  check.require(blocksize >= 1, "blocksize must be positive but is %d", (int)blocksize);
  check.tensor("map", map, LR_F32, 256);
  if (check.failed) return check.error;
  const int64_t n = elements(y);
  check.tensor("codes", codes, LR_U8, n);
  check.tensor("absmax", absmax, LR_F32, ceil_div(n, blocksize));
  if (check.failed) return check.error;
  parallel_ranges(queue, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      ((float*)y.data)[i] = ((const float*)map.data)[((const uint8_t*)codes.data)[i]] * ((const float*)absmax.data)[i / blocksize];
  });
  return success();
}

}}  // namespace LR_ISA
#endif
