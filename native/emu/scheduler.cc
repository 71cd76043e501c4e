// Runs a grid: blocks interleaved, their threads as fibers in the order asked for, each until it must wait.
#include <alloca.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "machine.h"

namespace emu {

Machine machine;
thread_local Thread* Machine::current = nullptr;
thread_local Thread* Machine::running = nullptr;

uint3 thread_index() { return machine.current->position; }
uint3 block_index() { return machine.current->block->position; }
uint3 block_size() { return {machine.launch->block.x, machine.launch->block.y, machine.launch->block.z}; }
uint3 grid_size() { return {machine.launch->grid.x, machine.launch->grid.y, machine.launch->grid.z}; }
unsigned char* shared_memory() { return machine.current->block->shared; }

namespace {

uint64_t next_random(uint64_t& state) {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void arrange(std::vector<uint32_t>& order, size_t count, uint64_t& seed) {
  order.resize(count);
  std::iota(order.begin(), order.end(), 0u);
  if (machine.order.kind == Order::kReversed) std::reverse(order.begin(), order.end());
  if (machine.order.kind != Order::kShuffled) return;
  for (size_t i = count; i > 1; i--) std::swap(order[i - 1], order[next_random(seed) % i]);
}

uint3 position(uint32_t number, dim3 size) { return {number % size.x, number / size.x % size.y, number / size.x / size.y}; }

// Where every thread begins. Its arguments are copied to its own stack, where reading them is nobody's business.
void run_thread(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  const Launch& launch = *machine.launch;
  void* arguments = alloca(launch.arguments.size() + 16);
  arguments = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(arguments) + 15) / 16 * 16);
  std::memcpy(arguments, launch.arguments.data(), launch.arguments.size());
  launch.body(arguments);
  thread.state = Thread::kDone;
  thread.block->done++;
  thread.block->warp[static_cast<size_t>(thread.warp)].done |= 1u << thread.lane;
  for (;;) thread.fiber.suspend();
}

// A block's threads and shared memory; used for one block after the other.
class Slot {
 public:
  Block block;

  void begin(uint32_t number) {
    const Launch& launch = *machine.launch;
    const size_t threads = size_t{launch.block.x} * launch.block.y * launch.block.z;
    block.number = number;
    block.position = position(number, launch.grid);
    block.threads = static_cast<int>(threads);
    block.done = 0;
    block.epoch = 0;
    block.named_barriers = false;
    block.warp.assign((threads + kWarp - 1) / kWarp, Warp{});
    for (auto& barrier : block.barriers) barrier.waiting = 0;
    while (block.thread.size() < threads) block.thread.push_back(std::make_unique<Thread>());
    for (size_t i = 0; i < threads; i++) {
      Thread& t = *block.thread[i];
      t.block = &block;
      t.index = static_cast<int>(i);
      t.lane = t.index % kWarp;
      t.warp = t.index / kWarp;
      block.warp[i / kWarp].lanes |= 1u << t.lane;
      t.state = Thread::kReady;
      t.position = position(static_cast<uint32_t>(i), launch.block);
      t.clock = 1;
      t.epoch = 0;
      t.moment = 0;
      t.seen.assign(threads, 0);
      t.open_copies.clear();
      t.groups.clear();
      t.fiber.start(run_thread, &t);
    }
    // Shared memory ends where that of the launch ends; a thread's stray access past it is judged, the emulator's own would trap.
    if (!memory_) {
      const size_t room = kRoom + 2 * kGuard;
      memory_ = static_cast<unsigned char*>(mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (memory_ == MAP_FAILED || mprotect(memory_, kGuard, PROT_NONE) || mprotect(memory_ + room - kGuard, kGuard, PROT_NONE)) abort();
    }
    block.shared = memory_ + kGuard + (kRoom - launch.shared) / 128 * 128;
    std::memset(block.shared, 0xff, launch.shared);
    block.shared_cells.assign(launch.shared, Cell{});
  }
  ~Slot() {
    if (memory_) munmap(memory_, kRoom + 2 * kGuard);
  }

 private:
  static constexpr size_t kGuard = 4096, kRoom = size_t{228} << 10;
  unsigned char* memory_ = nullptr;
};

const char* waits_in(const Thread& t) {
  static const char* const operations[] = {"__syncwarp", "a shuffle", "a vote", "ldmatrix", "mma"};
  return t.state == Thread::kAtBarrier ? "a barrier" : t.state == Thread::kDone ? "its end" : operations[static_cast<int>(t.request->op)];
}

// Nobody can go on: the first that waits, and one that it waits for.
void report_stall(const Block& block) {
  for (int i = 0; i < block.threads; i++) {
    const Thread& t = *block.thread[static_cast<size_t>(i)];
    if (t.state == Thread::kDone) continue;
    for (int j = 0; j < block.threads; j++) {
      const Thread& other = *block.thread[static_cast<size_t>(j)];
      const bool awaited = t.state == Thread::kAtBarrier ? other.state != Thread::kAtBarrier || other.barrier != t.barrier
                                                         : other.warp == t.warp && (t.request->mask >> other.lane & 1) && other.state != Thread::kInWarp;
      if (!awaited) continue;
      if (other.state == Thread::kDone) keep_report("%s waits in %s at line %d for %s, which has ended", name_of(t).c_str(), waits_in(t), t.line, name_of(other).c_str());
      else keep_report("%s waits in %s at line %d for %s, which waits in %s at line %d", name_of(t).c_str(), waits_in(t), t.line, name_of(other).c_str(), waits_in(other), other.line);
      return;
    }
    keep_report("%s waits in %s at line %d for a thread that does not exist", name_of(t).c_str(), waits_in(t), t.line);
    return;
  }
}

// Lets every thread that can run run once. False: the launch is broken.
bool pass(Block& block, std::vector<uint32_t>& order, uint64_t& seed) {
  arrange(order, static_cast<size_t>(block.threads), seed);
  bool moved = false;
  for (const uint32_t i : order) {
    Thread& t = *block.thread[i];
    if (t.state != Thread::kReady) continue;
    moved = true;
    machine.current = machine.running = &t;
    t.fiber.resume();
    machine.current = machine.running = nullptr;
    if (!machine.report.empty()) return false;
  }
  if (!moved) report_stall(block);
  return moved;
}

std::vector<std::unique_ptr<Slot>> slots;

}  // namespace

bool run_grid(const Launch& launch) {
  machine.launch = &launch;
  machine.report.clear();
  begin_moments();
  uint64_t seed = machine.order.seed;
  std::vector<uint32_t> blocks, threads;
  arrange(blocks, size_t{launch.grid.x} * launch.grid.y * launch.grid.z, seed);
  const size_t resident = static_cast<size_t>(std::max(machine.order.resident, 1));
  while (slots.size() < resident) slots.push_back(std::make_unique<Slot>());
  size_t next = 0;
  std::vector<Slot*> running;
  while (next < blocks.size() || !running.empty()) {
    while (running.size() < resident && next < blocks.size()) {
      Slot* free = nullptr;
      for (const auto& slot : slots)
        if (std::find(running.begin(), running.end(), slot.get()) == running.end()) free = slot.get();
      free->begin(blocks[next++]);
      running.push_back(free);
    }
    for (size_t i = 0; i < running.size();) {
      Block& block = running[i]->block;
      if (!pass(block, threads, seed)) {
        machine.launch = nullptr;
        return false;
      }
      if (block.done == block.threads) running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      else i++;
    }
  }
  machine.launch = nullptr;
  return true;
}

}  // namespace emu
