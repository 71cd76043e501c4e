// Validation of an entry's tensors, on the host: the first violated rule is kept as the entry's error. The sentences are those of cpu/ops/check.h,
// which the conformance suite compares.
#ifndef LOWRANK_CUDA_DEVICE_CHECK_CUH
#define LOWRANK_CUDA_DEVICE_CHECK_CUH
#include "launch.cuh"

namespace lr {

inline const char* dtype_name(int32_t dtype) {
  static const char* const names[] = {"float32", "bfloat16", "float16", "int32", "uint8"};
  return dtype >= 0 && dtype <= LR_U8 ? names[dtype] : "of an unknown dtype";
}

struct Check {
  static constexpr int64_t kAnyCount = -1;
  const char* op;
  bool failed = false;
  lr_error error = success();
  explicit Check(const char* name) : op(name) {}

  __attribute__((format(printf, 3, 4))) void require(bool condition, const char* format, ...) {
    if (condition || failed) return;
    failed = true;
    error.code = LR_INVALID;
    error.op = op;
    va_list args;
    va_start(args, format);
    vsnprintf(error.text, sizeof error.text, format, args);
    va_end(args);
  }
  void elements_of(const char* name, const lr_tensor& t, int64_t count) {
    require(count == kAnyCount || elements(t) == count, "%s must have %lld elements but has %lld", name, (long long)count, (long long)elements(t));
  }
  void tensor(const char* name, const lr_tensor& t, int32_t dtype, int64_t count = kAnyCount) {
    require(present(t), "%s must be given", name);
    require(t.dtype == dtype, "%s must be %s but is %s", name, dtype_name(dtype), dtype_name(t.dtype));
    elements_of(name, t, count);
  }
  void optional(const char* name, const lr_tensor& t, int32_t dtype, int64_t count = kAnyCount) {
    if (present(t)) tensor(name, t, dtype, count);
  }
  void floating(const char* name, const lr_tensor& t, int64_t count = kAnyCount) {
    require(present(t), "%s must be given", name);
    require(t.dtype == LR_F32 || t.dtype == LR_BF16 || t.dtype == LR_F16, "%s must be float32, bfloat16 or float16 but is %s", name, dtype_name(t.dtype));
    elements_of(name, t, count);
  }
  // Indices are checked before they are used: an output on top of them would replace them in between.
  void apart(const char* name, const lr_tensor& indices, const char* other_name, const lr_tensor& other) {
    if (failed || !present(indices) || !present(other)) return;
    const char *a = (const char*)indices.data, *b = (const char*)other.data;
    require(a + bytes_of(indices) <= b || b + bytes_of(other) <= a, "%s must not overlap %s", other_name, name);
  }
  void rank(const char* name, const lr_tensor& t, int32_t rank) {
    require(t.rank == rank, "%s must have %d dimensions but has %d", name, (int)rank, (int)t.rank);
  }
};

}  // namespace lr
#endif
