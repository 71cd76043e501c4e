// Bytes in and out of tensors, and waiting for the stream.
#include <cstring>

#include "../core/io_pool.h"
#include "../core/platform.h"
#include "environment.h"

namespace lr {
namespace {

std::unique_ptr<uint8_t[]> host_bytes(size_t size, const char* op) {
  std::unique_ptr<uint8_t[]> bytes(new (std::nothrow) uint8_t[size ? size : 1]);
  if (bytes) return bytes;
  Fault fault{make_error(LR_OUT_OF_MEMORY, op, "out of host memory: %zu bytes are needed", size), size, available_memory()};
  throw fault;
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
  const lr_backend* backend;
  const void* from = nullptr;
  std::unique_ptr<Completion> completion;
  std::shared_ptr<Waiter> waiter;
  lr_error run(lr_queue* queue) override {
    if (from) {
      const lr_error error = backend->download(queue, completion->bytes.get(), from, completion->size);
      if (error.code != LR_OK) errors->keep(error);
    }
    completion->fault.error = errors->take();
    waiter->post(std::move(completion));
    return lr_error{};
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
    call.environment.used.push_back(entry.storage);
    call.enqueue(*entry.device, std::move(record));
    return call.undefined();
  });
}

napi_value wait_for(Call& call, Device& device, std::unique_ptr<Completion> completion, const void* from) {
  auto record = std::make_unique<Wait>();
  record->backend = &device.backend;
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
    auto completion = std::make_unique<Completion>();
    completion->bytes = host_bytes(entry.bytes, call.op);
    completion->size = entry.bytes;
    call.environment.used.push_back(entry.storage);
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
    TensorEntry& entry = call.tensor_entry(0);
    const int64_t most = int64_t{1} << 53;
    const uint64_t offset = static_cast<uint64_t>(call.integer(1, 0, most)), position = static_cast<uint64_t>(call.integer(3, 0, most));
    const uint64_t length = static_cast<uint64_t>(call.integer(4, 0, most));
    if (offset > entry.bytes || length > entry.bytes - offset)
      LR_THROW(LR_INVALID, call.op, "%llu bytes at offset %llu do not fit the tensor's %zu bytes", static_cast<unsigned long long>(length), static_cast<unsigned long long>(offset), entry.bytes);
    const std::string path = call.string(2);
    auto* completion = new Completion;
    std::shared_ptr<Waiter> waiter = call.environment.waiter;
    const napi_value promise = waiter->promise(call.env, *completion);
    Storage* storage = entry.storage;
    void* to = static_cast<uint8_t*>(entry.view.data) + offset;
    storage->retain();
    // Earlier users of the same memory may still be queued: the bytes must not arrive before they are done.
    entry.device->stream.when_passed(storage->last_use(), [=] {
      run_io([=] {
        completion->text = read_file(path.c_str(), to, position, length);
        if (!completion->text.empty()) completion->fault.error = make_error(LR_INVALID, "readFile", "%s", completion->text.c_str());
        storage->release();
        waiter->post(std::unique_ptr<Completion>(completion));
      });
    });
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
