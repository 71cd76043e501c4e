// fill, copy (with conversion), axpy, add, scale_rows, copy_columns: one element a thread and stride; four where everything is 16-byte aligned.
// hot: map4_kernel: 256 threads, 0 bytes shared, 6 blocks
// hot: map_kernel: 256 threads, 0 bytes shared, 6 blocks
// hot: scale_rows_kernel: 256 threads, 0 bytes shared, 6 blocks
// hot: convert_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../../abi/columns.h"
#include "../device/shared.cuh"
#include "../table.cuh"

namespace lr {
namespace {

template <class T> __global__ void fill_kernel(T* y, int64_t n, T value) {
  LR_FOR_EACH(i, n) y[i] = value;
}
template <class To, class From> __global__ void convert_kernel(To* y, const From* x, int64_t n) {
  LR_FOR_EACH(i, n) y[i] = from_float<To>(to_float(x[i]));
}
template <class T> __global__ void float_fill_kernel(T* y, int64_t n, float value) {
  LR_FOR_EACH(i, n) y[i] = from_float<T>(value);
}

struct Axpy {
  float alpha;
  __device__ float operator()(float y, float x, float) const { return fmaf(alpha, x, y); }
};
struct Sum {
  __device__ float operator()(float, float a, float b) const { return a + b; }
};

// y[i] = op(y[i], a[i], b[i]) for what the op reads.
template <class Op, bool ReadsY> __global__ void map_kernel(float* y, const float* a, const float* b, int64_t n, Op op) {
  LR_FOR_EACH(i, n) y[i] = op(ReadsY ? y[i] : 0.0f, a[i], ReadsY ? 0.0f : b[i]);
}
template <class Op, bool ReadsY> __global__ void map4_kernel(float* y, const float* a, const float* b, int64_t n, Op op) {
  LR_FOR_EACH(i, n / 4) {
    const float4 va = load4(a + 4 * i), vb = ReadsY ? load4(y + 4 * i) : load4(b + 4 * i);
    float4 r;
    r.x = ReadsY ? op(vb.x, va.x, 0.0f) : op(0.0f, va.x, vb.x);
    r.y = ReadsY ? op(vb.y, va.y, 0.0f) : op(0.0f, va.y, vb.y);
    r.z = ReadsY ? op(vb.z, va.z, 0.0f) : op(0.0f, va.z, vb.z);
    r.w = ReadsY ? op(vb.w, va.w, 0.0f) : op(0.0f, va.w, vb.w);
    store4(y + 4 * i, r);
  }
}

template <bool ReadsY, class Op> void map(float* y, const float* a, const float* b, int64_t n, Op op) {
  if (n % 4 == 0 && aligned16(y) && aligned16(a) && aligned16(b)) LR_LAUNCH((map4_kernel<Op, ReadsY>), blocks_for(n / 4, kThreads), kThreads, 0, y, a, b, n, op);
  else LR_LAUNCH((map_kernel<Op, ReadsY>), blocks_for(n, kThreads), kThreads, 0, y, a, b, n, op);
}

__global__ void scale_rows_kernel(float* y, const float* x, const float* s, int64_t n, int64_t d, int accumulate) {
  LR_FOR_EACH(i, n) {
    const float scaled = s[i / d] * x[i];
    y[i] = accumulate ? y[i] + scaled : scaled;
  }
}

// y and x begin at their first column; n = rows * columns.
__global__ void copy_columns_kernel(float* y, const float* x, int64_t n, int64_t columns, int64_t wide_y, int64_t wide_x) {
  LR_FOR_EACH(i, n) y[i / columns * wide_y + i % columns] = x[i / columns * wide_x + i % columns];
}

}  // namespace

lr_error fill(lr_queue*, lr_tensor y, double value) {
  Check check("fill");
  check.require(present(y), "y must be given");
  if (check.failed) return check.error;
  const int64_t n = elements(y);
  const unsigned blocks = blocks_for(n, kThreads);
  if (y.dtype == LR_I32) LR_LAUNCH(fill_kernel<int32_t>, blocks, kThreads, 0, (int32_t*)y.data, n, (int32_t)value);
  else if (y.dtype == LR_U8) LR_LAUNCH(fill_kernel<uint8_t>, blocks, kThreads, 0, (uint8_t*)y.data, n, (uint8_t)value);
  else
    with_type(y.dtype, [&](auto of_y) {
      using T = decltype(of_y);
      LR_LAUNCH(float_fill_kernel<T>, blocks, kThreads, 0, (T*)y.data, n, (float)value);
    });
  return finish("fill");
}

lr_error copy(lr_queue*, lr_tensor y, lr_tensor x) {
  Check check("copy");
  check.require(present(y) && present(x), "y and x must be given");
  check.elements_of("y", y, elements(x));
  if (y.dtype != x.dtype) {
    check.floating("x", x);
    check.floating("y", y);
  }
  if (check.failed) return check.error;
  const int64_t n = elements(x);
  if (y.dtype == x.dtype) {
    const size_t size = x.dtype == LR_F32 || x.dtype == LR_I32 ? 4 : x.dtype == LR_U8 ? 1 : 2;
    cudaMemcpyAsync(y.data, x.data, size * (size_t)n, cudaMemcpyDeviceToDevice, stream());
  } else {
    with_type(y.dtype, [&](auto of_y) {
      with_type(x.dtype, [&](auto of_x) {
        using To = decltype(of_y);
        using From = decltype(of_x);
        LR_LAUNCH((convert_kernel<To, From>), blocks_for(n, kThreads), kThreads, 0, (To*)y.data, (const From*)x.data, n);
      });
    });
  }
  return finish("copy");
}

lr_error axpy(lr_queue*, lr_tensor y, lr_tensor x, float alpha) {
  Check check("axpy");
  check.tensor("x", x, LR_F32);
  check.tensor("y", y, LR_F32, elements(x));
  if (check.failed) return check.error;
  map<true>((float*)y.data, (const float*)x.data, (const float*)x.data, elements(x), Axpy{alpha});
  return finish("axpy");
}

lr_error add(lr_queue*, lr_tensor y, lr_tensor a, lr_tensor b) {
  Check check("add");
  check.tensor("a", a, LR_F32);
  check.tensor("b", b, LR_F32, elements(a));
  check.tensor("y", y, LR_F32, elements(a));
  if (check.failed) return check.error;
  map<false>((float*)y.data, (const float*)a.data, (const float*)b.data, elements(a), Sum{});
  return finish("add");
}

lr_error scale_rows(lr_queue*, lr_tensor y, lr_tensor x, lr_tensor s, int32_t accumulate) {
  Check check("scale_rows");
  check.tensor("x", x, LR_F32);
  check.tensor("y", y, LR_F32, elements(x));
  check.tensor("s", s, LR_F32);
  const int64_t rows = present(s) ? elements(s) : 0, n = elements(x);
  check.require(rows > 0 ? n % rows == 0 : n == 0, "s has %lld elements, which do not divide the %lld elements of x", (long long)rows, (long long)n);
  if (check.failed || n == 0) return check.error;
  LR_LAUNCH(scale_rows_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)y.data, (const float*)x.data, (const float*)s.data, n, n / rows, accumulate);
  return finish("scale_rows");
}

lr_error copy_columns(lr_queue*, lr_tensor y, lr_tensor x, int32_t y_begin, int32_t x_begin, int32_t columns) {
  Check check("copy_columns");
  check_copy_columns(check, y, x, y_begin, x_begin, columns);
  const int64_t n = check.failed ? 0 : x.shape[0] * columns;
  if (n == 0) return check.error;
  LR_LAUNCH(copy_columns_kernel, blocks_for(n, kThreads), kThreads, 0, (float*)y.data + y_begin, (const float*)x.data + x_begin, n, (int64_t)columns, y.shape[1],
            x.shape[1]);
  return finish("copy_columns");
}

}  // namespace lr
