// A few threads for blocking file reads, so that loading neither holds up the stream nor JavaScript.
#ifndef LOWRANK_CORE_IO_POOL_H
#define LOWRANK_CORE_IO_POOL_H
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "task.h"

namespace lr {

class IoPool {
 public:
  // With fewer threads where the system grants no more. Throws a Fault when it grants none.
  explicit IoPool(int threads);
  // Finishes what was added.
  ~IoPool();
  void add(std::unique_ptr<Task> task) noexcept;

 private:
  void main();
  std::mutex mutex_;
  std::condition_variable wake_;
  Task* head_ = nullptr;
  Task** tail_ = &head_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

// The process's pool: made at the first call, never destroyed, since its threads outlive static destructors.
IoPool& io_pool();

}  // namespace lr
#endif
