#include "wait.h"

#include <cstdio>
#include <cstring>
#include <new>

namespace lr {
namespace {

const char* code_name(int32_t code) {
  switch (code) {
    case LR_OUT_OF_MEMORY: return "OUT_OF_MEMORY";
    case LR_UNSUPPORTED: return "UNSUPPORTED";
    case LR_DEVICE: return "DEVICE";
    case LR_DEVICE_LOST: return "DEVICE_LOST";
    case kDisposed: return "DISPOSED";
    default: return "INVALID";
  }
}

napi_value string(napi_env env, const char* text, size_t length = NAPI_AUTO_LENGTH) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text, length, &value);
  return value;
}

napi_value message(napi_env env, const char* op, const Fault& fault, const std::string& text) noexcept {
  if (!text.empty()) try {
      const std::string whole = std::string("[") + op + "] " + text;
      return string(env, whole.data(), whole.size());
    } catch (...) {
      // No memory: the short one says the same, cut off.
    }
  char line[sizeof fault.error.text + 64];
  std::snprintf(line, sizeof line, "[%s] %s", op, fault.error.text);
  return string(env, line);
}

}  // namespace

napi_value to_js(napi_env env, const Fault& fault, const std::string& text) noexcept {
  const char* op = fault.error.op ? fault.error.op : "device";
  napi_value error = nullptr, number = nullptr;
  napi_create_error(env, string(env, code_name(fault.error.code)), message(env, op, fault, text), &error);
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
  const auto finalize = [](napi_env, void* data, void*) { const std::shared_ptr<Waiter> last = std::move(static_cast<Waiter*>(data)->held_); };
  napi_value global = nullptr, constructor = nullptr;
  require_alive(napi_get_global(env, &global), "load");
  require_alive(napi_get_named_property(env, global, "ArrayBuffer", &constructor), "load");
  require_alive(napi_create_reference(env, constructor, 1, &waiter->array_buffer_), "load");
  require_alive(napi_create_threadsafe_function(env, nullptr, nullptr, string(env, "lowrank"), 0, 1, waiter.get(), finalize, waiter.get(), settle, &waiter->function_), "load");
  waiter->held_ = waiter;
  napi_unref_threadsafe_function(env, waiter->function_);
  return waiter;
}

napi_value Waiter::promise(napi_env env, Completion& completion) {
  napi_value promise = nullptr;
  require_alive(napi_create_promise(env, &completion.deferred, &promise), "read");
  if (pending_++ == 0) napi_ref_threadsafe_function(env, function_);
  return promise;
}

void Waiter::settled(napi_env env) {
  if (--pending_ == 0) napi_unref_threadsafe_function(env, function_);
}

// By its constructor, which throws where the memory is not to be had: Node-API's own function ends the process then.
napi_value Waiter::array_buffer(napi_env env, const Completion& completion) const {
  napi_value constructor = nullptr, size = nullptr, value = nullptr, ignored = nullptr;
  void* to = nullptr;
  size_t room = 0;
  napi_get_reference_value(env, array_buffer_, &constructor);
  napi_create_double(env, static_cast<double>(completion.size), &size);
  if (napi_new_instance(env, constructor, 1, &size, &value) == napi_ok && napi_get_arraybuffer_info(env, value, &to, &room) == napi_ok && room == completion.size) {
    if (room) std::memcpy(to, completion.bytes.get(), room);
    return value;
  }
  napi_get_and_clear_last_exception(env, &ignored);
  return nullptr;
}

void Waiter::settle(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<Completion> completion(static_cast<Completion*>(data));
  // The environment is gone: nobody waits any more.
  if (!env) return;
  const Waiter& waiter = *static_cast<Waiter*>(context);
  napi_handle_scope scope = nullptr;
  napi_open_handle_scope(env, &scope);
  napi_value value = nullptr;
  Fault& fault = completion->fault;
  if (fault.error.code == LR_OK && completion->bytes) {
    value = waiter.array_buffer(env, *completion);
    if (!value) fault = Fault{make_error(LR_OUT_OF_MEMORY, "read", "no memory for an ArrayBuffer of %zu bytes", completion->size), completion->size};
  }
  if (fault.error.code != LR_OK) {
    napi_reject_deferred(env, completion->deferred, to_js(env, fault, completion->text));
  } else {
    if (!value) napi_get_undefined(env, &value);
    napi_resolve_deferred(env, completion->deferred, value);
  }
  napi_close_handle_scope(env, scope);
  static_cast<Waiter*>(context)->settled(env);
}

void Waiter::post(std::unique_ptr<Completion> completion) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  // Without a limit to its queue an open function refuses nothing.
  if (!closed_) napi_call_threadsafe_function(function_, completion.release(), napi_tsfn_nonblocking);
}

void Waiter::close() noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

}  // namespace lr
