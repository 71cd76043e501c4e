// Loaded before libc: the kernel may write less than it was asked to, and may be interrupted before it has done anything. Both really
// happen here, to regular files: every write of more than one byte writes half, and every first try of a call ends with EINTR.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>

namespace {
template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}
bool regular(int fd) {
  struct stat found;
  return fstat(fd, &found) == 0 && S_ISREG(found.st_mode);
}
bool interrupted(int fd) {
  static thread_local bool again = false;
  if (!regular(fd)) return false;
  again = !again;
  if (again) errno = EINTR;
  return again;
}
size_t half(int fd, size_t count) { return count > 1 && regular(fd) ? count / 2 : count; }
}  // namespace

extern "C" {
ssize_t write(int fd, const void* from, size_t count) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  return interrupted(fd) ? -1 : real(fd, from, half(fd, count));
}
ssize_t pwrite64(int fd, const void* from, size_t count, off64_t at) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  return interrupted(fd) ? -1 : real(fd, from, half(fd, count), at);
}
ssize_t writev(int fd, const iovec* parts, int count) {
  static const auto real = next<ssize_t (*)(int, const iovec*, int)>("writev");
  return interrupted(fd) ? -1 : real(fd, parts, regular(fd) && count > 1 ? count / 2 : count);
}
int fsync(int fd) {
  static const auto real = next<int (*)(int)>("fsync");
  return interrupted(fd) ? -1 : real(fd);
}
int ftruncate64(int fd, off64_t size) {
  static const auto real = next<int (*)(int, off64_t)>("ftruncate64");
  return interrupted(fd) ? -1 : real(fd, size);
}
}
