#include "thread_pool.h"

#include "platform.h"

namespace lr {

// About 20 to 50 microseconds: the gap between two ops of a step, not that between two steps.
constexpr int kSpins = 2000;

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  workers_.reserve(static_cast<size_t>(threads));
  try {
    for (int32_t i = 1; i < threads; i++) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {
    stop();
    throw;
  }
}

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_.store(true, std::memory_order_relaxed);
  }
  wake_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::take(uint32_t generation, int32_t thread) {
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    const int64_t task = static_cast<int64_t>(ticket & kClosed);
    // The fields may belong to a later job by now; then the exchange fails, because a job is closed before they change.
    if (static_cast<uint32_t>(ticket >> 32) != generation || task >= tasks_.load(std::memory_order_relaxed)) return;
    const Body body = body_.load(std::memory_order_relaxed);
    void* const ctx = ctx_.load(std::memory_order_relaxed);
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    body(ctx, task, thread);
    done_.fetch_add(1, std::memory_order_seq_cst);
    if (waiting_.load(std::memory_order_seq_cst)) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      finished_.notify_one();
    }
  }
}

void ThreadPool::run(int64_t tasks, Body body, void* ctx) {
  if (threads_ == 1 || tasks <= 1 || tasks >= static_cast<int64_t>(kClosed)) {
    for (int64_t task = 0; task < tasks; task++) body(ctx, task, 0);
    return;
  }
  const uint32_t generation = static_cast<uint32_t>(ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  done_.store(0, std::memory_order_relaxed);
  tasks_.store(tasks, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  ctx_.store(ctx, std::memory_order_relaxed);
  ticket_.store(static_cast<uint64_t>(generation) << 32, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  take(generation, 0);
  const auto finished = [&] { return done_.load(std::memory_order_seq_cst) >= tasks; };
  for (int spin = 0; spin < kSpins && !finished(); spin++) cpu_relax();
  if (!finished()) {  // a thread with a task was put aside by the system: leave it the core
    std::unique_lock<std::mutex> lock(mutex_);
    waiting_.store(true, std::memory_order_seq_cst);
    finished_.wait(lock, finished);
    waiting_.store(false, std::memory_order_relaxed);
  }
  ticket_.store((static_cast<uint64_t>(generation) << 32) | kClosed, std::memory_order_release);
}

void ThreadPool::worker(int32_t thread) {
  name_thread("lowrank-pool");
  uint32_t seen = 0;
  const auto generation = [this] { return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst) >> 32); };
  for (;;) {
    for (int spin = 0; spin < kSpins && generation() == seen; spin++) cpu_relax();
    if (generation() == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return generation() != seen || stopping_.load(std::memory_order_relaxed); });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (stopping_.load(std::memory_order_relaxed)) return;
    seen = generation();
    take(seen, thread);
  }
}

}  // namespace lr
