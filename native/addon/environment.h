// State of one Node environment (the main thread or a worker), and one call into it.
#ifndef LOWRANK_ADDON_ENVIRONMENT_H
#define LOWRANK_ADDON_ENVIRONMENT_H
#include <node_api.h>

#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../core/device.h"
#include "handles.h"
#include "wait.h"

namespace lr {

struct Environment {
  explicit Environment(napi_env env);
  std::shared_ptr<Waiter> waiter;
  HandleTable<TensorEntry> tensors;
  HandleTable<WeightEntry> weights;
  std::map<const Device*, std::shared_ptr<ErrorSlot>> errors;
  HandleTable<RecordingEntry> recordings;
  Recorder* recorder = nullptr;  // while a recording is made: it holds back what is enqueued
  std::vector<Storage*> used;    // by the call in progress; kept to save the allocation

  std::shared_ptr<ErrorSlot>& errors_of(const Device& device);

 private:
  Environment(napi_env env, uint32_t generation);
};

// A JavaScript exception is pending already.
struct Pending {};

// Arguments of a call. Every reader throws a Fault that names the op and the argument.
class Call {
 public:
  static constexpr size_t kMaxArguments = 24;
  Call(napi_env env, napi_callback_info info, const char* op);

  const napi_env env;
  const char* const op;
  Environment& environment;

  void arity(size_t expected) const;
  void check(napi_status status) const;
  Device& device(size_t i);              // also the device that tensors must be on
  double number(size_t i) const;         // any double
  int64_t integer(size_t i, int64_t low, int64_t high) const;
  bool boolean(size_t i) const;
  uint64_t bigint(size_t i) const;
  napi_value function(size_t i) const;
  std::string string(size_t i) const;
  void shape(size_t i, int32_t* rank, int64_t (&sizes)[4]) const;
  // Bytes of a typed array, Buffer or DataView.
  const void* bytes(size_t i, size_t* size) const;
  const double* doubles(size_t i, size_t* count) const;

  // By handle, 0 is absent; the storages are noted as used.
  lr_tensor tensor(double handle);
  lr_weight weight(double handle);
  // A tensor that the call itself touches.
  TensorEntry& tensor_entry(size_t i);
  // Refuses a storage that a file is being read into.
  void refuse_filling(const Storage* storage) const;
  // Notes a storage as used by the call, unless it is refused.
  void use(Storage* storage);

  // Refuses a call that waits or reads while a recording is made.
  void not_recorded() const;
  // Hands a record to the device's stream, or to the recording being made, and marks what it uses. Fails only for want of scratch or memory.
  Ticket enqueue(Device& device, std::unique_ptr<Record> record, size_t scratch = 0);

  napi_value undefined() const;
  napi_value from(double value) const;
  napi_value from(const std::string& value) const;

 private:
  const Device* device_ = nullptr;
  size_t count_ = kMaxArguments;
  napi_value arguments_[kMaxArguments];
};

// Runs `body()`; whatever it throws becomes a JavaScript exception.
template <class Body>
napi_value guarded(napi_env env, const char* op, Body body) noexcept {
  try {
    return body();
  } catch (const Fault& fault) {
    napi_throw(env, to_js(env, fault));
  } catch (const Pending&) {
  } catch (const std::exception& error) {  // std::bad_alloc; other errors come as faults
    napi_throw(env, to_js(env, Fault{make_error(LR_OUT_OF_MEMORY, op, "out of host memory (%s)", error.what())}));
  }
  return nullptr;
}
template <class Body>
napi_value guarded(napi_env env, napi_callback_info info, const char* op, Body body) noexcept {
  return guarded(env, op, [&] {
    Call call(env, info, op);
    return body(call);
  });
}

void define(napi_env env, napi_value object, const char* name, napi_callback callback);

// Defines the function that frees the handles of a table.
template <class Entry, HandleTable<Entry> Environment::*Table>
void define_free(napi_env env, napi_value exports) {
  define(env, exports, Entry::kFree, [](napi_env env, napi_callback_info info) {
    return guarded(env, info, Entry::kFree, [](Call& call) {
      call.arity(1);
      (call.environment.*Table).remove(call.number(0), call.op);
      return call.undefined();
    });
  });
}

void define_kernels(napi_env env, napi_value exports);
void define_tensors(napi_env env, napi_value exports);
void define_weights(napi_env env, napi_value exports);
void define_transfers(napi_env env, napi_value exports);
void define_recordings(napi_env env, napi_value exports);
void define_devices(napi_env env, napi_value exports);
const char* op_name(int op);  // of an op that has run

}  // namespace lr
#endif
