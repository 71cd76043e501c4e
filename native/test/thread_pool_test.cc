#include "../core/thread_pool.h"

#include <time.h>

#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include "fake.h"

namespace lr::test {
namespace {

struct Job {
  std::vector<std::atomic<int>> runs;
  std::vector<std::atomic<int>> busy;
  std::atomic<bool> shared{false};
  Job(int64_t tasks, int threads) : runs(static_cast<size_t>(tasks)), busy(static_cast<size_t>(threads)) {}
  static void body(void* ctx, int64_t task, int32_t thread) {
    Job& job = *static_cast<Job*>(ctx);
    std::atomic<int>& mine = job.busy.at(static_cast<size_t>(thread));
    if (mine.fetch_add(1) != 0) job.shared = true;  // two tasks at once as the same thread
    job.runs.at(static_cast<size_t>(task))++;
    mine--;
  }
};

class Pools : public testing::TestWithParam<int> {};

TEST_P(Pools, RunEveryTaskOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (const int64_t tasks : {0, 1, 2, 3, 7, 8, 63, 1000, 4097}) {
    Job job(tasks, GetParam());
    pool.run(tasks, Job::body, &job);
    for (const auto& runs : job.runs) ASSERT_EQ(runs, 1) << tasks << " tasks";
    EXPECT_FALSE(job.shared);
  }
}

TEST_P(Pools, KeepJobsApart) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 3000; round++) {
    // Plain memory, different each time: a task of an earlier job would write into it after its end.
    std::vector<int> out(static_cast<size_t>(1 + round % 13), -1);
    struct Ctx {
      int* out;
      int round;
    } ctx{out.data(), round};
    pool.run(static_cast<int64_t>(out.size()), [](void* ctx, int64_t task, int32_t) { static_cast<Ctx*>(ctx)->out[task] = static_cast<Ctx*>(ctx)->round; }, &ctx);
    for (const int value : out) ASSERT_EQ(value, round);
  }
}

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

TEST_P(Pools, WaitAsleepForATaskThatLasts) {
  ThreadPool pool(GetParam());
  const double before = processor_seconds();
  for (int round = 0; round < 3; round++) {
    std::atomic<int> done{0};
    pool.run(GetParam(), [](void* ctx, int64_t, int32_t thread) {
      std::this_thread::sleep_for(std::chrono::milliseconds(thread == 0 ? 20 : 300));  // the others have theirs by then
      static_cast<std::atomic<int>*>(ctx)->fetch_add(1);
    }, &done);
    EXPECT_EQ(done, GetParam());
  }
  EXPECT_LT(processor_seconds() - before, 0.1);  // three times 280 ms of waiting, spent asleep
}

TEST_P(Pools, EndAtAnyTime) {
  for (int i = 0; i < 50; i++) {
    ThreadPool pool(GetParam());
    if (i % 2 == 0) continue;
    Job job(i, GetParam());
    pool.run(i, Job::body, &job);
  }
}

TEST_P(Pools, LeaveNothingBehindWhenThreadsAreRefused) {
  for (int granted = 0; granted < GetParam() - 1; granted++) {
    const Threads limit(granted);
    EXPECT_THROW(ThreadPool pool(GetParam()), std::system_error) << granted;
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Pools, testing::Values(1, 2, 4, 7));

}  // namespace
}  // namespace lr::test
