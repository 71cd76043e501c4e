// Fibers: a stack each and a switch between them that saves what the ABI asks for and nothing else.
#ifndef LOWRANK_EMU_FIBER_H
#define LOWRANK_EMU_FIBER_H
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

class Fiber {
 public:
  Fiber();   // maps a stack with a guard page below
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() enters main(argument), which must never return.
  void start(void (*main)(void*), void* argument);
  // Called outside: runs the fiber until it suspends.
  void resume();
  // Called inside: back to whoever resumed it.
  void suspend();
  bool on_stack(uintptr_t address) const { return address - low_ < kStack; }

 private:
  static constexpr size_t kStack = size_t{128} << 10, kGuard = 4096;
  void entered();
  static void enter();
  uintptr_t low_;
  void (*main_)(void*) = nullptr;
  void* argument_ = nullptr;
#if defined(__x86_64__)
  void* inside_ = nullptr;
  void* outside_ = nullptr;
#else
  ucontext_t inside_, outside_;
#endif
  void* fake_inside_ = nullptr;  // AddressSanitizer's own stack of each side
  void* fake_outside_ = nullptr;
  const void* outer_low_ = nullptr;
  size_t outer_size_ = 0;
};

}  // namespace emu
#endif
