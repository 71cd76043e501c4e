// Work handed to another thread. Linked in place, so that handing it over allocates nothing and cannot fail.
#ifndef LOWRANK_CORE_TASK_H
#define LOWRANK_CORE_TASK_H
#include <cstdint>
#include <memory>

namespace lr {

struct Task {
  virtual ~Task() = default;
  // Owns itself: it may hand itself on.
  virtual void run(std::unique_ptr<Task> self) noexcept = 0;
  Task* next = nullptr;
  uint64_t ticket = 0;  // that a stream passes first
};

}  // namespace lr
#endif
