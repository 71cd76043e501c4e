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

class Memory;

class Storage {
 public:
  void* data() const { return block_.data; }
  size_t bytes() const { return bytes_; }
  Ticket last_use() const { return block_.last_use; }
  // Called by the enqueuing thread, of which a storage has one.
  void used(Ticket ticket) { block_.last_use = ticket; }
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();

 private:
  friend class Memory;
  Storage(Memory& memory, Block block, size_t bytes) : memory_(memory), block_(block), bytes_(bytes) {}
  Memory& memory_;
  Block block_;
  const size_t bytes_;
  std::atomic<int> references_{1};
};

struct MemoryStats {
  size_t live = 0, peak = 0, pooled = 0;
};

class Memory {
 public:
  Memory(const lr_backend& backend, Stream& stream, size_t limit);

  // With one reference. Throws LR_OUT_OF_MEMORY after the pool was given up in vain.
  Storage* allocate(size_t bytes);
  // Scratch of the stream, which one record after the other uses; grows, never shrinks but by trim.
  void* scratch(size_t bytes);
  void trim();
  MemoryStats stats() const;
  void reset_peak();

  // The n-th allocation from now on any device fails; 0: none.
  static void fail_allocation(int64_t n) { fail_in_.store(n); }

 private:
  friend class Storage;
  void recycle(Storage* storage);
  Block take(size_t bytes);        // from the pool or the system; data NULL: there is none
  void shed(size_t bytes);
  void trim_locked();
  void release_later(Block block);

  const lr_backend& backend_;
  Stream& stream_;
  const size_t limit_;             // of all bytes held; SIZE_MAX: none
  mutable std::mutex mutex_;
  std::multimap<size_t, Block> pool_;
  Block scratch_;
  size_t held_ = 0, live_ = 0, peak_ = 0, most_live_ = 0, pooled_ = 0;
  static std::atomic<int64_t> fail_in_;
};

}  // namespace lr
#endif
