#include "stream.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "platform.h"

namespace lr {

constexpr int kSpins = 2000;

void ErrorSlot::keep(const lr_error& error) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (first_.code == LR_OK) first_ = error;
}

lr_error ErrorSlot::take() {
  std::lock_guard<std::mutex> lock(mutex_);
  lr_error error = first_;
  first_ = lr_error{};
  return error;
}

Stream::Stream(int threads, Synchronize synchronize) : pool_(threads), synchronize_(synchronize) {
  unsettled_.reserve(16);
  queue_.impl = this;
  queue_.threads = threads;
  queue_.parallel = [](lr_queue* queue, int64_t tasks, void (*body)(void*, int64_t, int32_t), void* ctx) {
    static_cast<Stream*>(queue->impl)->pool_.run(tasks, body, ctx);
  };
  thread_ = std::thread([this] { main(); });
}

Stream::~Stream() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Ticket Stream::enqueue(std::unique_ptr<Record> record) noexcept {
  bool wake;
  Ticket ticket;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    *tail_ = record.release();
    tail_ = &(*tail_)->next;
    ticket = ++last_;
    last_hint_.store(ticket, std::memory_order_release);
    wake = asleep_;
  }
  if (wake) wake_.notify_one();
  return ticket;
}

Ticket Stream::last() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_;
}

void Stream::when_passed(Ticket ticket, std::unique_ptr<Task> task) noexcept {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!passed(ticket)) {
      task->ticket = ticket;
      Task** at = &waiting_;
      while (*at && (*at)->ticket <= ticket) at = &(*at)->next;
      task->next = *at;
      *at = task.release();
      return;
    }
  }
  Task& running = *task;
  running.run(std::move(task));
}

void Stream::drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  // Others may go on enqueuing: the end of the queue is that of now.
  const Ticket ticket = last_;
  draining_++;
  idle_.wait(lock, [&] { return passed(ticket); });
  draining_--;
}

void Stream::settle() {
  if (!synchronize_) return;
  const lr_error error = synchronize_(&queue_, [](void* owner, const lr_error* late) { static_cast<ErrorSlot*>(owner)->keep(*late); });
  for (const auto& owner : unsettled_)
    if (error.code != LR_OK) owner->keep(error);
  unsettled_.clear();
}

void Stream::take_profile(OpTime (&times)[kMaxOps]) {
  std::lock_guard<std::mutex> lock(profile_mutex_);
  std::copy(std::begin(times_), std::end(times_), times);
  for (OpTime& time : times_) time = {};
}

void Stream::run(Record& record) {
  const bool timed = record.op >= 0 && profiling_.load(std::memory_order_relaxed);
  const auto begin = timed ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point{};
  queue_.scratch = record.scratch;
  queue_.scratch_size = record.scratch_size;
  queue_.owner = record.errors.get();
  if (synchronize_ && record.errors && std::find(unsettled_.begin(), unsettled_.end(), record.errors) == unsettled_.end()) {
    if (unsettled_.size() == unsettled_.capacity()) settle();  // there is room then: nothing is allocated here
    unsettled_.push_back(record.errors);
  }
  const lr_error error = record.run(&queue_);
  if (timed || (error.code != LR_OK && error.code != LR_DEVICE_LOST)) settle();  // what earlier records did wrong comes first
  if (error.code != LR_OK && record.errors) record.errors->keep(error);
  if (timed) {
    const auto spent = std::chrono::steady_clock::now() - begin;
    std::lock_guard<std::mutex> lock(profile_mutex_);
    times_[record.op].calls++;
    times_[record.op].nanoseconds += static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
  }
}

void Stream::main() {
  name_thread("lowrank-stream");
  for (;;) {
    for (int spin = 0; spin < kSpins && last_hint_.load(std::memory_order_acquire) == done_.load(std::memory_order_relaxed); spin++) cpu_relax();
    Record* batch;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_ = true;
      wake_.wait(lock, [this] { return head_ != nullptr || stopping_; });
      asleep_ = false;
      if (!head_) return;
      batch = head_;
      head_ = nullptr;
      tail_ = &head_;
    }
    while (batch) {
      const std::unique_ptr<Record> record(batch);
      batch = record->next;
      run(*record);
      std::unique_lock<std::mutex> lock(mutex_);
      const Ticket done = done_.load(std::memory_order_relaxed) + 1;
      done_.store(done, std::memory_order_release);
      if (draining_ > 0) idle_.notify_all();
      while (waiting_ && waiting_->ticket <= done) {
        std::unique_ptr<Task> task(waiting_);
        waiting_ = task->next;
        task->next = nullptr;
        lock.unlock();
        Task& running = *task;
        running.run(std::move(task));
        lock.lock();
      }
    }
  }
}

}  // namespace lr
