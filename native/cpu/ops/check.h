/* Validation of an entry's tensors: the first violated rule is kept as the entry's error. */
#ifndef LOWRANK_CPU_OPS_CHECK_H
#define LOWRANK_CPU_OPS_CHECK_H
#include "common.h"

namespace LR_ISA { namespace {

LR_INLINE bool present(const lr_tensor& t) { return t.data != nullptr; }

__attribute__((unused)) const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case LR_F32: return "float32";
    case LR_BF16: return "bfloat16";
    case LR_F16: return "float16";
    case LR_I32: return "int32";
    case LR_U8: return "uint8";
  }
  return "of an unknown dtype";
}

constexpr int64_t kAnyCount = -1;

struct Check {
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
    vsnprintf(error.text, sizeof(error.text), format, args);
    va_end(args);
  }
  void optional(const char* name, const lr_tensor& t, int32_t dtype, int64_t count = kAnyCount) {
    if (present(t)) tensor(name, t, dtype, count);
  }
  void tensor(const char* name, const lr_tensor& t, int32_t dtype, int64_t count = kAnyCount) {
    require(present(t), "%s must be given", name);
    require(t.dtype == dtype, "%s must be %s but is %s", name, dtype_name(dtype), dtype_name(t.dtype));
    elements_of(name, t, count);
  }
  void floating(const char* name, const lr_tensor& t, int64_t count = kAnyCount) {
    require(present(t), "%s must be given", name);
    require(t.dtype == LR_F32 || t.dtype == LR_BF16 || t.dtype == LR_F16, "%s must be float32, bfloat16 or float16 but is %s", name,
            dtype_name(t.dtype));
    elements_of(name, t, count);
  }
  void elements_of(const char* name, const lr_tensor& t, int64_t count) {
    require(count == kAnyCount || elements(t) == count, "%s must have %lld elements but has %lld", name, (long long)count,
            (long long)elements(t));
  }
  /* Indices are checked before they are used: an output on top of them would replace them in between. */
  void apart(const char* name, const lr_tensor& indices, const char* other_name, const lr_tensor& other) {
    if (failed || !present(indices) || !present(other)) return;
    const char *a = (const char*)indices.data, *b = (const char*)other.data;
    require(a + bytes_of(indices) <= b || b + bytes_of(other) <= a, "%s must not overlap %s", other_name, name);
  }
  /* A tensor of bytes that is read as structures. */
  void aligned(const char* name, const lr_tensor& t) { require((uintptr_t)t.data % 8 == 0, "%s must begin at a multiple of 8 bytes", name); }
  void rank(const char* name, const lr_tensor& t, int32_t rank) {
    require(t.rank == rank, "%s must have %d dimensions but has %d", name, (int)rank, (int)t.rank);
  }
};

}}  // namespace LR_ISA
#endif
