// Tensors: a storage, a byte offset and a contiguous shape.
#include <algorithm>

#include "environment.h"

namespace lr {
namespace {

constexpr size_t kWidths[] = {4, 2, 2, 4, 1};  // in the order of lr_dtype
constexpr size_t kMaxBytes = size_t{1} << 47;  // what a process can address

// dtype and shape from arguments i and i + 1.
lr_tensor describe(Call& call, size_t i, size_t* bytes) {
  lr_tensor tensor{};
  tensor.dtype = static_cast<int32_t>(call.integer(i, LR_F32, LR_U8));
  call.shape(i + 1, &tensor.rank, tensor.shape);
  // Sizes of 0 are left out, so that no product of some of a tensor's sizes overflows anywhere behind this.
  size_t spanned = kWidths[tensor.dtype];
  bool empty = false;
  for (int32_t k = 0; k < tensor.rank; k++) {
    empty = empty || tensor.shape[k] == 0;
    if (__builtin_mul_overflow(spanned, static_cast<size_t>(std::max<int64_t>(tensor.shape[k], 1)), &spanned) || spanned > kMaxBytes)
      LR_THROW(LR_INVALID, call.op, "the shape spans more than 2^47 bytes");
  }
  *bytes = empty ? 0 : spanned;
  return tensor;
}

napi_value allocate(napi_env env, napi_callback_info info, const char* op, Memory Device::*memory) {
  return guarded(env, info, op, [&](Call& call) {
    call.arity(3);
    Device& device = call.device(0);
    TensorEntry entry{&device, nullptr, 0, 0, {}};
    entry.view = describe(call, 1, &entry.bytes);
    entry.storage = (device.*memory).allocate(entry.bytes);
    entry.view.data = entry.storage->data();
    double handle;
    try {
      handle = call.environment.tensors.add(entry, call.op);
    } catch (...) {
      entry.drop();
      throw;
    }
    return call.from(handle);
  });
}

napi_value alloc(napi_env env, napi_callback_info info) { return allocate(env, info, "alloc", &Device::memory); }
napi_value alloc_host(napi_env env, napi_callback_info info) { return allocate(env, info, "allocHost", &Device::host); }

napi_value view(napi_env env, napi_callback_info info) {
  return guarded(env, info, "view", [](Call& call) {
    call.arity(4);
    size_t bytes = 0;
    lr_tensor described = describe(call, 2, &bytes);
    TensorEntry entry = call.tensor_entry(0);
    const size_t offset = static_cast<size_t>(call.integer(1, 0, int64_t{1} << 52));
    if (offset > entry.bytes || bytes > entry.bytes - offset)
      LR_THROW(LR_INVALID, call.op, "bytes %zu to %zu are outside the tensor's %zu bytes", offset, offset + bytes, entry.bytes);
    entry.offset += offset;
    if (entry.offset % kWidths[described.dtype]) LR_THROW(LR_INVALID, call.op, "byte %zu of the storage is no multiple of the element's %zu bytes", entry.offset, kWidths[described.dtype]);
    described.data = static_cast<uint8_t*>(entry.view.data) + offset;
    entry.bytes = bytes;
    entry.view = described;
    const double handle = call.environment.tensors.add(entry, call.op);
    entry.storage->retain();
    return call.from(handle);
  });
}

}  // namespace

void define_tensors(napi_env env, napi_value exports) {
  define(env, exports, "alloc", alloc);
  define(env, exports, "allocHost", alloc_host);
  define(env, exports, "view", view);
  define_free<TensorEntry, &Environment::tensors>(env, exports);
}

}  // namespace lr
