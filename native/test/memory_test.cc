#include "../core/memory.h"

#include <cstring>
#include <vector>

#include "fake.h"

namespace lr::test {
namespace {

// A stream and its memory; nothing may be left in the backend afterwards.
class MemoryTest : public testing::Test {
 protected:
  void TearDown() override {
    Memory::fail_allocation(0);
    memory.trim();
    stream.drain();
    // What the stream releases follows the record that it passes.
    stream.enqueue(record([] {}));
    stream.drain();
    EXPECT_EQ(blocks, blocks_before);
    EXPECT_EQ(bytes, bytes_before);
    EXPECT_EQ(memory.stats().live, 0u);
  }
  Fault refusal(const std::function<void()>& body) {
    const auto fault = fault_of(body);
    EXPECT_TRUE(fault);
    return fault.value_or(Fault{});
  }
  static constexpr size_t kLimit = 64 << 20;
  const int64_t blocks_before = blocks, bytes_before = bytes;
  Stream stream{2};
  Memory memory{fake_backend.alloc, fake_backend.release, stream, kLimit};
};

TEST_F(MemoryTest, CountsWhatIsAskedFor) {
  Storage* a = memory.allocate(1000);
  Storage* b = memory.allocate(0);
  EXPECT_NE(a->data(), nullptr);
  EXPECT_NE(b->data(), nullptr);
  EXPECT_EQ(memory.stats().live, 1000u);
  a->retain();
  a->release();
  EXPECT_EQ(memory.stats().live, 1000u);
  a->release();
  b->release();
  EXPECT_EQ(memory.stats().live, 0u);
  EXPECT_EQ(memory.stats().peak, 1000u);
  EXPECT_GE(memory.stats().pooled, 1000u);
  memory.reset_peak();
  EXPECT_EQ(memory.stats().peak, 0u);
}

TEST_F(MemoryTest, HandsBlocksOutAgain) {
  Storage* a = memory.allocate(5000);
  void* data = a->data();
  const Ticket ticket = stream.enqueue(record([] {}));
  a->used(ticket);
  a->release();
  Storage* b = memory.allocate(5000);
  EXPECT_EQ(b->data(), data);
  EXPECT_EQ(b->last_use(), ticket);
  EXPECT_EQ(memory.stats().pooled, 0u);
  b->release();
}

TEST_F(MemoryTest, HoldsBlocksUntilTheStreamHasPassed) {
  Storage* a = memory.allocate(1 << 16);
  std::atomic<bool> open{false};
  void* data = a->data();
  a->used(stream.enqueue(record([&open, data] {
    while (!open) std::this_thread::yield();
    std::memset(data, 1, 1 << 16);  // AddressSanitizer knows whether it is still there
  })));
  a->release();
  memory.trim();
  EXPECT_EQ(blocks, blocks_before + 1);
  open = true;
  stream.drain();
}

TEST_F(MemoryTest, KeepsToItsLimitAndGivesUpThePoolFirst) {
  Storage* big = memory.allocate(kLimit * 3 / 4);
  big->release();
  Storage* other = memory.allocate(kLimit / 2);
  Fault fault = refusal([&] { memory.allocate(kLimit * 3 / 4); });
  EXPECT_EQ(fault.error.code, LR_OUT_OF_MEMORY);
  EXPECT_EQ(fault.needed, kLimit * 3 / 4);
  EXPECT_LE(fault.free, kLimit / 2);
  EXPECT_EQ(refusal([&] { memory.scratch(kLimit * 3 / 4); }).needed, kLimit * 3 / 4);
  EXPECT_NE(memory.scratch(kLimit * 7 / 16), nullptr);  // exactly, when there is no room to grow
  other->release();
}

TEST_F(MemoryTest, RefusesWhatNoMachineHas) {
  for (const size_t size : {size_t{1} << 45, size_t{1} << 62, SIZE_MAX - 4096}) {
    EXPECT_EQ(refusal([&] { memory.allocate(size); }).error.code, LR_OUT_OF_MEMORY);
    EXPECT_EQ(refusal([&] { memory.scratch(size); }).error.code, LR_OUT_OF_MEMORY);
  }
}

TEST_F(MemoryTest, FailsWhereATestAsks) {
  for (int n = 1; n <= 4; n++) {
    memory.trim();
    Memory::fail_allocation(n);
    std::vector<Storage*> made;
    int failed = 0;
    for (int i = 1; i <= 4; i++) {
      const auto fault = fault_of([&] {
        if (i == 3) memory.scratch(1000);
        else made.push_back(memory.allocate(1000));
      });
      if (fault) failed = i;
    }
    EXPECT_EQ(failed, n);
    for (Storage* storage : made) storage->release();
  }
}

TEST_F(MemoryTest, KeepsTheScratchThatItHasWhenMoreIsRefused) {
  void* scratch = memory.scratch(1000);
  Memory::fail_allocation(1);
  EXPECT_TRUE(fault_of([&] { memory.scratch(1 << 20); }));
  EXPECT_EQ(memory.scratch(1000), scratch);
}

TEST_F(MemoryTest, DoesNotPileUp) {
  for (size_t size = 1 << 20; size < 40 << 20; size += 1 << 19) memory.allocate(size)->release();
  EXPECT_LE(memory.stats().pooled, kLimit);
}

TEST_F(MemoryTest, IsSharedByThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 7; t++)
    threads.emplace_back([&, t] {
      std::vector<Storage*> mine;
      for (int i = 0; i < 1500; i++) {
        if (mine.size() > 5) {
          mine.front()->release();
          mine.erase(mine.begin());
        }
        const size_t size = static_cast<size_t>(1 + (i * 7919 + t) % 5000);
        const auto fault = fault_of([&] { mine.push_back(memory.allocate(size)); });
        if (fault) continue;
        void* data = mine.back()->data();
        const Ticket ticket = stream.enqueue(record([data, size] { std::memset(data, 1, size); }));
        mine.back()->used(ticket);
        if (i % 300 == 17) memory.trim();
        if (i % 100 == 3) memory.stats();
      }
      for (Storage* storage : mine) storage->release();
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(Storage, KnowsWhetherItIsBeingFilled) {
  Stream stream(1);
  Memory memory(fake_backend.alloc, fake_backend.release, stream, SIZE_MAX);
  Storage* storage = memory.allocate(10);
  EXPECT_FALSE(storage->filling());
  storage->begin_filling();
  storage->begin_filling();
  storage->end_filling();
  EXPECT_TRUE(storage->filling());
  storage->end_filling();
  EXPECT_FALSE(storage->filling());
  storage->release();
  memory.trim();
}

}  // namespace
}  // namespace lr::test
