#include "memory.h"

#include <algorithm>
#include <new>

#include "fault.h"
#include "platform.h"

namespace lr {
namespace {

constexpr size_t kLarge = size_t{1} << 20;
constexpr size_t kMost = SIZE_MAX / 2;  // above it sizes are not rounded, and never granted
// What the pool may hold beyond a quarter more than was ever live.
constexpr size_t kSlack = size_t{32} << 20;

// AddressSanitizer sees an overrun of one byte only where blocks are exact.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExact = true;
#else
constexpr bool kExact = false;
#endif

// Eight classes per power of two below 1 MiB, multiples of 64 KiB above: at most an eighth is lost.
size_t size_class(size_t bytes) {
  if (kExact || bytes > kMost) return std::max<size_t>(bytes, 1);
  if (bytes <= 64) return 64;
  if (bytes >= kLarge) return (bytes + 65535) / 65536 * 65536;
  const int top = 63 - __builtin_clzll(bytes - 1);
  const size_t step = std::max<size_t>(64, (size_t{1} << top) / 8);
  return (bytes + step - 1) / step * step;
}

struct ReleaseBlock : Task {
  const Memory::Release release;
  const Block block;
  ReleaseBlock(Memory::Release release, const Block& block) : release(release), block(block) {}
  void run(std::unique_ptr<Task>) noexcept override { release(block.data, block.bytes); }
};

}  // namespace

std::atomic<int64_t> Memory::fail_in_{0};

bool Memory::refused() { return fail_in_.load(std::memory_order_relaxed) > 0 && fail_in_.fetch_sub(1) == 1; }

Ticket Storage::last_use() const { return recordings_ ? memory_.stream_.last() : block_.mapped().last_use; }

void Storage::record() {
  retain();
  recordings_++;
}

void Storage::forget() noexcept {
  used(memory_.stream_.last());
  recordings_--;
  release();
}

void Storage::begin_filling() {
  filling_.fetch_add(1, std::memory_order_relaxed);
  memory_.filling_.fetch_add(1, std::memory_order_relaxed);
}

void Storage::end_filling() {
  filling_.fetch_sub(1, std::memory_order_release);
  memory_.filling_.fetch_sub(1, std::memory_order_release);
}

void Storage::release() noexcept {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) memory_.recycle(this);
}

Memory::Memory(Alloc alloc, Release release, Stream& stream, size_t limit, Available available)
    : alloc_(alloc), release_(release), stream_(stream), available_(available ? available : available_memory), limit_(limit) {}

Block Memory::from_system(size_t size) {
  if (held_ > limit_ || size > limit_ - held_) return {};
  // An overcommitting kernel grants what it cannot give and kills the process later: refuse what is plainly too much.
  if (size > kPlenty && size > available_()) return {};
  lr_error error{};
  Block block{alloc_(size, &error), size, 0};
  if (block.data) most_held_ = std::max(most_held_, held_ += size);
  else if (error.code != LR_OUT_OF_MEMORY) throw Fault{error};
  return block;
}

Pool::node_type Memory::take(size_t size) {
  // A large block may serve a slightly smaller wish; small classes are exact.
  const auto found = pool_.lower_bound(size);
  if (found != pool_.end() && found->first <= (size >= kLarge && !kExact ? size + size / 8 : size)) {
    pooled_ -= found->first;
    return pool_.extract(found);
  }
  shed(size);
  Pool fresh;
  fresh.emplace(size, Block{});
  Pool::node_type node = fresh.extract(fresh.begin());
  node.mapped() = from_system(size);
  return node.mapped().data ? std::move(node) : Pool::node_type();
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

void Memory::out_of_memory(const char* what, size_t bytes) const {
  const size_t room = limit_ > held_ ? limit_ - held_ : 0;
  const uint64_t free = std::min<uint64_t>(room, available_());
  Fault fault{make_error(LR_OUT_OF_MEMORY, "alloc", "out of memory: %zu bytes%s are needed, %llu bytes are free, %zu are in use by tensors", bytes, what,
                         static_cast<unsigned long long>(free), live_)};
  fault.needed = bytes;
  fault.free = free;
  throw fault;
}

// Rare enough to block: cached blocks still in use by queued records are given back once the stream has passed.
template <class Get>
auto Memory::with_pool_given_up(std::unique_lock<std::mutex>& lock, Get get) {
  lock.unlock();
  stream_.drain();
  lock.lock();
  trim_locked();
  return get();
}

Storage* Memory::allocate(size_t bytes) {
  std::unique_ptr<Storage> storage(new Storage(*this, bytes));
  std::unique_lock<std::mutex> lock(mutex_);
  if (!refused()) {
    const auto get = [&] { return take(size_class(bytes)); };
    storage->block_ = get();
    if (!storage->block_) storage->block_ = with_pool_given_up(lock, get);
  }
  if (!storage->block_) out_of_memory("", bytes);
  live_ += bytes;
  peak_ = std::max(peak_, live_);
  most_live_ = std::max(most_live_, live_);
  return storage.release();
}

void Memory::recycle(Storage* storage) noexcept {
  const std::unique_ptr<Storage> owned(storage);
  std::lock_guard<std::mutex> lock(mutex_);
  live_ -= owned->bytes_;
  pooled_ += owned->block_.mapped().bytes;
  pool_.insert(std::move(owned->block_));
}

void* Memory::scratch(size_t bytes) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (kExact ? bytes == scratch_.bytes : bytes <= scratch_.bytes) return scratch_.data;
  if (refused()) out_of_memory(" of scratch", bytes);
  give_up_scratch();
  // Room to grow, if there is any.
  scratch_ = from_system(size_class(kExact || bytes > kMost ? bytes : bytes + bytes / 4));
  if (!scratch_.data) scratch_ = with_pool_given_up(lock, [&] { return from_system(size_class(bytes)); });
  if (!scratch_.data) out_of_memory(" of scratch", bytes);
  return scratch_.data;
}

void Memory::give_up_scratch() {
  if (!scratch_.data) return;
  scratch_.last_use = stream_.last();
  release_later(scratch_);
  scratch_ = {};
}

void Memory::release_later(const Block& block) {
  held_ -= block.bytes;
  std::unique_ptr<Task> release(new (std::nothrow) ReleaseBlock(release_, block));
  if (release) return stream_.when_passed(block.last_use, std::move(release));
  stream_.drain();
  release_(block.data, block.bytes);
}

void Memory::trim_locked() {
  for (const auto& entry : pool_) release_later(entry.second);
  pool_.clear();
  pooled_ = 0;
}

void Memory::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  trim_locked();
  give_up_scratch();
}

MemoryStats Memory::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {live_, peak_, pooled_ + scratch_.bytes, scratch_.bytes, held_, most_held_};
}

void Memory::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  peak_ = live_;
  most_held_ = held_;
}

void Memory::set_limit(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  limit_ = bytes;
}

}  // namespace lr
