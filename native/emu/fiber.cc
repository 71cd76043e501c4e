#include "fiber.h"

#include <sys/mman.h>

#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {
namespace {
Fiber* entering;
}

#if defined(__x86_64__)
// Saves the registers a callee must keep on the stack, stores it in *from and continues on `to`.
extern "C" void lr_emu_switch(void** from, void* to);
asm(R"(
.text
.hidden lr_emu_switch
.globl lr_emu_switch
.type lr_emu_switch, @function
lr_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lr_emu_switch, .-lr_emu_switch
)");
#endif

Fiber::Fiber() {
  void* memory = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) std::abort();
  low_ = reinterpret_cast<uintptr_t>(memory) + kGuard;
}

Fiber::~Fiber() { munmap(reinterpret_cast<void*>(low_ - kGuard), kStack + kGuard); }

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_inside_, &outer_low_, &outer_size_);
#endif
}

void Fiber::enter() {
  Fiber* fiber = entering;
  fiber->fake_inside_ = nullptr;
  fiber->entered();
  fiber->main_(fiber->argument_);
  std::abort();
}

void Fiber::start(void (*main)(void*), void* argument) {
  main_ = main;
  argument_ = argument;
#if defined(__SANITIZE_ADDRESS__)
  // A fiber that a broken launch left behind has marked its frames.
  ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void*>(low_), kStack);
#endif
#if defined(__x86_64__)
  // Six registers, the address to return to, and one more word: at a function's entry the stack is 8 past a multiple of 16.
  void** top = reinterpret_cast<void**>(low_ + kStack) - 8;
  for (int i = 0; i < 8; i++) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(&Fiber::enter);
  inside_ = top;
#else
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = reinterpret_cast<void*>(low_);
  inside_.uc_stack.ss_size = kStack;
  inside_.uc_link = nullptr;
  makecontext(&inside_, &Fiber::enter, 0);
#endif
}

void Fiber::resume() {
  entering = this;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_outside_, reinterpret_cast<void*>(low_), kStack);
#endif
#if defined(__x86_64__)
  lr_emu_switch(&outside_, inside_);
#else
  swapcontext(&outside_, &inside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_outside_, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_inside_, outer_low_, outer_size_);
#endif
#if defined(__x86_64__)
  lr_emu_switch(&inside_, outside_);
#else
  swapcontext(&inside_, &outside_);
#endif
  entered();
}

}  // namespace emu
