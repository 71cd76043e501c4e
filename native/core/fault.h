// What core and addon throw, and the addon's edge turns into a JavaScript error. Never crosses the C table.
#ifndef LOWRANK_CORE_FAULT_H
#define LOWRANK_CORE_FAULT_H
#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "../abi/backend.h"

namespace lr {

// Continues lr_code: a handle that was freed.
constexpr int32_t kDisposed = 100;

struct Fault {
  lr_error error;
  uint64_t needed = 0, free = 0;  // bytes, LR_OUT_OF_MEMORY only
};

[[gnu::format(printf, 3, 4)]] inline lr_error make_error(int32_t code, const char* op, const char* format, ...) {
  lr_error error{code, op, {}};
  va_list args;
  va_start(args, format);
  std::vsnprintf(error.text, sizeof error.text, format, args);
  va_end(args);
  return error;
}

}  // namespace lr

#define LR_THROW(code, op, ...) throw ::lr::Fault{::lr::make_error(code, op, __VA_ARGS__)}

#endif
