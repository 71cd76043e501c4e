// The callbacks that the compiler inserts before every memory access of code built with -fsanitize=thread (GCC's and Clang's interface to
// ThreadSanitizer's runtime, whose place this file takes). Outside of kernels they do nothing.
#include <cstring>

#include "machine.h"

namespace emu {
namespace {
// What a thread keeps on its own stack, most accesses by far, is nobody's business.
inline bool asked(void* address) { return machine.current && !machine.current->fiber.on_stack(reinterpret_cast<uintptr_t>(address)); }
inline void access(void* address, size_t bytes, Access kind, const void* code) {
  if (asked(address)) observe(reinterpret_cast<uintptr_t>(address), bytes, kind, code);
}
inline void aligned_access(void* address, size_t bytes, Access kind, const void* code) {
  if (!asked(address)) return;
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    broken(code, "%s of %zu bytes at address %p, which is not a multiple of %zu", kind == Access::kRead ? "read" : kind == Access::kWrite ? "write" : "atomic", bytes, address, bytes);
  observe(reinterpret_cast<uintptr_t>(address), bytes, kind, code);
}
}  // namespace

void atomic_load(void* value, void* address, size_t bytes) {
  aligned_access(address, bytes, Access::kAtomic, __builtin_return_address(0));
  std::memcpy(value, address, bytes);
}
void atomic_store(void* address, const void* value, size_t bytes) { std::memcpy(address, value, bytes); }

void vector_access(const void* address, size_t bytes) {
  if (machine.current && reinterpret_cast<uintptr_t>(address) % bytes != 0)
    broken(__builtin_return_address(0), "vector access of %zu bytes at address %p, which is not a multiple of %zu", bytes, address, bytes);
}

}  // namespace emu

#define CODE __builtin_return_address(0)
#define PAIR(bytes)                                                                                                         \
  void __tsan_read##bytes(void* p) { emu::aligned_access(p, bytes, emu::Access::kRead, CODE); }                             \
  void __tsan_write##bytes(void* p) { emu::aligned_access(p, bytes, emu::Access::kWrite, CODE); }                           \
  void __tsan_unaligned_read##bytes(void* p) { emu::aligned_access(p, bytes, emu::Access::kRead, CODE); }                   \
  void __tsan_unaligned_write##bytes(void* p) { emu::aligned_access(p, bytes, emu::Access::kWrite, CODE); }

extern "C" {
PAIR(1)
PAIR(2)
PAIR(4)
PAIR(8)
PAIR(16)
void __tsan_read_range(void* p, size_t bytes) { emu::access(p, bytes, emu::Access::kRead, CODE); }
void __tsan_write_range(void* p, size_t bytes) { emu::access(p, bytes, emu::Access::kWrite, CODE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
