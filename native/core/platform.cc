#include "platform.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <thread>

namespace lr {
namespace {

// First number in a small file, or -1: also for the word "max" of a cgroup.
int64_t number_in(const char* path, int64_t* second = nullptr) {
  FILE* file = std::fopen(path, "re");
  if (!file) return -1;
  long long a = -1, b = -1;
  if (std::fscanf(file, "%lld %lld", &a, &b) < 1) a = -1;
  std::fclose(file);
  if (second) *second = b;
  return a;
}

// The number behind `name` in a file of "name number" lines, or -1.
int64_t field_of(const char* path, const char* name) {
  FILE* file = std::fopen(path, "re");
  if (!file) return -1;
  char line[256], word[128];
  long long value = -1, found = -1;
  while (found < 0 && std::fgets(line, sizeof line, file))
    if (std::sscanf(line, "%127s %lld", word, &value) == 2 && std::strcmp(word, name) == 0) found = value;
  std::fclose(file);
  return found;
}

}  // namespace

int available_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  int64_t period = -1;
  int64_t quota = number_in("/sys/fs/cgroup/cpu.max", &period);
  if (quota < 0) {
    quota = number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    period = number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  }
  if (quota > 0 && period > 0) cores = std::min<int>(cores, static_cast<int>((quota + period - 1) / period));
#endif
  return std::max(cores, 1);
}

uint64_t available_memory() {
  uint64_t free = UINT64_MAX;
  const int64_t system = field_of("/proc/meminfo", "MemAvailable:");
  if (system >= 0) free = static_cast<uint64_t>(system) * 1024;
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit < 0 || used < 0) return free;
  // The page cache counts as used but is given up under pressure.
  const int64_t cache = std::max<int64_t>(field_of("/sys/fs/cgroup/memory.stat", "file"), 0);
  return std::min<uint64_t>(free, static_cast<uint64_t>(std::max<int64_t>(limit - used + cache, 0)));
}

std::string read_file(const char* path, void* to, uint64_t position, uint64_t length) {
  // Not to wait for the writer of a FIFO.
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return std::string("cannot open ") + path + ": " + std::strerror(errno);
  struct stat status;
  std::string failure;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    failure = std::string(path) + " is not a regular file";
    length = 0;
  }
  uint64_t done = 0;
  while (done < length) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(length - done, 64u << 20));
    const ssize_t got = pread(fd, static_cast<char*>(to) + done, want, static_cast<off_t>(position + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) failure = std::string("cannot read ") + path + ": " + std::strerror(errno);
    if (got == 0) failure = std::string(path) + " ends at byte " + std::to_string(position + done) + ", expected " + std::to_string(position + length);
    if (got <= 0) break;
    done += static_cast<uint64_t>(got);
  }
  close(fd);
  return failure;
}

int allocate_file(const char* path, uint64_t bytes) {
#if defined(__linux__)
  const int fd = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return errno;
  int result;
  do result = fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  while (result == EINTR);
  close(fd);
  return result;
#else
  (void)path, (void)bytes;
  return EOPNOTSUPP;
#endif
}

void* load_symbol(const char* path, const char* symbol, std::string* failure) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void* found = library ? dlsym(library, symbol) : nullptr;
  if (!found) {
    const char* text = dlerror();
    *failure = text ? text : std::string(path) + " lacks " + symbol;
  }
  return found;
}

void name_thread(const char* name) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), name);
#else
  (void)name;
#endif
}

int64_t thread_id() {
#if defined(__linux__)
  static thread_local const int64_t id = syscall(SYS_gettid);
  return id;
#else
  return 0;
#endif
}

int current_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

int next_core(int core) {
#if defined(__linux__)
  cpu_set_t set;
  if (core >= 0 && sched_getaffinity(0, sizeof set, &set) == 0)
    for (int next = (core + 1) % CPU_SETSIZE; next != core; next = (next + 1) % CPU_SETSIZE)
      if (CPU_ISSET(next, &set)) return next;
#endif
  return core;
}

void move_thread(int64_t thread, int core) {
#if defined(__linux__)
  // Of two at once on one thread, one would take the other's single core for the mask to give back.
  static std::mutex alone;
  const std::lock_guard<std::mutex> lock(alone);
  const pid_t id = static_cast<pid_t>(thread);
  cpu_set_t before, only;
  if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(id, sizeof before, &before) != 0 || !CPU_ISSET(core, &before)) return;
  CPU_ZERO(&only);
  CPU_SET(core, &only);
  if (sched_setaffinity(id, sizeof only, &only) == 0) sched_setaffinity(id, sizeof before, &before);
#else
  (void)thread, (void)core;
#endif
}

}  // namespace lr
