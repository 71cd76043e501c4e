#include "device.h"

#include <cstdlib>
#include <cstring>
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

Device::Device(int number, std::string name, const lr_backend& backend, int threads, size_t limit, bool dry)
    : number(number), name(std::move(name)), backend(backend), stream(threads, backend.synchronize), memory(backend.alloc, backend.release, stream, limit, backend.available),
      dry(dry), host(backend.alloc_host ? backend.alloc_host : backend.alloc, backend.alloc_host ? backend.release_host : backend.release, stream, SIZE_MAX, dry ? backend.available : nullptr) {}

Ticket Device::enqueue(std::unique_ptr<Record> record, size_t scratch) {
  const bool dropped = !computes(*record);
  if (scratch == 0) return dropped ? stream.last() : stream.enqueue(std::move(record));
  // Another environment must not replace or trim the scratch between asking for it and enqueuing its use.
  std::lock_guard<std::mutex> lock(scratch_mutex_);
  record->scratch = memory.scratch(scratch);
  record->scratch_size = scratch;
  if (dropped) return stream.last();
  return stream.enqueue(std::move(record));
}

void Device::trim() {
  std::lock_guard<std::mutex> lock(scratch_mutex_);
  memory.trim();
  host.trim();
}

namespace {

constexpr char kDry[] = "dry:";
bool is_dry(const std::string& name) { return name.compare(0, sizeof kDry - 1, kDry) == 0; }

// The table with memory that is addresses only: distinct, aligned, never touched.
const lr_backend* dried(const lr_backend* backend) {
  static std::atomic<uintptr_t> next{uintptr_t{1} << 45};
  lr_backend* table = new lr_backend(*backend);
  table->alloc = table->alloc_host = [](size_t bytes, lr_error* error) {
    *error = lr_error{};
    return reinterpret_cast<void*>(next.fetch_add((bytes + 4095) / 4096 * 4096));
  };
  table->release = table->release_host = [](void*, size_t) {};
  table->available = [] { return UINT64_MAX; };
  table->upload = [](lr_queue*, void*, const void*, size_t) { return lr_error{}; };
  table->download = [](lr_queue*, void* to, const void*, size_t bytes) { return std::memset(to, 0, bytes), lr_error{}; };
  table->synchronize = nullptr;
  return table;
}

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
    const bool dry = is_dry(name);
    Device* device = new Device(number, name, dry ? *dried(backend) : *backend, threads, dry ? SIZE_MAX : memory_limit(), dry);
    devices[number].store(device, std::memory_order_release);
    return *device;
  } catch (const std::system_error& failure) {
    LR_THROW(LR_DEVICE, "openDevice", "the system grants no %d threads: %s", threads + 1, failure.what());
  }
}

}  // namespace

Device& open_device(const std::string& name) {
  return known_or_new(name, [&](int* count, lr_error* error) {
    const size_t start = is_dry(name) ? sizeof kDry - 1 : 0;
    const size_t first = name.find(':', start), second = first == std::string::npos ? first : name.find(':', first + 1);
    const auto part = [&](size_t from, size_t to) { return from == std::string::npos ? std::string() : name.substr(from + 1, to == std::string::npos ? to : to - from - 1); };
    const std::string isa = part(first, second), threads = part(second, std::string::npos);
    if (name.substr(start, first == std::string::npos ? first : first - start) != "cpu")
      LR_THROW(LR_INVALID, "openDevice", "no device \"%.100s\": this build knows \"cpu\", \"cpu:<isa>\" and \"cpu:<isa>:<threads>\"", name.c_str());
    *count = threads.empty() ? thread_count("LOWRANK_THREADS", std::getenv("LOWRANK_THREADS")) : thread_count("the number of threads", threads.c_str());
    return lr_cpu_open(isa.empty() ? std::getenv("LOWRANK_ISA") : isa.c_str(), error);
  });
}

Device& open_plugin(const std::string& name, const std::string& path) {
  return known_or_new(name, [&](int*, lr_error* error) {
    std::string failure;
    void* entry = load_symbol(path.c_str(), is_dry(name) ? "lr_backend_table" : "lr_backend_open", &failure);
    if (!entry) LR_THROW(LR_DEVICE, "openDevice", "the plugin of \"%.40s\" cannot be loaded: %.160s", name.c_str(), failure.c_str());
    if (is_dry(name)) return reinterpret_cast<lr_backend_table_fn>(entry)();
    return reinterpret_cast<lr_backend_open_fn>(entry)(0, error);
  });
}

Device* find_device(int number) { return number < 0 || number >= kMaxDevices ? nullptr : devices[number].load(std::memory_order_acquire); }

}  // namespace lr
