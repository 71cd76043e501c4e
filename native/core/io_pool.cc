#include "io_pool.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "platform.h"

namespace lr {
namespace {

// Enough to keep a disk's queue busy; reads of one tensor each rarely gain from more.
constexpr int kThreads = 4;

struct IoPool {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> jobs;

  IoPool() {
    for (int i = 0; i < kThreads; i++) std::thread([this] { main(); }).detach();
  }

  void main() {
    name_thread("lowrank-io");
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [this] { return !jobs.empty(); });
      const std::function<void()> job = std::move(jobs.front());
      jobs.pop_front();
      lock.unlock();
      job();
    }
  }
};

}  // namespace

void run_io(std::function<void()> job) {
  static IoPool* pool = new IoPool;  // never destroyed: its threads outlive static destructors
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->jobs.push_back(std::move(job));
  }
  pool->wake.notify_one();
}

}  // namespace lr
