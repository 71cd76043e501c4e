#include "../core/device.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "../addon/handles.h"
#include "fake.h"

namespace lr::test {
namespace {

struct Variable {
  Variable(const char* name, const char* value) : name(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name); }
  const char* const name;
};

int32_t code_of(const std::string& name) {
  const auto fault = fault_of([&] { open_device(name); });
  return fault ? fault->error.code : LR_OK;
}

TEST(Devices, AreOpenedOnce) {
  Device& device = open_device("cpu:fake:3");
  EXPECT_EQ(&open_device("cpu:fake:3"), &device);
  EXPECT_EQ(find_device(device.number), &device);
  EXPECT_EQ(device.stream.threads(), 3);
  EXPECT_NE(&open_device("cpu:fake:2"), &device);
  for (const int none : {-1, 63, 64, 1 << 20}) EXPECT_EQ(find_device(none), nullptr);
}

TEST(Devices, ThatAreNoneAreRefused) {
  for (const char* bad : {"", "tpu", "cpux", "CPU", "cpu:fake:0", "cpu:fake:257", "cpu:fake:-1", "cpu:fake:x", "cpu:fake:1:2", "cpu:fake:99999999999999999999"})
    EXPECT_EQ(code_of(bad), LR_INVALID) << bad;
  EXPECT_EQ(code_of(std::string(100000, 'c')), LR_INVALID);
  EXPECT_EQ(code_of("cpu:mmx"), LR_UNSUPPORTED);
  EXPECT_EQ(code_of("cpu:foreign:1"), LR_DEVICE);
}

TEST(Devices, ReadTheEnvironment) {
  {
    const Variable threads("LOWRANK_THREADS", "5"), isa("LOWRANK_ISA", "fake"), limit("LOWRANK_MEMORY_LIMIT", "1k");
    Device& device = open_device("cpu");
    EXPECT_EQ(device.stream.threads(), 5);
    EXPECT_TRUE(fault_of([&] { device.memory.allocate(1025); }));
    device.memory.allocate(1024)->release();
  }
  for (const char* limit : {"2m", "1G", "100"}) {
    const Variable variable("LOWRANK_MEMORY_LIMIT", limit);
    EXPECT_EQ(code_of(std::string("cpu:fake:") + (limit[0] == '2' ? "8" : limit[1] == 'G' ? "9" : "10")), LR_OK);
  }
  for (const char* bad : {"lots", "1x", "-1", "0", "nan", "1e30", "1kk"}) {
    const Variable limit("LOWRANK_MEMORY_LIMIT", bad);
    EXPECT_EQ(code_of("cpu:fake:11"), LR_INVALID) << bad;
  }
}

TEST(Devices, NeedTheirThreads) {
  for (int granted = 0; granted < 6; granted++) {
    const Threads limit(granted);
    EXPECT_EQ(code_of("cpu:fake:6"), LR_DEVICE) << granted;
  }
  EXPECT_EQ(code_of("cpu:fake:6"), LR_OK);  // the failed ones left no device behind
}

TEST(Devices, AreSharedByThreads) {
  std::set<Device*> seen;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int t = 0; t < 7; t++)
    threads.emplace_back([&] {
      Device& device = open_device("cpu:fake:4");
      {
        std::lock_guard<std::mutex> lock(mutex);
        seen.insert(&device);
      }
      for (int i = 0; i < 800; i++) {
        const size_t size = static_cast<size_t>(64 + (i * 4099) % 20000);
        auto call = std::make_unique<Call>();
        call->body = [size](lr_queue* queue) {
          EXPECT_GE(queue->scratch_size, size);
          std::memset(queue->scratch, 1, size);  // gone, if a trim or a larger wish came in between
          return lr_error{};
        };
        device.enqueue(std::move(call), size);
        if (i % 50 == 9) device.trim();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(seen.size(), 1u);
  (*seen.begin())->stream.drain();
}

TEST(Devices, AreNotWithoutEnd) {
  int32_t code = LR_OK;
  for (int i = 1; i <= 64 && code == LR_OK; i++) code = code_of("cpu:fake:" + std::string(static_cast<size_t>(i), '0') + "1");
  EXPECT_EQ(code, LR_INVALID);
}

struct Entry {
  static constexpr uint64_t kTag = 0;
  static constexpr const char* kName = "thing";
  Device* device = nullptr;
  int* drops = nullptr;
  void drop() { ++*drops; }
};

TEST(Handles, MeanOneThing) {
  int drops = 0;
  HandleTable<Entry> table(1);
  std::set<double> seen;
  for (int i = 0; i < 1000; i++) {
    const double handle = table.add(Entry{nullptr, &drops}, "add");
    EXPECT_TRUE(seen.insert(handle).second);
    EXPECT_EQ(handle, static_cast<double>(static_cast<uint64_t>(handle)));
    table.get(handle, "get");
    if (i % 3 == 0) continue;
    table.remove(handle, "remove");
    EXPECT_EQ(fault_of([&] { table.get(handle, "get"); })->error.code, kDisposed);
    EXPECT_EQ(fault_of([&] { table.remove(handle, "remove"); })->error.code, kDisposed);
  }
  EXPECT_EQ(drops, 666);
  table.clear();
  EXPECT_EQ(drops, 1000);
}

TEST(Handles, ThatAreNoneAreRefused) {
  int drops = 0;
  HandleTable<Entry> table(1);
  const double handle = table.add(Entry{nullptr, &drops}, "add");
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -0.0, -1.0, 0.5, handle + 0.5, handle + 1, handle + 4194304.0, -handle, 1e300, 9007199254740992.0, 9007199254740991.0,
                           infinity, -infinity, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_TRUE(fault_of([&] { table.get(bad, "get"); })) << bad;
  table.clear();
}

TEST(Handles, OfAnotherTableAreStale) {
  int drops = 0;
  HandleTable<Entry> mine(1), other(12345);
  const double handle = mine.add(Entry{nullptr, &drops}, "add");
  other.add(Entry{nullptr, &drops}, "add");
  EXPECT_EQ(fault_of([&] { other.get(handle, "get"); })->error.code, kDisposed);
  mine.clear();
  other.clear();
}

TEST(Handles, AreNotWithoutEnd) {
  int drops = 0;
  HandleTable<Entry> table(1);
  double last = 0;
  for (int i = 0; i < 1 << 22; i++) last = table.add(Entry{nullptr, &drops}, "add");
  EXPECT_EQ(fault_of([&] { table.add(Entry{nullptr, &drops}, "add"); })->error.code, LR_INVALID);
  table.remove(last, "remove");
  EXPECT_NE(table.add(Entry{nullptr, &drops}, "add"), last);
  table.clear();
  EXPECT_EQ(drops, (1 << 22) + 1);
}

TEST(Handles, GiveUpASlotWhoseGenerationsAreUsedUp) {
  int drops = 0;
  HandleTable<Entry> table((1u << 29) - 1);
  const double last = table.add(Entry{nullptr, &drops}, "add");
  EXPECT_LT(last, 9007199254740992.0);
  table.remove(last, "remove");
  const double next = table.add(Entry{nullptr, &drops}, "add");
  EXPECT_EQ(static_cast<uint64_t>(next) & 0x3fffff, 1u);  // another slot
  EXPECT_EQ(fault_of([&] { table.get(last, "get"); })->error.code, kDisposed);
  table.clear();
}

}  // namespace
}  // namespace lr::test
