#include "fake.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "../cpu/backend.h"

namespace lr::test {

std::atomic<int64_t> blocks{0}, bytes{0};
namespace {

std::atomic<int> granted{-1};  // negative: any number

void* alloc(size_t size, lr_error* error) {
  *error = lr_error{LR_OUT_OF_MEMORY, "", {}};
  void* data = size > (size_t{1} << 40) ? nullptr : std::malloc(size);
  if (data) blocks++, bytes += static_cast<int64_t>(size);
  return data;
}
void release(void* data, size_t size) {
  blocks--;
  bytes -= static_cast<int64_t>(size);
  std::free(data);
}

constexpr lr_backend make() {
  lr_backend table{};
  table.abi = LR_ABI_VERSION;
  table.size = sizeof(lr_backend);
  table.name = "fake";
  table.alloc = alloc;
  table.release = release;
  return table;
}

}  // namespace

const lr_backend fake_backend = make();
const lr_backend foreign_backend = [] {
  lr_backend table = make();
  table.abi = LR_ABI_VERSION + 1;
  return table;
}();

Threads::Threads(int count) { granted = count; }
Threads::~Threads() { granted = -1; }

}  // namespace lr::test

// In the place of native/cpu/backend.cc: "fake" is there, "foreign" is of another ABI.
extern "C" const lr_backend* lr_cpu_open(const char* isa, lr_error* error) {
  *error = lr_error{};
  if (!isa || !*isa || !std::strcmp(isa, "fake")) return &lr::test::fake_backend;
  if (!std::strcmp(isa, "foreign")) return &lr::test::foreign_backend;
  *error = lr::make_error(LR_UNSUPPORTED, "open", "no kernels \"%s\"", isa);
  return nullptr;
}

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create next = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (lr::test::granted >= 0 && lr::test::granted.fetch_sub(1) <= 0) {
    lr::test::granted = 0;
    return EAGAIN;
  }
  return next(thread, attributes, start, argument);
}
