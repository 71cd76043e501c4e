#include "wait.h"

#include <cstring>

namespace lr {
namespace {

const char* code_name(int32_t code) {
  switch (code) {
    case LR_OUT_OF_MEMORY: return "OUT_OF_MEMORY";
    case LR_UNSUPPORTED: return "UNSUPPORTED";
    case LR_DEVICE: return "DEVICE";
    case kDisposed: return "DISPOSED";
    default: return "INVALID";
  }
}

napi_value string(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text.data(), text.size(), &value);
  return value;
}

}  // namespace

napi_value to_js(napi_env env, const Fault& fault) { return to_js(env, fault, fault.error.text); }

napi_value to_js(napi_env env, const Fault& fault, const std::string& text) {
  const std::string op = fault.error.op ? fault.error.op : "device";
  napi_value error = nullptr, number = nullptr;
  napi_create_error(env, string(env, code_name(fault.error.code)), string(env, "[" + op + "] " + text), &error);
  napi_set_named_property(env, error, "op", string(env, op));
  if (fault.error.code == LR_OUT_OF_MEMORY) {
    napi_create_double(env, static_cast<double>(fault.needed), &number);
    napi_set_named_property(env, error, "needed", number);
    napi_create_double(env, static_cast<double>(fault.free), &number);
    napi_set_named_property(env, error, "free", number);
  }
  return error;
}

std::shared_ptr<Waiter> Waiter::create(napi_env env) {
  auto waiter = std::make_shared<Waiter>();
  // The function holds the waiter until Node has closed it.
  auto* held = new std::shared_ptr<Waiter>(waiter);
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Waiter>*>(data); };
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, string(env, "lowrank"), 0, 1, held, finalize, waiter.get(), settle, &waiter->function_);
  if (status != napi_ok) delete held;
  if (status != napi_ok) LR_THROW(LR_DEVICE, "load", "this environment cannot make a threadsafe function");
  napi_unref_threadsafe_function(env, waiter->function_);
  return waiter;
}

napi_value Waiter::promise(napi_env env, Completion& completion) {
  napi_value promise = nullptr;
  if (napi_create_promise(env, &completion.deferred, &promise) != napi_ok) LR_THROW(LR_DEVICE, "read", "this environment is shutting down");
  if (pending_++ == 0) napi_ref_threadsafe_function(env, function_);
  return promise;
}

void Waiter::settled(napi_env env) {
  if (--pending_ == 0) napi_unref_threadsafe_function(env, function_);
}

void Waiter::settle(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<Completion> completion(static_cast<Completion*>(data));
  // The environment is gone: nobody waits any more.
  if (!env) return;
  napi_handle_scope scope = nullptr;
  napi_open_handle_scope(env, &scope);
  napi_value value = nullptr;
  void* to = nullptr;
  if (completion->fault.error.code == LR_OK && completion->bytes && napi_create_arraybuffer(env, completion->size, &to, &value) != napi_ok) {
    napi_get_and_clear_last_exception(env, &value);
    completion->fault = Fault{make_error(LR_OUT_OF_MEMORY, "read", "no memory for an ArrayBuffer of %zu bytes", completion->size), completion->size};
  }
  if (completion->fault.error.code != LR_OK) {
    napi_reject_deferred(env, completion->deferred, completion->text.empty() ? to_js(env, completion->fault) : to_js(env, completion->fault, completion->text));
  } else {
    if (to) std::memcpy(to, completion->bytes.get(), completion->size);
    if (!value) napi_get_undefined(env, &value);
    napi_resolve_deferred(env, completion->deferred, value);
  }
  napi_close_handle_scope(env, scope);
  static_cast<Waiter*>(context)->settled(env);
}

void Waiter::post(std::unique_ptr<Completion> completion) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  if (napi_call_threadsafe_function(function_, completion.get(), napi_tsfn_nonblocking) == napi_ok) completion.release();
}

void Waiter::close() {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

}  // namespace lr
