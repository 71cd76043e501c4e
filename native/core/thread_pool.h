// A fixed set of threads that share the tasks of one job. The caller is thread 0 and works too.
#ifndef LOWRANK_CORE_THREAD_POOL_H
#define LOWRANK_CORE_THREAD_POOL_H
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "places.h"

namespace lr {

class ThreadPool {
 public:
  using Body = void (*)(void* ctx, int64_t task, int32_t thread);

  // Starts threads - 1 threads; throws std::system_error, with none left behind, when the system grants fewer.
  explicit ThreadPool(int threads);
  ~ThreadPool() { stop(); }
  int threads() const { return threads_; }

  // Runs body(ctx, task, thread) for every task; returns when all are done. Called by one thread only.
  void run(int64_t tasks, Body body, void* ctx);

 private:
  using Clock = std::chrono::steady_clock;
  // What a thread did of a job.
  struct Share {
    Clock::time_point begun;
    int64_t tasks = 0;
  };

  void worker(int32_t thread);
  void stop();
  Share take(uint32_t generation, int32_t thread);
  // Sleeps until `over`, which `wake` announces under the mutex.
  template <class Over>
  void sleep(std::condition_variable& wake, const Share& share, Over over);

  static constexpr uint64_t kClosed = 0xffffffffu;

  const int threads_;
  Places places_;
  // High half: generation of the job. Low half: its next task, kClosed between jobs.
  alignas(64) std::atomic<uint64_t> ticket_{kClosed};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<int64_t> tasks_{0};
  std::atomic<Body> body_{nullptr};
  std::atomic<void*> ctx_{nullptr};
  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::atomic<bool> waiting_{false};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace lr
#endif
