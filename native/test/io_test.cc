#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "../core/io_pool.h"
#include "../core/platform.h"
#include "fake.h"

namespace lr::test {
namespace {

TEST(IoPool, RunsEverythingThatWasAdded) {
  for (const int threads : {1, 2, 4, 7}) {
    std::atomic<int> runs{0};
    {
      IoPool pool(threads);
      std::vector<std::thread> adding;
      for (int t = 0; t < 4; t++)
        adding.emplace_back([&] {
          for (int i = 0; i < 1000; i++) pool.add(task([&runs] { runs++; }));
        });
      for (std::thread& thread : adding) thread.join();
    }
    EXPECT_EQ(runs, 4000);
  }
}

TEST(IoPool, TakesTasksThatHandThemselvesOn) {
  struct Twice : Task {
    IoPool& pool;
    std::atomic<int>& runs;
    Twice(IoPool& pool, std::atomic<int>& runs) : pool(pool), runs(runs) {}
    void run(std::unique_ptr<Task> self) noexcept override {
      if (++runs % 2) pool.add(std::move(self));
    }
  };
  std::atomic<int> runs{0};
  {
    IoPool pool(1);
    for (int i = 0; i < 100; i++) pool.add(std::make_unique<Twice>(pool, runs));
    while (runs < 100) std::this_thread::yield();
  }
  EXPECT_GE(runs, 100);
}

TEST(IoPool, MakesDoWithFewerThreadsAndSaysWhenThereIsNone) {
  {
    const Threads limit(2);
    std::atomic<int> runs{0};
    {
      IoPool pool(4);
      for (int i = 0; i < 10; i++) pool.add(task([&runs] { runs++; }));
    }
    EXPECT_EQ(runs, 10);
  }
  const Threads limit(0);
  const auto fault = fault_of([] { IoPool pool(4); });
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->error.code, LR_DEVICE);
}

class Files : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/lowrank-native-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder = name;
    std::ofstream(path("data")) << "0123456789";
    ASSERT_EQ(mkfifo(path("fifo").c_str(), 0600), 0);
  }
  void TearDown() override {
    for (const char* name : {"data", "fifo"}) unlink(path(name).c_str());
    rmdir(folder.c_str());
  }
  std::string path(const char* name) const { return folder + "/" + name; }
  std::string folder;
};

TEST_F(Files, AreReadExactly) {
  char text[11] = "..........";
  EXPECT_EQ(read_file(path("data").c_str(), text + 2, 3, 4), "");
  EXPECT_STREQ(text, "..3456....");
  EXPECT_EQ(read_file(path("data").c_str(), text, 10, 0), "");
}

TEST_F(Files, ThatCannotBeReadAreNamed) {
  char text[64];
  EXPECT_EQ(read_file(path("data").c_str(), text, 8, 4), path("data") + " ends at byte 10, expected 12");
  EXPECT_EQ(read_file(path("data").c_str(), text, uint64_t{1} << 53, 1), path("data") + " ends at byte 9007199254740992, expected 9007199254740993");
  EXPECT_EQ(read_file(path("none").c_str(), text, 0, 1), "cannot open " + path("none") + ": No such file or directory");
  EXPECT_EQ(read_file(folder.c_str(), text, 0, 1), folder + " is not a regular file");
  EXPECT_EQ(read_file(path("fifo").c_str(), text, 0, 1), path("fifo") + " is not a regular file");
  EXPECT_EQ(read_file("/dev/zero", text, 0, 1), "/dev/zero is not a regular file");
  // The first page of a process is never there.
  EXPECT_EQ(read_file("/proc/self/mem", text, 0, 1), "cannot read /proc/self/mem: Input/output error");
  EXPECT_NE(read_file(std::string(100000, 'x').c_str(), text, 0, 1).find("File name too long"), std::string::npos);
}

TEST(Platform, KnowsTheMachine) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_GT(available_memory(), uint64_t{1} << 20);
}

}  // namespace
}  // namespace lr::test
