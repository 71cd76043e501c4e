#include "memory.h"

#include <algorithm>

#include "fault.h"
#include "platform.h"

namespace lr {
namespace {

constexpr size_t kLarge = size_t{1} << 20;
// What the pool may hold beyond a quarter more than was ever live.
constexpr size_t kSlack = size_t{32} << 20;

// Eight classes per power of two below 1 MiB, multiples of 64 KiB above: at most an eighth is lost.
size_t size_class(size_t bytes) {
  if (bytes <= 64) return 64;
  if (bytes >= kLarge) return (bytes + 65535) / 65536 * 65536;
  const int top = 63 - __builtin_clzll(bytes - 1);
  const size_t step = std::max<size_t>(64, (size_t{1} << top) / 8);
  return (bytes + step - 1) / step * step;
}

}  // namespace

std::atomic<int64_t> Memory::fail_in_{0};

void Storage::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) memory_.recycle(this);
}

Memory::Memory(const lr_backend& backend, Stream& stream, size_t limit) : backend_(backend), stream_(stream), limit_(limit) {}

Block Memory::take(size_t bytes) {
  const size_t size = size_class(bytes);
  // A large block may serve a slightly smaller wish; small classes are exact.
  const auto found = pool_.lower_bound(size);
  if (found != pool_.end() && found->first <= (size >= kLarge ? size + size / 8 : size)) {
    const Block block = found->second;
    pool_.erase(found);
    pooled_ -= block.bytes;
    return block;
  }
  shed(size);
  if (held_ > limit_ || size > limit_ - held_) return {};
  // An overcommitting kernel grants what it cannot give and kills the process later: refuse what is plainly too much.
  if (size > (size_t{64} << 20) && size > available_memory()) return {};
  Block block{backend_.alloc(size), size, 0};
  if (block.data) held_ += size;
  return block;
}

// Sizes that change from step to step would fill the pool with blocks nobody asks for again: before more is taken from the
// system, those unused for longest are given back until the total is near what was ever live at once.
void Memory::shed(size_t bytes) {
  const size_t allowed = std::max(most_live_, live_ + bytes);
  while (!pool_.empty() && held_ + bytes > allowed + allowed / 4 + kSlack) {
    const auto oldest = std::min_element(pool_.begin(), pool_.end(), [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; });
    pooled_ -= oldest->second.bytes;
    release_later(oldest->second);
    pool_.erase(oldest);
  }
}

Storage* Memory::allocate(size_t bytes) {
  std::unique_lock<std::mutex> lock(mutex_);
  bool refused = false;
  if (fail_in_.load(std::memory_order_relaxed) > 0) refused = fail_in_.fetch_sub(1) == 1;
  Block block;
  if (!refused) {
    block = take(bytes);
    if (!block.data) {
      // Rare enough to block: cached blocks still in use by queued records are given back once the stream has passed.
      lock.unlock();
      stream_.drain();
      lock.lock();
      trim_locked();
      block = take(bytes);
    }
  }
  if (!block.data) {
    const size_t room = limit_ > held_ ? limit_ - held_ : 0;
    const uint64_t free = std::min<uint64_t>(room, available_memory());
    Fault fault{make_error(LR_OUT_OF_MEMORY, "alloc", "out of memory: %zu bytes are needed, %llu bytes are free, %zu are in use by tensors", bytes,
                           static_cast<unsigned long long>(free), live_)};
    fault.needed = bytes;
    fault.free = free;
    throw fault;
  }
  live_ += bytes;
  peak_ = std::max(peak_, live_);
  most_live_ = std::max(most_live_, live_);
  return new Storage(*this, block, bytes);
}

void Memory::recycle(Storage* storage) {
  std::lock_guard<std::mutex> lock(mutex_);
  live_ -= storage->bytes_;
  pooled_ += storage->block_.bytes;
  pool_.emplace(storage->block_.bytes, storage->block_);
  delete storage;
}

void* Memory::scratch(size_t bytes) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (bytes <= scratch_.bytes) return scratch_.data;
  if (scratch_.data) {
    scratch_.last_use = stream_.last();
    release_later(scratch_);
    scratch_ = {};
  }
  const size_t size = size_class(bytes + bytes / 4);
  scratch_ = {backend_.alloc(size), size, 0};
  if (!scratch_.data) {
    scratch_ = {};
    Fault fault{make_error(LR_OUT_OF_MEMORY, "alloc", "out of memory: %zu bytes of scratch are needed", bytes)};
    fault.needed = bytes;
    fault.free = available_memory();
    throw fault;
  }
  held_ += size;
  return scratch_.data;
}

void Memory::release_later(Block block) {
  held_ -= block.bytes;
  const lr_backend& backend = backend_;
  stream_.when_passed(block.last_use, [&backend, block] { backend.release(block.data, block.bytes); });
}

void Memory::trim_locked() {
  for (const auto& entry : pool_) release_later(entry.second);
  pool_.clear();
  pooled_ = 0;
}

void Memory::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  trim_locked();
  if (!scratch_.data) return;
  scratch_.last_use = stream_.last();
  release_later(scratch_);
  scratch_ = {};
}

MemoryStats Memory::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {live_, peak_, pooled_ + scratch_.bytes};
}

void Memory::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  peak_ = live_;
}

}  // namespace lr
