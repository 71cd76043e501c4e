// The one ordered stream of a device: a queue of records and the native thread that runs them.
#ifndef LOWRANK_CORE_STREAM_H
#define LOWRANK_CORE_STREAM_H
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../abi/backend.h"
#include "task.h"
#include "thread_pool.h"

namespace lr {

// Position in the stream. Everything up to `done` has run.
using Ticket = uint64_t;

// Who enqueued: keeps the first error of its records until it asks.
class ErrorSlot {
 public:
  void keep(const lr_error& error);
  // The kept error, which is then forgotten; code LR_OK when there is none.
  lr_error take();

 private:
  std::mutex mutex_;
  lr_error first_{};
};

// One entry of the queue. Owns copies of all arguments.
struct Record {
  virtual ~Record() = default;
  virtual lr_error run(lr_queue* queue) = 0;
  Record* next = nullptr;
  void* scratch = nullptr;
  size_t scratch_size = 0;
  int op = -1;  // index of the op for the profile; -1: not an op
  std::shared_ptr<ErrorSlot> errors;
};

// Records that run more than once, in order.
struct Recording {
  std::vector<std::unique_ptr<Record>> records;
  size_t scratch = 0;  // bytes that the greediest of them needs
};

constexpr int kMaxOps = 64;
struct OpTime {
  uint64_t calls = 0, nanoseconds = 0;
};

class Stream {
 public:
  // As lr_backend's: what it finds goes to the owners of the records.
  using Synchronize = lr_error (*)(lr_queue*, void (*late)(void* owner, const lr_error* error));

  // Throws std::system_error when the system grants fewer threads.
  explicit Stream(int threads, Synchronize synchronize = nullptr);
  // Runs what is queued first.
  ~Stream();
  int threads() const { return pool_.threads(); }

  // Never blocks, takes ownership.
  Ticket enqueue(std::unique_ptr<Record> record) noexcept;
  Ticket last() const;
  bool passed(Ticket ticket) const { return done_.load(std::memory_order_acquire) >= ticket; }
  // Runs the task when the stream has passed the ticket: at once on this thread, or later on the stream's.
  void when_passed(Ticket ticket, std::unique_ptr<Task> task) noexcept;
  // Blocks the caller until everything enqueued before the call has run; a device may still be at it.
  void drain();
  // Runs one record on the stream's own thread, keeping its error and its time.
  void run(Record& record);
  // Waits for the device, on the stream's own thread: every error of what ran before is with its owner then.
  void settle();

  void profile(bool enable) { profiling_.store(enable, std::memory_order_relaxed); }
  // Times since the last call.
  void take_profile(OpTime (&times)[kMaxOps]);

 private:
  void main();

  ThreadPool pool_;
  const Synchronize synchronize_;
  std::vector<std::shared_ptr<ErrorSlot>> unsettled_;  // owners of what ran since the last settle(); touched by the stream's thread only
  lr_queue queue_{};
  mutable std::mutex mutex_;
  std::condition_variable wake_, idle_;
  Record* head_ = nullptr;
  Record** tail_ = &head_;
  bool asleep_ = false;
  Ticket last_ = 0;
  std::atomic<Ticket> last_hint_{0};
  std::atomic<Ticket> done_{0};
  Task* waiting_ = nullptr;  // ascending tickets
  int draining_ = 0;
  bool stopping_ = false;
  std::atomic<bool> profiling_{false};
  std::mutex profile_mutex_;
  OpTime times_[kMaxOps];
  std::thread thread_;
};

// A recording as one entry of the queue.
struct Replay : Record {
  Replay(Stream& stream, std::shared_ptr<Recording> recording) : stream(stream), recording(std::move(recording)) {}
  Stream& stream;
  const std::shared_ptr<Recording> recording;
  lr_error run(lr_queue*) override {
    for (const auto& record : recording->records) {
      record->scratch = scratch;
      record->scratch_size = scratch_size;
      stream.run(*record);
    }
    return lr_error{};
  }
};

}  // namespace lr
#endif
