#include "io_pool.h"

#include <new>
#include <system_error>

#include "fault.h"
#include "platform.h"

namespace lr {

// Enough to keep a disk's queue busy; reads of one tensor each rarely gain from more.
constexpr int kThreads = 4;

IoPool::IoPool(int threads) {
  threads_.reserve(static_cast<size_t>(threads));
  try {
    while (threads_.size() < static_cast<size_t>(threads)) threads_.emplace_back([this] { main(); });
  } catch (const std::system_error& error) {
    if (threads_.empty()) LR_THROW(LR_DEVICE, "readFile", "the system grants no thread for file reads: %s", error.what());
  } catch (const std::bad_alloc&) {
    if (threads_.empty()) throw;
  }
}

IoPool::~IoPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void IoPool::add(std::unique_ptr<Task> task) noexcept {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    *tail_ = task.release();
    tail_ = &(*tail_)->next;
  }
  wake_.notify_one();
}

void IoPool::main() {
  name_thread("lowrank-io");
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [this] { return head_ != nullptr || stopping_; });
    if (!head_) return;
    std::unique_ptr<Task> task(head_);
    head_ = task->next;
    if (!head_) tail_ = &head_;
    task->next = nullptr;
    lock.unlock();
    Task& running = *task;
    running.run(std::move(task));
  }
}

IoPool& io_pool() {
  static IoPool* pool = new IoPool(kThreads);
  return *pool;
}

}  // namespace lr
