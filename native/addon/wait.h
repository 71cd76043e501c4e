// From the stream's thread (or an I/O thread) back to a promise of one environment.
#ifndef LOWRANK_ADDON_WAIT_H
#define LOWRANK_ADDON_WAIT_H
#include <node_api.h>

#include <memory>
#include <mutex>
#include <string>

#include "../core/fault.h"

namespace lr {

// An error object with code, op and, for OUT_OF_MEMORY, needed and free.
// `text` stands for the fault's where that is too short for it.
napi_value to_js(napi_env env, const Fault& fault, const std::string& text = {}) noexcept;

// For calls that fail only while a worker is being terminated.
inline void require_alive(napi_status status, const char* op) {
  if (status != napi_ok) LR_THROW(LR_DEVICE, op, "this environment is shutting down");
}

struct Completion {
  napi_deferred deferred = nullptr;
  Fault fault{};                     // code LR_OK: resolve
  std::string text;                  // replaces the fault's text where that is too short
  std::unique_ptr<uint8_t[]> bytes;  // NULL: resolve with undefined
  size_t size = 0;
};

class Waiter {
 public:
  static std::shared_ptr<Waiter> create(napi_env env);
  // A promise for `completion`; the process stays alive until it is posted.
  napi_value promise(napi_env env, Completion& completion);  // the last step of a call that may fail
  // One promise fewer to stay alive for.
  void settled(napi_env env);
  // Any thread, any time: after close() it only deletes.
  void post(std::unique_ptr<Completion> completion) noexcept;
  void close() noexcept;

 private:
  static void settle(napi_env env, napi_value, void* context, void* data);
  napi_value array_buffer(napi_env env, const Completion& completion) const;
  std::mutex mutex_;
  bool closed_ = false;
  napi_threadsafe_function function_ = nullptr;
  std::shared_ptr<Waiter> held_;     // by the function, until Node has closed it
  napi_ref array_buffer_ = nullptr;  // the constructor
  int pending_ = 0;  // touched by the environment's thread only
};

}  // namespace lr
#endif
