#include "../core/stream.h"

#include <chrono>
#include <system_error>
#include <vector>

#include "fake.h"

namespace lr::test {
namespace {

std::unique_ptr<Call> failing(const char* op, const std::shared_ptr<ErrorSlot>& errors) {
  auto call = std::make_unique<Call>();
  call->errors = errors;
  call->body = [op](lr_queue*) { return make_error(LR_INVALID, op, "wrong"); };
  return call;
}

TEST(Stream, RunsInOrder) {
  Stream stream(2);
  std::vector<int> order;  // of the stream's thread alone
  for (int i = 0; i < 10000; i++) EXPECT_EQ(stream.enqueue(record([&order, i] { order.push_back(i); })), static_cast<Ticket>(i + 1));
  stream.drain();
  ASSERT_EQ(order.size(), 10000u);
  for (int i = 0; i < 10000; i++) ASSERT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_EQ(stream.last(), 10000u);
  EXPECT_TRUE(stream.passed(10000));
  EXPECT_FALSE(stream.passed(10001));
}

TEST(Stream, RunsWhatIsQueuedBeforeItEnds) {
  int runs = 0;
  {
    Stream stream(1);
    for (int i = 0; i < 1000; i++) stream.enqueue(record([&runs] { runs++; }));
  }
  EXPECT_EQ(runs, 1000);
}

TEST(Stream, OwnsItsRecords) {
  const auto held = std::make_shared<int>(1);
  {
    Stream stream(1);
    for (int i = 0; i < 100; i++) stream.enqueue(record([held] {}));
  }
  EXPECT_EQ(held.use_count(), 1);  // not before: a record ends just after the stream has passed it
}

TEST(Stream, IsSharedByThreads) {
  Stream stream(2);
  constexpr int kThreads = 7, kEach = 2000;
  std::vector<std::vector<int>> seen(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] {
      Ticket before = 0;
      for (int i = 0; i < kEach; i++) {
        const Ticket ticket = stream.enqueue(record([&, t, i] { seen[static_cast<size_t>(t)].push_back(i); }));
        EXPECT_GT(ticket, before);
        before = ticket;
        if (i % 500 == 0) stream.drain();
      }
    });
  for (std::thread& thread : threads) thread.join();
  stream.drain();
  for (const auto& mine : seen) {
    ASSERT_EQ(mine.size(), static_cast<size_t>(kEach));
    for (int i = 0; i < kEach; i++) ASSERT_EQ(mine[static_cast<size_t>(i)], i);
  }
}

TEST(Stream, DrainsWhileOthersGoOn) {
  Stream stream(1);
  std::atomic<bool> stop{false};
  std::atomic<int64_t> queued{0};
  std::thread other([&] {
    while (!stop) {
      if (queued - static_cast<int64_t>(stream.passed(0)) < 1000000) stream.enqueue(record([] { std::this_thread::sleep_for(std::chrono::microseconds(20)); }));
      queued++;
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
  });
  for (int i = 0; i < 20; i++) {
    int mine = 0;
    stream.enqueue(record([&mine] { mine = 1; }));
    stream.drain();
    EXPECT_EQ(mine, 1);
  }
  stop = true;
  other.join();
}

TEST(Stream, TellsWhenItHasPassed) {
  Stream stream(1);
  std::vector<Ticket> order;
  std::atomic<bool> open{false};
  stream.enqueue(record([&] {
    while (!open) std::this_thread::yield();
  }));
  for (int i = 0; i < 5; i++) stream.enqueue(record([] {}));
  for (const Ticket ticket : {4u, 2u, 6u, 2u, 1u}) stream.when_passed(ticket, task([&order, ticket] { order.push_back(ticket); }));
  open = true;
  stream.drain();
  stream.enqueue(record([] {}));
  stream.drain();
  EXPECT_EQ(order, (std::vector<Ticket>{1, 2, 2, 4, 6}));
  bool at_once = false;
  stream.when_passed(3, task([&at_once] { at_once = true; }));
  EXPECT_TRUE(at_once);
}

TEST(Stream, TellsEverybody) {
  std::atomic<int> told{0}, early{0};
  {
    Stream stream(2);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
      threads.emplace_back([&] {
        for (int i = 0; i < 2000; i++) {
          const auto done = std::make_shared<std::atomic<bool>>(false);
          const Ticket ticket = stream.enqueue(record([done] { *done = true; }));
          stream.when_passed(ticket, task([&, done] {
            if (!*done) early++;
            told++;
          }));
          if (i % 97 == 0) stream.drain();
        }
      });
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(told, 8000);
  EXPECT_EQ(early, 0);
}

TEST(Stream, KeepsTheFirstErrorOfEachOwner) {
  Stream stream(1);
  const auto mine = std::make_shared<ErrorSlot>(), other = std::make_shared<ErrorSlot>();
  stream.enqueue(failing("first", mine));
  stream.enqueue(failing("second", mine));
  stream.enqueue(failing("nobody", nullptr));
  stream.drain();
  EXPECT_EQ(other->take().code, LR_OK);
  const lr_error error = mine->take();
  EXPECT_EQ(error.code, LR_INVALID);
  EXPECT_STREQ(error.op, "first");
  EXPECT_EQ(mine->take().code, LR_OK);
}

TEST(Stream, TimesOps) {
  Stream stream(1);
  OpTime times[kMaxOps];
  stream.profile(true);
  for (int i = 0; i < 3; i++) {
    auto call = record([] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
    call->op = 5;
    stream.enqueue(std::move(call));
  }
  stream.enqueue(record([] {}));  // not an op
  stream.drain();
  stream.profile(false);
  stream.take_profile(times);
  EXPECT_EQ(times[5].calls, 3u);
  EXPECT_GE(times[5].nanoseconds, 3000000u);
  stream.take_profile(times);
  for (const OpTime& time : times) EXPECT_EQ(time.calls, 0u);
}

TEST(Stream, GivesTasksToItsPool) {
  Stream stream(4);
  std::atomic<int> runs{0};
  auto call = std::make_unique<Call>();
  call->scratch_size = 3;
  call->body = [&runs](lr_queue* queue) {
    EXPECT_EQ(queue->threads, 4);
    EXPECT_EQ(queue->scratch_size, 3u);
    queue->parallel(queue, 100, [](void* ctx, int64_t, int32_t) { (*static_cast<std::atomic<int>*>(ctx))++; }, &runs);
    return lr_error{};
  };
  stream.enqueue(std::move(call));
  stream.drain();
  EXPECT_EQ(runs, 100);
}

TEST(Stream, LeavesNothingBehindWhenThreadsAreRefused) {
  for (int granted = 0; granted < 4; granted++) {
    const Threads limit(granted);
    EXPECT_THROW(Stream stream(4), std::system_error) << granted;
  }
}

}  // namespace
}  // namespace lr::test
