// Weights: dense, or 4-bit with their code book and statistics. They keep the storages of their tensors.
#include "environment.h"

namespace lr {
namespace {

int64_t elements(const lr_tensor& t) {
  int64_t n = 1;
  for (int32_t k = 0; k < t.rank; k++) n *= t.shape[k];
  return n;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Builder {
 public:
  explicit Builder(Call& call) : call_(call) {}

  // The tensor of argument i, which must have the dtype and at least `count` elements; absent: NULL data.
  lr_tensor part(size_t i, const char* name, int32_t dtype, int64_t count) {
    const double handle = call_.number(i);
    if (handle == 0) return {};
    TensorEntry& entry = call_.environment.tensors.get(handle, call_.op);
    if (entry_.device && entry.device != entry_.device) LR_THROW(LR_INVALID, call_.op, "the tensors of a weight are on different devices");
    entry_.device = entry.device;
    if (dtype >= 0 && entry.view.dtype != dtype) LR_THROW(LR_INVALID, call_.op, "%s has the wrong dtype", name);
    if (elements(entry.view) < count)
      LR_THROW(LR_INVALID, call_.op, "%s must have %lld elements but has %lld", name, static_cast<long long>(count), static_cast<long long>(elements(entry.view)));
    entry_.storages[parts_++] = entry.storage;
    return entry.view;
  }

  napi_value finish(const lr_weight& weight) {
    entry_.weight = weight;
    const double handle = call_.environment.weights.add(entry_, call_.op);
    for (int i = 0; i < parts_; i++) entry_.storages[i]->retain();
    return call_.from(handle);
  }

 private:
  Call& call_;
  WeightEntry entry_{};
  int parts_ = 0;
};

napi_value weight_dense(napi_env env, napi_callback_info info) {
  return guarded(env, info, "weightDense", [](Call& call) {
    call.arity(1);
    Builder builder(call);
    const lr_tensor data = builder.part(0, "weight", -1, 0);
    if (!data.data || data.rank != 2) LR_THROW(LR_INVALID, call.op, "a weight must have 2 dimensions but has %d", data.rank);
    if (data.dtype > LR_F16) LR_THROW(LR_INVALID, call.op, "a dense weight is float32, bfloat16 or float16");
    lr_weight weight{};
    weight.kind = LR_WEIGHT_DENSE;
    weight.dtype = data.dtype;
    weight.data = data.data;
    weight.n = data.shape[0];
    weight.k = data.shape[1];
    return builder.finish(weight);
  });
}

napi_value weight_4bit(napi_env env, napi_callback_info info) {
  return guarded(env, info, "weight4bit", [](Call& call) {
    call.arity(11);
    lr_weight weight{};
    weight.kind = LR_WEIGHT_4BIT;
    weight.n = call.integer(6, 1, INT32_MAX);
    weight.k = call.integer(7, 1, INT32_MAX);
    weight.blocksize = static_cast<int32_t>(call.integer(8, 1, INT32_MAX));
    weight.nested_blocksize = static_cast<int32_t>(call.integer(9, 0, INT32_MAX));
    weight.round = static_cast<int32_t>(call.integer(10, 0, 1));
    const bool nested = call.number(2) != 0;
    const int64_t count = weight.n * weight.k, blocks = ceil_div(count, weight.blocksize);
    if (nested && weight.nested_blocksize < 1) LR_THROW(LR_INVALID, call.op, "the nested block size must be at least 1");
    Builder builder(call);
    weight.data = builder.part(0, "codes", LR_U8, ceil_div(count, 2)).data;
    weight.absmax = builder.part(1, "absmax", nested ? LR_U8 : LR_F32, blocks).data;
    if (nested) {
      weight.nested_absmax = static_cast<const float*>(builder.part(2, "nestedAbsmax", LR_F32, ceil_div(blocks, weight.nested_blocksize)).data);
      weight.nested_code = static_cast<const float*>(builder.part(3, "nestedCode", LR_F32, 256).data);
      weight.nested_offset = static_cast<const float*>(builder.part(4, "nestedOffset", LR_F32, 1).data);
    }
    weight.code = static_cast<const float*>(builder.part(5, "code", LR_F32, 16).data);
    if (!weight.data || !weight.absmax || !weight.code || (nested && (!weight.nested_code || !weight.nested_offset)))
      LR_THROW(LR_INVALID, call.op, "codes, absmax and code are needed, and with nestedAbsmax also nestedCode and nestedOffset");
    return builder.finish(weight);
  });
}

}  // namespace

void define_weights(napi_env env, napi_value exports) {
  define(env, exports, "weightDense", weight_dense);
  define(env, exports, "weight4bit", weight_4bit);
  define_free<WeightEntry, &Environment::weights>(env, exports);
}

}  // namespace lr
