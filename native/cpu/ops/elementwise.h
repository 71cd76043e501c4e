/* fill, copy (with conversion), axpy, add, scale_rows, copy_columns: flat float32 loops over a fixed partition. */
#ifndef LOWRANK_CPU_OPS_ELEMENTWISE_H
#define LOWRANK_CPU_OPS_ELEMENTWISE_H
#include "../../abi/columns.h"
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

lr_error fill(lr_queue* queue, lr_tensor y, double value) {
  Check check("fill");
  check.require(present(y), "y must be given");
  const bool integer = y.dtype == LR_I32 || y.dtype == LR_U8;
  const double low = y.dtype == LR_I32 ? INT32_MIN : 0, high = y.dtype == LR_I32 ? INT32_MAX : UINT8_MAX;
  check.require(!integer || (value >= low && value <= high && value == __builtin_floor(value)), "%g is no value of %s", value, dtype_name(y.dtype));
  if (check.failed) return check.error;
  const float f = (float)value;
  const uint16_t half = y.dtype == LR_BF16 ? f32_to_bf16(f) : f32_to_f16(f);
  parallel_ranges(queue, elements(y), [&](int64_t begin, int64_t end) {
    if (y.dtype == LR_F32) {
      const FarStores out(elements(y), false);
      for_vectors(begin, end, [&](int64_t i, int64_t lanes) { out.store(VF::set(f), (float*)y.data + i, lanes); });
    } else if (y.dtype == LR_I32) {
      for (int64_t i = begin; i < end; i++) ((int32_t*)y.data)[i] = (int32_t)value;
    } else if (y.dtype == LR_U8) {
      memset((uint8_t*)y.data + begin, (uint8_t)value, (size_t)(end - begin));
    } else {
      for (int64_t i = begin; i < end; i++) ((uint16_t*)y.data)[i] = half;
    }
  });
  return success();
}

lr_error copy(lr_queue* queue, lr_tensor y, lr_tensor x) {
  Check check("copy");
  check.require(present(y) && present(x), "y and x must be given");
  check.elements_of("y", y, elements(x));
  if (y.dtype != x.dtype) {
    check.floating("x", x);
    check.floating("y", y);
  }
  if (check.failed) return check.error;
  const int64_t size = (int64_t)dtype_size(x.dtype);
  parallel_ranges(queue, elements(x), [&](int64_t begin, int64_t end) {
    if (y.dtype == x.dtype) {
      memmove((char*)y.data + begin * size, (const char*)x.data + begin * size, (size_t)((end - begin) * size));
      return;
    }
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store_any(load_any(x.data, x.dtype, i), y.data, y.dtype, i);
    for (; i < end; i++) store_one(load_one(x.data, x.dtype, i), y.data, y.dtype, i);
  });
  return success();
}

lr_error axpy(lr_queue* queue, lr_tensor y, lr_tensor x, float alpha) {
  Check check("axpy");
  check.tensor("x", x, LR_F32);
  check.tensor("y", y, LR_F32, elements(x));
  if (check.failed) return check.error;
  float* py = (float*)y.data;
  const float* px = (const float*)x.data;
  const VF factor = VF::set(alpha);
  parallel_ranges(queue, elements(x), [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      store_lanes(fma(factor, load_lanes(px + i, lanes), load_lanes(py + i, lanes)), py + i, lanes);
    });
  });
  return success();
}

lr_error add(lr_queue* queue, lr_tensor y, lr_tensor a, lr_tensor b) {
  Check check("add");
  check.tensor("a", a, LR_F32);
  check.tensor("b", b, LR_F32, elements(a));
  check.tensor("y", y, LR_F32, elements(a));
  if (check.failed) return check.error;
  float* py = (float*)y.data;
  const float *pa = (const float*)a.data, *pb = (const float*)b.data;
  parallel_ranges(queue, elements(a), [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
      store_lanes(load_lanes(pa + i, lanes) + load_lanes(pb + i, lanes), py + i, lanes);
    });
  });
  return success();
}

lr_error scale_rows(lr_queue* queue, lr_tensor y, lr_tensor x, lr_tensor s, int32_t accumulate) {
  Check check("scale_rows");
  check.tensor("x", x, LR_F32);
  check.tensor("y", y, LR_F32, elements(x));
  check.tensor("s", s, LR_F32);
  const int64_t rows = present(s) ? elements(s) : 0, n = elements(x);
  check.require(rows > 0 ? n % rows == 0 : n == 0, "s has %lld elements, which do not divide the %lld elements of x", (long long)rows,
                (long long)n);
  if (check.failed || n == 0) return check.error;
  const int64_t d = n / rows;
  parallel_ranges(queue, rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* px = (const float*)x.data + r * d;
      float* py = (float*)y.data + r * d;
      const VF factor = VF::set(((const float*)s.data)[r]);
      for_vectors(0, d, [&](int64_t i, int64_t lanes) {
        const VF scaled = factor * load_lanes(px + i, lanes);
        store_lanes(accumulate ? load_lanes(py + i, lanes) + scaled : scaled, py + i, lanes);
      });
    }
  }, max64(1, kRange / d));
  return success();
}

lr_error copy_columns(lr_queue* queue, lr_tensor y, lr_tensor x, int32_t y_begin, int32_t x_begin, int32_t columns) {
  Check check("copy_columns");
  check_copy_columns(check, y, x, y_begin, x_begin, columns);
  if (check.failed || columns == 0) return check.error;
  const int64_t wide_y = y.shape[1], wide_x = x.shape[1];
  parallel_ranges(queue, x.shape[0], [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      memmove((float*)y.data + r * wide_y + y_begin, (const float*)x.data + r * wide_x + x_begin, (size_t)columns * sizeof(float));
  }, max64(1, kRange / columns));
  return success();
}

}}  // namespace LR_ISA
#endif
