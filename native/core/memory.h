// Device memory: reference-counted storages over a caching pool.
//
// Reuse follows program order. A storage's block goes back to the pool when its last reference is dropped, though records
// that use it may still be queued: whoever gets the block next is ordered behind them. Only giving a block back to the
// system, and writing to it outside the stream (readFile), must wait until the stream has passed its last use.
#ifndef LOWRANK_CORE_MEMORY_H
#define LOWRANK_CORE_MEMORY_H
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "../abi/backend.h"
#include "stream.h"

namespace lr {

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
  Ticket last_use = 0;
};
using Pool = std::multimap<size_t, Block>;  // by size

class Memory;

class Storage {
 public:
  void* data() const { return block_.mapped().data; }
  Ticket last_use() const;
  // Called by the enqueuing thread, of which a storage has one.
  void used(Ticket ticket) { block_.mapped().last_use = ticket; }
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept;
  // By a recording, which holds a reference and need not tell each use: as long as there is one, any entry of the stream may be the last.
  void record();
  void forget() noexcept;
  // While something outside the stream writes to it, nothing may be enqueued that uses it.
  void begin_filling();
  void end_filling();
  bool filling() const { return filling_.load(std::memory_order_acquire) > 0; }

 private:
  friend class Memory;
  Storage(Memory& memory, size_t bytes) : memory_(memory), bytes_(bytes) {}
  Memory& memory_;
  Pool::node_type block_;  // the pool's own node, so that giving the block back allocates nothing
  const size_t bytes_;
  std::atomic<int> references_{1};
  std::atomic<int> filling_{0};
  int recordings_ = 0;  // of the enqueuing thread
};

struct MemoryStats {
  size_t live = 0, peak = 0, pooled = 0, scratch = 0, held = 0, most_held = 0;
};

class Memory {
 public:
  // How a kind of memory is had: lr_backend's alloc and release, or those of the host.
  using Alloc = void* (*)(size_t bytes, lr_error* error);
  using Release = void (*)(void* data, size_t bytes);
  // Bytes that alloc could still give.
  using Available = uint64_t (*)();
  Memory(Alloc alloc, Release release, Stream& stream, size_t limit, Available available = nullptr);

  // With one reference. Throws LR_OUT_OF_MEMORY after the pool was given up in vain, or what else the backend says.
  Storage* allocate(size_t bytes);
  // Scratch of the stream, which one record after the other uses; grows, never shrinks but by trim. Throws as allocate.
  void* scratch(size_t bytes);
  void trim();
  // Whether any storage is.
  bool filling() const { return filling_.load(std::memory_order_acquire) > 0; }
  MemoryStats stats() const;
  void reset_peak();
  // Of all bytes taken from the system; SIZE_MAX: none. What is held already stays.
  void set_limit(size_t bytes);

  // The n-th allocation from now on, of any device or of the host's copies, fails; 0: none.
  static void fail_allocation(int64_t n) { fail_in_.store(n); }
  // Above this many bytes the system is asked first whether it has them.
  static constexpr size_t kPlenty = size_t{64} << 20;
  // Counts an allocation; whether it is the one that fails.
  static bool refused();

 private:
  friend class Storage;
  void recycle(Storage* storage) noexcept;
  Pool::node_type take(size_t size);  // from the pool or the system; empty: there is none
  Block from_system(size_t size);     // data NULL: there is none
  template <class Get>
  auto with_pool_given_up(std::unique_lock<std::mutex>& lock, Get get);
  [[noreturn]] void out_of_memory(const char* what, size_t bytes) const;
  void shed(size_t bytes);
  void trim_locked();
  void give_up_scratch();
  void release_later(const Block& block);

  const Alloc alloc_;
  const Release release_;
  Stream& stream_;
  const Available available_;
  size_t limit_;
  mutable std::mutex mutex_;
  Pool pool_;
  Block scratch_;
  size_t held_ = 0, most_held_ = 0, live_ = 0, peak_ = 0, most_live_ = 0, pooled_ = 0;
  std::atomic<int> filling_{0};
  static std::atomic<int64_t> fail_in_;
};

}  // namespace lr
#endif
