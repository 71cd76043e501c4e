// The only code that asks the operating system for something.
#ifndef LOWRANK_CORE_PLATFORM_H
#define LOWRANK_CORE_PLATFORM_H
#include <cstddef>
#include <cstdint>
#include <string>

namespace lr {

// Cores this process may use: affinity mask, then the cgroup's CPU quota rounded up. At least 1.
int available_cores();

// Bytes that could still be allocated without swapping: MemAvailable, bounded by the cgroup's limit. UINT64_MAX: unknown.
uint64_t available_memory();

// Reads exactly `length` bytes at `position` of a regular file. Empty on success, else a sentence.
std::string read_file(const char* path, void* to, uint64_t position, uint64_t length);

// Takes `bytes` of the disk for a file that exists. 0, or the errno: EOPNOTSUPP where the file system or system cannot.
int allocate_file(const char* path, uint64_t bytes);

// The address of `symbol` in the shared library at `path`, which stays loaded. NULL, with a sentence, when there is none.
void* load_symbol(const char* path, const char* symbol, std::string* failure);

void name_thread(const char* name);

// The calling thread, for move_thread().
int64_t thread_id();

// The core that the caller runs on. -1: unknown.
int current_core();

// The next core, in a circle, that the calling thread may use; `core` itself where there is no other.
int next_core(int core);

// Moves a thread of this process to a core that it may use; afterwards it may use the same ones as before. Does nothing where it cannot.
void move_thread(int64_t thread, int core);

// One pause of a spinning loop.
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace lr
#endif
