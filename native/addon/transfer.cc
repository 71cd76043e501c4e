// Bytes in and out of tensors, and waiting for the stream.
#include <algorithm>
#include <cstring>

#include "../core/io_pool.h"
#include "../core/platform.h"
#include "environment.h"

namespace lr {
namespace {

// What the kernel would grant and could not give, as in Memory, is refused.
std::unique_ptr<uint8_t[]> host_bytes(size_t size, const char* op) {
  const uint64_t free = size > Memory::kPlenty ? available_memory() : UINT64_MAX;
  std::unique_ptr<uint8_t[]> bytes(Memory::refused() || size > free ? nullptr : new (std::nothrow) uint8_t[size ? size : 1]);
  if (bytes) return bytes;
  throw Fault{make_error(LR_OUT_OF_MEMORY, op, "out of host memory: %zu bytes are needed", size), size, available_memory()};
}

struct Upload : Record {
  const lr_backend* backend;
  void* to;
  std::unique_ptr<uint8_t[]> bytes;
  size_t size;
  lr_error run(lr_queue* queue) override { return backend->upload(queue, to, bytes.get(), size); }
};

// Ends a wait: copies the bytes if any were asked for, then posts the completion with the first error so far.
struct Wait : Record {
  Device* device;
  const void* from = nullptr;
  std::unique_ptr<Completion> completion;
  std::shared_ptr<Waiter> waiter;
  lr_error run(lr_queue* queue) override {
    device->stream.settle();
    if (from) {
      const lr_error error = device->backend.download(queue, completion->bytes.get(), from, completion->size);
      if (error.code != LR_OK) errors->keep(error);
    }
    completion->fault.error = errors->take();
    waiter->post(std::move(completion));
    return lr_error{};
  }
};

// Runs on an I/O thread, once the stream is done with the memory that is written to.
struct FileRead : Task {
  explicit FileRead(IoPool& pool) : pool(pool) {}
  IoPool& pool;
  bool ready = false;
  std::string path;
  uint8_t* to = nullptr;
  uint64_t position = 0, length = 0;
  Device* device = nullptr;
  Storage* storage = nullptr;
  std::shared_ptr<Waiter> waiter;
  std::shared_ptr<ErrorSlot> errors;
  std::unique_ptr<Completion> completion;

  static constexpr uint64_t kPiece = 16 << 20;  // of a file on its way to memory that only the device writes

  void run(std::unique_ptr<Task> self) noexcept override {
    if (!ready) {
      ready = true;
      return pool.add(std::move(self));
    }
    lr_error& error = completion->fault.error;
    try {
      if (!device->backend.separate) {
        read(to, length);
      } else if (length > 0) {
        auto piece = std::make_unique<Upload>();
        piece->size = std::min(length, kPiece);
        piece->bytes = host_bytes(piece->size, "readFile");
        read(piece->bytes.get(), piece->size);
        if (error.code == LR_OK) {
          piece->backend = &device->backend;
          piece->to = to;
          piece->errors = errors;
          to += piece->size, position += piece->size, length -= piece->size;
          ready = false;
          // Not before it was copied: the next piece, or the end.
          return device->stream.when_passed(device->stream.enqueue(std::move(piece)), std::move(self));
        }
      }
    } catch (const Fault& fault) {
      completion->fault = fault;
    } catch (...) {
      error = make_error(LR_OUT_OF_MEMORY, "readFile", "out of host memory");
    }
    storage->end_filling();
    storage->release();
    waiter->post(std::move(completion));
  }

 private:
  void read(void* into, uint64_t bytes) {
    completion->text = read_file(path.c_str(), into, position, bytes);
    if (!completion->text.empty()) completion->fault.error = make_error(LR_INVALID, "readFile", "%s", completion->text.c_str());
  }
};

napi_value upload(napi_env env, napi_callback_info info) {
  return guarded(env, info, "upload", [](Call& call) {
    call.arity(2);
    TensorEntry& entry = call.tensor_entry(0);
    size_t size = 0;
    const void* data = call.bytes(1, &size);
    if (size != entry.bytes) LR_THROW(LR_INVALID, call.op, "the tensor has %zu bytes but the data has %zu", entry.bytes, size);
    auto record = std::make_unique<Upload>();
    record->backend = &entry.device->backend;
    record->to = entry.view.data;
    record->bytes = host_bytes(size, call.op);
    record->size = size;
    if (size) std::memcpy(record->bytes.get(), data, size);
    record->errors = call.environment.errors_of(*entry.device);
    call.use(entry.storage);
    call.enqueue(*entry.device, std::move(record));
    return call.undefined();
  });
}

napi_value wait_for(Call& call, Device& device, std::unique_ptr<Completion> completion, const void* from) {
  call.not_recorded();
  auto record = std::make_unique<Wait>();
  record->device = &device;
  record->from = from;
  record->waiter = call.environment.waiter;
  record->errors = call.environment.errors_of(device);
  const napi_value promise = record->waiter->promise(call.env, *completion);
  record->completion = std::move(completion);
  call.enqueue(device, std::move(record));
  return promise;
}

napi_value read(napi_env env, napi_callback_info info) {
  return guarded(env, info, "read", [](Call& call) {
    call.arity(1);
    TensorEntry& entry = call.tensor_entry(0);
    call.use(entry.storage);
    auto completion = std::make_unique<Completion>();
    completion->bytes = host_bytes(entry.bytes, call.op);
    completion->size = entry.bytes;
    return wait_for(call, *entry.device, std::move(completion), entry.view.data);
  });
}

napi_value synchronize(napi_env env, napi_callback_info info) {
  return guarded(env, info, "synchronize", [](Call& call) {
    call.arity(1);
    Device& device = call.device(0);
    return wait_for(call, device, std::make_unique<Completion>(), nullptr);
  });
}

napi_value read_file_into(napi_env env, napi_callback_info info) {
  return guarded(env, info, "readFile", [](Call& call) {
    call.arity(5);
    call.not_recorded();
    TensorEntry& entry = call.tensor_entry(0);
    const int64_t most = int64_t{1} << 53;
    const uint64_t offset = static_cast<uint64_t>(call.integer(1, 0, most)), position = static_cast<uint64_t>(call.integer(3, 0, most));
    const uint64_t length = static_cast<uint64_t>(call.integer(4, 0, most));
    if (offset > entry.bytes || length > entry.bytes - offset)
      LR_THROW(LR_INVALID, call.op, "%llu bytes at offset %llu do not fit the tensor's %zu bytes", static_cast<unsigned long long>(length), static_cast<unsigned long long>(offset), entry.bytes);
    if (entry.device->dry) return wait_for(call, *entry.device, std::make_unique<Completion>(), nullptr);
    auto task = std::make_unique<FileRead>(io_pool());
    task->path = call.string(2);
    task->to = static_cast<uint8_t*>(entry.view.data) + offset;
    task->device = entry.device;
    task->errors = call.environment.errors_of(*entry.device);
    task->position = position;
    task->length = length;
    task->storage = entry.storage;
    task->waiter = call.environment.waiter;
    task->completion = std::make_unique<Completion>();
    const napi_value promise = task->waiter->promise(call.env, *task->completion);
    entry.storage->retain();
    entry.storage->begin_filling();
    // Earlier users of the same memory may still be queued: the bytes must not arrive before they are done.
    entry.device->stream.when_passed(entry.storage->last_use(), std::move(task));
    return promise;
  });
}

napi_value allocate_file_js(napi_env env, napi_callback_info info) {
  return guarded(env, info, "allocateFile", [](Call& call) {
    call.arity(2);
    const std::string path = call.string(0);
    return call.from(static_cast<double>(allocate_file(path.c_str(), static_cast<uint64_t>(call.integer(1, 1, int64_t{1} << 53)))));
  });
}

}  // namespace

void define_transfers(napi_env env, napi_value exports) {
  define(env, exports, "upload", upload);
  define(env, exports, "read", read);
  define(env, exports, "readFile", read_file_into);
  define(env, exports, "synchronize", synchronize);
  define(env, exports, "allocateFile", allocate_file_js);
}

}  // namespace lr
