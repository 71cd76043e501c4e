#include "../core/places.h"

#include <sched.h>

#include <thread>

#include "../core/platform.h"
#include "../core/thread_pool.h"
#include "fake.h"

namespace lr::test {
namespace {

// Where the calling thread may run.
struct Mask {
  cpu_set_t set;
  Mask() { EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0); }
  explicit Mask(int core) {
    CPU_ZERO(&set);
    CPU_SET(core, &set);
  }
  void impose() const { EXPECT_EQ(sched_setaffinity(0, sizeof set, &set), 0); }
  bool operator==(const Mask& other) const { return CPU_EQUAL(&set, &other.set); }
};

class Cores : public testing::Test {
 protected:
  void SetUp() override {
    if (available_cores() < 2) GTEST_SKIP() << "one core";
  }
  // The system may move a thread at any time, so a test counts.
  static constexpr int kTries = 100, kMost = 60;
};

void wait_for(const std::atomic<bool>& flag) {
  while (!flag) std::this_thread::yield();
}

TEST_F(Cores, AThreadIsMovedAndMayRunWhereItMight) {
  const Mask before;
  int moved = 0;
  for (int i = 0; i < kTries; i++) {
    const int core = next_core(current_core());
    move_thread(thread_id(), core);
    moved += current_core() == core;
    ASSERT_EQ(Mask(), before);
  }
  EXPECT_GT(moved, kMost);
}

TEST_F(Cores, AThreadStaysInItsMask) {
  const Mask before;
  const int core = current_core(), other = next_core(core);
  const Mask only(core);
  only.impose();
  EXPECT_EQ(next_core(core), core);
  for (const int to : {other, core, -1, CPU_SETSIZE}) {
    move_thread(thread_id(), to);
    EXPECT_EQ(current_core(), core);
    EXPECT_EQ(Mask(), only);
  }
  before.impose();
}

TEST_F(Cores, TwoThatMoveAThreadLeaveItsMask) {
  const Mask before;
  std::atomic<bool> ready{false}, over{false};
  int64_t id = 0;
  std::thread moved([&] {
    id = thread_id();
    ready = true;
    while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // asleep it is moved in a microsecond
    EXPECT_EQ(Mask(), before);
  });
  wait_for(ready);
  const auto move = [&, core = current_core()] {
    for (int i = 0; i < 20000; i++) move_thread(id, core);
  };
  std::thread other(move);
  move();
  other.join();
  over = true;
  moved.join();
}

TEST_F(Cores, AWorkerLeavesTheCoreOfThread0) {
  Places places(2);
  int left = 0;
  for (int i = 0; i < kTries; i++) {
    // As a worker that thread 0 brought to its core in the middle of a task.
    places.begin_task(1);
    move_thread(thread_id(), next_core(current_core()));
    places.note(0);
    const int core = current_core();
    places.leave(1);
    left += current_core() != core;
  }
  EXPECT_GT(left, kMost);
}

TEST_F(Cores, AWorkerOnACoreOfItsOwnStays) {
  Places places(2);
  int left = 0;
  for (int i = 0; i < kTries; i++) {
    places.note(0);
    move_thread(thread_id(), next_core(current_core()));
    const int core = current_core();
    places.leave(1);
    left += current_core() != core;
  }
  EXPECT_LT(left, kTries - kMost);
}

TEST_F(Cores, ThreadsThatMustShareCoresStay) {
  Places places(available_cores() + 1);
  int left = 0;
  for (int i = 0; i < kTries; i++) {
    places.note(0);
    const int core = current_core();
    places.leave(1);
    left += current_core() != core;
  }
  EXPECT_LT(left, kTries - kMost);
}

// One thread of a pool, the holder, has a task for long while the other waits.
class Holders : public Cores, public testing::WithParamInterface<int> {};

struct Held {
  const int holder;
  std::atomic<int> core{-1};  // of the other
  std::atomic<bool> apart{false}, came{false};
  static void body(void* context, int64_t, int32_t thread) {
    Held& held = *static_cast<Held*>(context);
    if (thread != held.holder) {
      const int core = current_core();
      Mask(core).impose();
      held.core = core;
      return wait_for(held.apart);
    }
    while (held.core < 0) std::this_thread::yield();
    while (current_core() == held.core) move_thread(thread_id(), next_core(held.core));
    held.apart = true;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
    while (!held.came && std::chrono::steady_clock::now() < limit) held.came = current_core() == held.core;
  }
};

TEST_P(Holders, GetTheCoreOfAThreadThatWaits) {
  const Mask before;
  int came = 0;
  for (int i = 0; i < kTries; i++) {
    ThreadPool pool(2);
    Held held{GetParam()};
    pool.run(2, Held::body, &held);
    before.impose();
    came += held.came;
  }
  EXPECT_GT(came, kMost);
}

TEST_P(Holders, KeepResultsAndMasks) {
  const Mask before;
  ThreadPool pool(2);
  struct Ctx {
    const Mask& mask;
    const int holder;
    std::atomic<int> done{0}, masks{0};
  };
  for (int round = 0; round < 300; round++) {
    Ctx ctx{before, GetParam()};
    pool.run(8, [](void* context, int64_t, int32_t thread) {
      Ctx& ctx = *static_cast<Ctx*>(context);
      // Long enough that the other one lends its core.
      const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(thread == ctx.holder ? 800 : 5);
      while (std::chrono::steady_clock::now() < end) cpu_relax();
      ctx.done++;
    }, &ctx);
    ASSERT_EQ(ctx.done, 8);
  }
  for (int round = 0; round < 20; round++) {
    Ctx ctx{before, GetParam()};
    pool.run(64, [](void* context, int64_t, int32_t) {
      Ctx& ctx = *static_cast<Ctx*>(context);
      // Between the two calls of a move the mask is one core: it must come back.
      const auto limit = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
      bool same;
      while (!(same = Mask() == ctx.mask) && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
      ctx.masks += same;
    }, &ctx);
    EXPECT_EQ(ctx.masks, 64);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Holders, testing::Values(0, 1));

}  // namespace
}  // namespace lr::test
