// On which cores the threads of a pool run. The system may put a thread aside in the middle of a task, for a process that wants its
// core; the others then wait for that task, and the system lets the core of one that waits lie idle rather than move a thread whose
// caches are warm. So a thread that waits lends its core, and a worker on the core of thread 0 goes to another.
#ifndef LOWRANK_CORE_PLACES_H
#define LOWRANK_CORE_PLACES_H
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lr {

class Places {
 public:
  explicit Places(int threads);

  // Notes where the calling thread is.
  void note(int32_t thread);
  void begin_task(int32_t thread);
  void end_task(int32_t thread) { places_[static_cast<size_t>(thread)].task.store(kNone, std::memory_order_relaxed); }

  // Moves a thread with a task, once a task, to the core of the caller, which sleeps next.
  void lend();
  // Moves the calling worker from the core of thread 0, if it is there, to one where no thread of the pool is.
  void leave(int32_t thread);

 private:
  enum Task { kNone, kHeld, kMoved };
  struct alignas(64) Place {
    std::atomic<int64_t> id{0};
    std::atomic<int> core{-1};
    std::atomic<Task> task{kNone};
  };
  std::vector<Place> places_;
  const bool enough_;  // else threads must share cores
};

}  // namespace lr
#endif
