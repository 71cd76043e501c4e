#include "device.h"

#include <cstdlib>
#include <memory>
#include <system_error>

#include "../cpu/backend.h"
#include "fault.h"
#include "platform.h"

namespace lr {
namespace {

constexpr int kMaxDevices = 64;
constexpr int kMaxThreads = 256;
std::mutex devices_mutex;
std::atomic<Device*> devices[kMaxDevices];

int thread_count(const char* what, const char* text) {
  if (!text || !*text) return std::min(available_cores(), kMaxThreads);
  char* end = nullptr;
  const long threads = std::strtol(text, &end, 10);
  if (*end || threads < 1 || threads > kMaxThreads) LR_THROW(LR_INVALID, "openDevice", "%s must be a number from 1 to %d, got \"%.100s\"", what, kMaxThreads, text);
  return static_cast<int>(threads);
}

size_t memory_limit() {
  const char* text = std::getenv("LOWRANK_MEMORY_LIMIT");
  if (!text || !*text) return SIZE_MAX;
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  double unit = 1;
  if (*end == 'k' || *end == 'K') unit = 1024, end++;
  else if (*end == 'm' || *end == 'M') unit = 1024.0 * 1024, end++;
  else if (*end == 'g' || *end == 'G') unit = 1024.0 * 1024 * 1024, end++;
  if (*end || !(value > 0) || value * unit > 1e18) LR_THROW(LR_INVALID, "openDevice", "LOWRANK_MEMORY_LIMIT must be a number of bytes, or one with k, m or g, got \"%s\"", text);
  return static_cast<size_t>(value * unit);
}

}  // namespace

Device::Device(int number, std::string name, const lr_backend& backend, int threads, size_t limit)
    : number(number), name(std::move(name)), backend(backend), stream(threads, backend.synchronize), memory(backend.alloc, backend.release, stream, limit),
      host(backend.alloc_host ? backend.alloc_host : backend.alloc, backend.alloc_host ? backend.release_host : backend.release, stream, SIZE_MAX) {}

Ticket Device::enqueue(std::unique_ptr<Record> record, size_t scratch) {
  if (scratch == 0) return stream.enqueue(std::move(record));
  // Another environment must not replace or trim the scratch between asking for it and enqueuing its use.
  std::lock_guard<std::mutex> lock(scratch_mutex_);
  record->scratch = memory.scratch(scratch);
  record->scratch_size = scratch;
  return stream.enqueue(std::move(record));
}

void Device::trim() {
  std::lock_guard<std::mutex> lock(scratch_mutex_);
  memory.trim();
  host.trim();
}

namespace {

// The device of that name, else a new one over what `open` returns: a backend and its number of host threads.
template <class Open>
Device& known_or_new(const std::string& name, Open open) {
  std::lock_guard<std::mutex> lock(devices_mutex);
  int number = 0;
  for (; number < kMaxDevices && devices[number]; number++)
    if (devices[number].load()->name == name) return *devices[number];
  if (number == kMaxDevices) LR_THROW(LR_INVALID, "openDevice", "more than %d devices", kMaxDevices);
  lr_error error{};
  int threads = 1;
  const lr_backend* backend = open(&threads, &error);
  if (!backend) {
    error.op = "openDevice";
    throw Fault{error};
  }
  if (backend->abi != LR_ABI_VERSION || backend->size != sizeof(lr_backend))
    LR_THROW(LR_DEVICE, "openDevice", "the backend of \"%.100s\" was built for ABI %u with %u bytes, but this library needs ABI %u with %zu", name.c_str(), backend->abi,
             backend->size, LR_ABI_VERSION, sizeof(lr_backend));
  try {
    Device* device = new Device(number, name, *backend, threads, memory_limit());
    devices[number].store(device, std::memory_order_release);
    return *device;
  } catch (const std::system_error& failure) {
    LR_THROW(LR_DEVICE, "openDevice", "the system grants no %d threads: %s", threads + 1, failure.what());
  }
}

}  // namespace

Device& open_device(const std::string& name) {
  return known_or_new(name, [&](int* count, lr_error* error) {
    const size_t first = name.find(':'), second = first == std::string::npos ? first : name.find(':', first + 1);
    const auto part = [&](size_t from, size_t to) { return from == std::string::npos ? std::string() : name.substr(from + 1, to == std::string::npos ? to : to - from - 1); };
    const std::string isa = part(first, second), threads = part(second, std::string::npos);
    if (name.substr(0, first) != "cpu")
      LR_THROW(LR_INVALID, "openDevice", "no device \"%.100s\": this build knows \"cpu\", \"cpu:<isa>\" and \"cpu:<isa>:<threads>\"", name.c_str());
    *count = threads.empty() ? thread_count("LOWRANK_THREADS", std::getenv("LOWRANK_THREADS")) : thread_count("the number of threads", threads.c_str());
    return lr_cpu_open(isa.empty() ? std::getenv("LOWRANK_ISA") : isa.c_str(), error);
  });
}

Device& open_plugin(const std::string& name, const std::string& path) {
  return known_or_new(name, [&](int*, lr_error* error) {
    std::string failure;
    void* entry = load_symbol(path.c_str(), "lr_backend_open", &failure);
    if (!entry) LR_THROW(LR_DEVICE, "openDevice", "the plugin of \"%.40s\" cannot be loaded: %.160s", name.c_str(), failure.c_str());
    return reinterpret_cast<lr_backend_open_fn>(entry)(0, error);
  });
}

Device* find_device(int number) { return number < 0 || number >= kMaxDevices ? nullptr : devices[number].load(std::memory_order_acquire); }

}  // namespace lr
