// The state of a launch: its threads, warps and blocks, and how it ends early. One launch runs at a time in the process.
#ifndef LOWRANK_EMU_MACHINE_H
#define LOWRANK_EMU_MACHINE_H
#include <memory>
#include <string>
#include <vector>

#include "cuda_emu.h"
#include "fiber.h"
#include "shadow.h"

namespace emu {

constexpr int kWarp = 32, kMaxThreads = 1024, kBarriers = 16;
constexpr size_t kMaxShared = size_t{227} << 10;

struct Block;

struct Thread {
  enum State { kReady, kAtBarrier, kInWarp, kDone };
  Fiber fiber;
  Block* block = nullptr;
  int index = 0, lane = 0, warp = 0;
  State state = kReady;
  uint3 position{};
  int line = 0;                     // of the operation it waits in
  int barrier = 0, barrier_count = 0;
  WarpRequest* request = nullptr;
  // Time: `clock` grows with every synchronisation; seen[t] is the clock of thread t up to which its accesses lie before ours.
  uint32_t clock = 1, epoch = 0;    // epoch: full barriers passed
  std::vector<uint32_t> seen;
  Moment moment = 0;                // of accesses since the last synchronisation; 0: none yet
  // cp.async: the group that is open, and those committed, oldest first.
  struct Copy { unsigned char* to; const unsigned char* from; int bytes, source_bytes, line; };
  std::vector<Copy> open_copies;
  std::vector<std::vector<Copy>> groups;
};

// Lanes by bits: those that exist, that wait in an operation of the warp, that have ended.
struct Warp {
  uint32_t lanes = 0, waiting = 0, done = 0;
};

struct Block {
  uint32_t number = 0;
  uint3 position{};
  int threads = 0, done = 0;
  bool named_barriers = false;      // used since the start: then threads of different warps may be ordered too
  uint32_t epoch = 0;
  std::vector<std::unique_ptr<Thread>> thread;
  std::vector<Warp> warp;
  struct { int waiting = 0; Thread* first = nullptr; } barriers[kBarriers];
  unsigned char* shared = nullptr;  // guarded, ends where launch.shared ends
  std::vector<Cell> shared_cells;
};

struct Order {
  enum Kind { kForward, kReversed, kShuffled } kind = kForward;
  uint64_t seed = 1;
  int resident = 2;                 // blocks that run interleaved
};

// A library loaded at run time reaches such a variable without a call; there is room for a few.
#define LR_STATIC_TLS __attribute__((tls_model("initial-exec")))

struct Machine {
  Order order;
  const Launch* launch = nullptr;
  // Per host thread: another may run host code of the same .cu file meanwhile.
  static thread_local Thread* current LR_STATIC_TLS;  // who acts; NULL outside of kernels
  static thread_local Thread* running LR_STATIC_TLS;  // whose fiber runs: another lane's where one acts for its warp
  std::string report;               // of the first broken rule of the launch
};
extern Machine machine;

// "forward", "reversed" or "shuffled". False: there is no such order.
bool set_order(const char* kind, uint64_t seed, int resident);
// Runs the grid. False: a rule was broken, machine.report says which.
bool run_grid(const Launch& launch);

// Ends the launch with a report: "<kernel>: <text>, block (x,y,z) thread (x,y,z)[ at file:line]". Called in a fiber, never returns.
[[noreturn]] __attribute__((format(printf, 2, 3))) void broken(const void* code, const char* format, ...);
// The same outside of fibers: only keeps the report.
__attribute__((format(printf, 1, 2))) void keep_report(const char* format, ...);
std::string name_of(const Thread& thread);
std::string name_of(Moment moment);     // block and thread of an access
std::string place_of(const void* code);  // " at file.cu:12" where the compiler's tools can tell, else ""

// Makes the threads' accesses so far lie before what any of them does next.
void synchronise(Block& block, const std::vector<Thread*>& threads);

}  // namespace emu
#endif
