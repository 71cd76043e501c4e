// What the tests of core stand on: a backend of plain memory that counts, and a system that grants a chosen number of threads.
#ifndef LOWRANK_TEST_FAKE_H
#define LOWRANK_TEST_FAKE_H
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "../abi/backend.h"
#include "../core/fault.h"
#include "../core/stream.h"
#include "../core/task.h"

namespace lr::test {

// Of the fake backend: blocks and bytes that were allocated and not released.
extern std::atomic<int64_t> blocks, bytes;
extern const lr_backend fake_backend;

// While it lives, every thread after the next `granted` ones is refused.
struct Threads {
  explicit Threads(int granted);
  ~Threads();
};

// The Fault that the body throws, if any.
inline std::optional<Fault> fault_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Fault& fault) {
    return fault;
  }
  return std::nullopt;
}

struct Call : Record {
  std::function<lr_error(lr_queue*)> body;
  lr_error run(lr_queue* queue) override { return body(queue); }
};
inline std::unique_ptr<Record> record(std::function<void()> body) {
  auto call = std::make_unique<Call>();
  call->body = [body = std::move(body)](lr_queue*) {
    body();
    return lr_error{};
  };
  return call;
}

struct Do : Task {
  std::function<void()> body;
  void run(std::unique_ptr<Task>) noexcept override { body(); }
};
inline std::unique_ptr<Task> task(std::function<void()> body) {
  auto made = std::make_unique<Do>();
  made->body = std::move(body);
  return made;
}

}  // namespace lr::test
#endif
