#include "thread_pool.h"

#include <algorithm>

#include "platform.h"

namespace lr {

// About 20 to 50 microseconds: the gap between two ops of a step, not that between two steps.
constexpr int kSpins = 2000;
// Moving a thread takes 5 to 25 microseconds; one that was put aside stays away for milliseconds.
constexpr std::chrono::microseconds kPatience(100);

ThreadPool::ThreadPool(int threads) : threads_(threads), places_(threads) {
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

ThreadPool::Share ThreadPool::take(uint32_t generation, int32_t thread) {
  Share share{Clock::now()};
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    const int64_t task = static_cast<int64_t>(ticket & kClosed);
    // The fields may belong to a later job by now; then the exchange fails, because a job is closed before they change.
    if (static_cast<uint32_t>(ticket >> 32) != generation || task >= tasks_.load(std::memory_order_relaxed)) return share;
    const Body body = body_.load(std::memory_order_relaxed);
    void* const ctx = ctx_.load(std::memory_order_relaxed);
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    places_.begin_task(thread);
    body(ctx, task, thread);
    places_.end_task(thread);
    share.tasks++;
    done_.fetch_add(1, std::memory_order_seq_cst);
    if (waiting_.load(std::memory_order_seq_cst)) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      finished_.notify_one();
    }
  }
}

template <class Over>
void ThreadPool::sleep(std::condition_variable& wake, const Share& share, Over over) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (done_.load(std::memory_order_relaxed) < tasks_.load(std::memory_order_relaxed)) {
    // Tasks of a job take about as long as each other: a thread that is behind by more than one was put aside.
    const Clock::duration task = (Clock::now() - share.begun) / std::max<int64_t>(share.tasks, 1);
    if (wake.wait_for(lock, std::max<Clock::duration>(kPatience, task), over)) return;
    lock.unlock();
    places_.lend();
    lock.lock();
  }
  wake.wait(lock, over);
}

void ThreadPool::run(int64_t tasks, Body body, void* ctx) {
  if (threads_ == 1 || tasks <= 1 || tasks >= static_cast<int64_t>(kClosed)) {
    for (int64_t task = 0; task < tasks; task++) body(ctx, task, 0);
    return;
  }
  places_.note(0);
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
  const Share share = take(generation, 0);
  const auto finished = [&] { return done_.load(std::memory_order_seq_cst) >= tasks; };
  for (int spin = 0; spin < kSpins && !finished(); spin++) cpu_relax();
  if (!finished()) {
    waiting_.store(true, std::memory_order_seq_cst);
    sleep(finished_, share, finished);
    waiting_.store(false, std::memory_order_relaxed);
    places_.note(0);
  }
  ticket_.store((static_cast<uint64_t>(generation) << 32) | kClosed, std::memory_order_release);
}

void ThreadPool::worker(int32_t thread) {
  name_thread("lowrank-pool");
  uint32_t seen = 0;
  Share share;
  const auto generation = [this] { return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst) >> 32); };
  for (;;) {
    for (int spin = 0; spin < kSpins && generation() == seen; spin++) cpu_relax();
    if (generation() == seen) {
      places_.leave(thread);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      sleep(wake_, share, [&] { return generation() != seen || stopping_.load(std::memory_order_relaxed); });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (stopping_.load(std::memory_order_relaxed)) return;
    seen = generation();
    places_.leave(thread);
    share = take(seen, thread);
  }
}

}  // namespace lr
