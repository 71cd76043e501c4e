// cp.async: the bytes arrive when the thread waits for the group they belong to, never earlier; until then nobody may touch them.
#include <cstring>

#include "machine.h"

namespace emu {

void copy_async(void* to, const void* from, int bytes, int source_bytes, int line) {
  const void* code = __builtin_return_address(0);
  Thread& self = *machine.current;
  const uintptr_t target = reinterpret_cast<uintptr_t>(to), source = reinterpret_cast<uintptr_t>(from);
  if (bytes != 4 && bytes != 8 && bytes != 16) broken(code, "cp.async of %d bytes at line %d: 4, 8 and 16 exist", bytes, line);
  if (source_bytes < 0 || source_bytes > bytes) broken(code, "cp.async at line %d of %d bytes from a source of %d", line, bytes, source_bytes);
  if (target % static_cast<unsigned>(bytes) || source % static_cast<unsigned>(bytes))
    broken(code, "cp.async of %d bytes at line %d from address %p to %p, which are not multiples of %d", bytes, line, from, to, bytes);
  if (target - reinterpret_cast<uintptr_t>(self.block->shared) >= machine.launch->shared) broken(code, "cp.async at line %d to an address that is not in shared memory", line);
  if (source_bytes) observe(source, static_cast<size_t>(source_bytes), Access::kRead, code);
  observe_copy(target, static_cast<size_t>(bytes), false, code);
  self.open_copies.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, source_bytes, line});
}

void copy_async_commit() {
  Thread& self = *machine.current;
  self.groups.push_back(std::move(self.open_copies));
  self.open_copies.clear();
}

void copy_async_wait(int pending) {
  Thread& self = *machine.current;
  while (static_cast<int>(self.groups.size()) > pending) {
    for (const Thread::Copy& copy : self.groups.front()) {
      observe_copy(reinterpret_cast<uintptr_t>(copy.to), static_cast<size_t>(copy.bytes), true, __builtin_return_address(0));
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.source_bytes));
      std::memset(copy.to + copy.source_bytes, 0, static_cast<size_t>(copy.bytes - copy.source_bytes));
    }
    self.groups.erase(self.groups.begin());
  }
}

}  // namespace emu
