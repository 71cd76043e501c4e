/* What an entry of any backend does before it computes: errors, sizes of tensors, Check, and its parts of the scratch. One place, so that
 * all devices refuse in the same words. Everything has internal linkage: objects built for different instruction sets share no function. */
#ifndef LOWRANK_ABI_ENTRY_H
#define LOWRANK_ABI_ENTRY_H
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "backend.h"

#define LR_HOST inline __attribute__((always_inline, unused))

namespace lr { namespace {

LR_HOST lr_error success() {
  lr_error e;
  e.code = LR_OK;
  e.op = "";
  e.text[0] = 0;
  return e;
}

__attribute__((format(printf, 2, 3), unused)) lr_error invalid(const char* op, const char* format, ...) {
  lr_error e;
  e.code = LR_INVALID;
  e.op = op;
  va_list args;
  va_start(args, format);
  vsnprintf(e.text, sizeof(e.text), format, args);
  va_end(args);
  return e;
}

LR_HOST int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
LR_HOST int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
LR_HOST int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LR_HOST int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

LR_HOST int64_t elements(const lr_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) n *= t.shape[i];
  return n;
}
LR_HOST size_t dtype_size(int32_t dtype) { return dtype == LR_F32 || dtype == LR_I32 ? 4 : dtype == LR_U8 ? 1 : 2; }

LR_HOST size_t bytes_of(const lr_tensor& t) { return (size_t)elements(t) * dtype_size(t.dtype); }
LR_HOST bool present(const lr_tensor& t) { return t.data != nullptr; }

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

/* Validation of an entry's tensors: the first violated rule is kept as the entry's error. */
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

/* Hands out 64-byte aligned parts of the queue's scratch. While sizing it only counts (and returns NULL). Usage:
 *   Scratch scratch(queue);  float* a = scratch.take<float>(n);  if (scratch.sizing()) return success(); */
struct Scratch {
  lr_queue* queue;
  size_t used = 0;
  explicit Scratch(lr_queue* q) : queue(q) {}
  template <typename T> LR_HOST T* take(int64_t n) {
    size_t at = used;
    used += ((size_t)(n > 0 ? n : 0) * sizeof(T) + 63) & ~(size_t)63;
    return queue->sizing ? nullptr : reinterpret_cast<T*>(static_cast<char*>(queue->scratch) + at);
  }
  LR_HOST bool sizing() {
    if (queue->sizing) queue->scratch_size = used;
    return queue->sizing != 0;
  }
};

}}  // namespace lr
#undef LR_HOST
#endif
