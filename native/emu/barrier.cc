// Barriers of a block, and what a synchronisation orders.
#include <algorithm>

#include "machine.h"

namespace emu {

// Inside one warp its own lanes are all a thread may have synchronised with, unless named barriers joined warps.
void synchronise(Block& block, const std::vector<Thread*>& threads) {
  size_t begin = 0, end = static_cast<size_t>(block.threads);
  if (!block.named_barriers) {
    begin = static_cast<size_t>(threads.front()->warp * kWarp);
    end = std::min(end, begin + kWarp);
  }
  std::vector<uint32_t> joined(end - begin, 0);
  for (const Thread* t : threads) {
    for (size_t i = begin; i < end; i++) joined[i - begin] = std::max(joined[i - begin], t->seen[i]);
  }
  for (const Thread* t : threads) joined[static_cast<size_t>(t->index) - begin] = t->clock;
  for (Thread* t : threads) {
    std::copy(joined.begin(), joined.end(), t->seen.begin() + static_cast<std::ptrdiff_t>(begin));
    t->clock++;
    t->moment = 0;
  }
}

void barrier(int id, int count, int line) {
  Thread& self = *machine.current;
  Block& block = *self.block;
  const int expected = count ? count : block.threads;
  if (id < 0 || id >= kBarriers) broken(__builtin_return_address(0), "barrier %d at line %d: there are 0 to %d", id, line, kBarriers - 1);
  if (count % kWarp != 0 || expected > block.threads)
    broken(__builtin_return_address(0), "barrier %d at line %d counts %d threads: that must be a multiple of 32 up to the block's %d", id, line, count, block.threads);
  self.state = Thread::kAtBarrier;
  self.line = line;
  self.barrier = id;
  self.barrier_count = expected;
  auto& here = block.barriers[id];
  if (here.waiting++ == 0) here.first = &self;
  const Thread& first = *here.first;
  if (first.line != line && count == 0)
    broken(__builtin_return_address(0), "__syncthreads in divergent code: at line %d, but %s waits at line %d", line, name_of(first).c_str(), first.line);
  if (first.barrier_count != expected)
    broken(__builtin_return_address(0), "barrier %d counts %d threads at line %d but %d at line %d", id, expected, line, first.barrier_count, first.line);
  if (here.waiting < expected) return self.fiber.suspend();
  here.waiting = 0;
  std::vector<Thread*> waiting;
  for (int i = 0; i < block.threads; i++) {
    Thread* t = block.thread[static_cast<size_t>(i)].get();
    if (t->state == Thread::kAtBarrier && t->barrier == id) waiting.push_back(t);
  }
  for (Thread* t : waiting) t->state = Thread::kReady;
  if (expected == block.threads) {
    block.epoch++;
    for (Thread* t : waiting) {
      t->epoch = block.epoch;
      t->moment = 0;
    }
    return;
  }
  if (!block.named_barriers) block.named_barriers = true;
  synchronise(block, waiting);
}

}  // namespace emu
