// The part of the CUDA runtime that backend.cu uses: memory, lazy streams, events, errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <new>

#include "machine.h"

namespace {

// One launch at a time: memory is not given out or back while a kernel runs.
std::mutex machine_mutex;
using emu::machine;
std::map<char*, size_t> host_buffers; // of cudaMallocHost

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_text;

// Streams may be used by several threads. Held while their work runs: one stream may wait for another's.
std::recursive_mutex streams_mutex;
using Held = std::lock_guard<std::recursive_mutex>;

cudaError_t failed(cudaError_t error, const std::string& text) {
  last_error = error;
  last_text = text;
  return error;
}

// The runtime is at work: what it allocates is its own, and a real one is C.
thread_local bool in_runtime = false;
struct InRuntime {
  const bool before = in_runtime;
  InRuntime() { in_runtime = true; }
  ~InRuntime() { in_runtime = before; }
};

constexpr int kNew = -1; // in place of an error's number: an `operator new` of the kernels' host code

// Whether LOWRANK_EMU_FAIL asks this call, or this allocation, to fail; then with which number.
int due(bool allocation) {
  static std::mutex mutex;
  static std::string seen;
  static long left = 0;
  static int code = 0;
  static bool sticky = false;
  std::lock_guard<std::mutex> lock(mutex);
  const char* text = std::getenv("LOWRANK_EMU_FAIL");
  if (!text) text = "";
  if (seen != text) {
    seen = text;
    char kind[8] = "";
    left = code = 0;
    if (std::sscanf(text, "%ld:%d:%7s", &left, &code, kind) == 1 && std::strstr(text, ":new")) code = kNew;
    sticky = !std::strcmp(kind, "sticky");
  }
  if (allocation != (code == kNew) || left <= 0 || (left > 1 && --left > 0)) return 0;
  if (!sticky) left = 0;
  return code;
}

// cudaSuccess, or the planted error of this call.
cudaError_t planted(const char* call) {
  const int code = due(false);
  return code ? failed(static_cast<cudaError_t>(code), "planted error " + std::to_string(code) + " in " + call) : cudaSuccess;
}
#define LR_EMU_CALL()         \
  const InRuntime in_runtime; \
  if (const cudaError_t error = planted(__func__)) return error

}  // namespace

// AddressSanitizer has one of its own.
#if !defined(__SANITIZE_ADDRESS__)
void* operator new(size_t bytes) {
  if (!in_runtime) {
    const InRuntime in_runtime;
    if (due(true)) throw std::bad_alloc();
  }
  if (void* data = std::malloc(bytes ? bytes : 1)) return data;
  throw std::bad_alloc();
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
#endif

struct CUevent_st {
  cudaStream_t stream = nullptr;  // where it was recorded
  size_t position = 0;            // number of tasks of the stream that lie before it
};

struct CUstream_st {
  std::deque<std::function<cudaError_t()>> tasks;
  size_t done = 0, added = 0;
  // Runs tasks until `position` of them are done; the first failure ends the stream's work, as a sticky error does.
  cudaError_t run(size_t position) {
    Held held(streams_mutex);
    while (done < position && !tasks.empty()) {
      const auto task = std::move(tasks.front());
      tasks.pop_front();
      done++;
      if (const cudaError_t error = task()) {
        done += tasks.size();
        tasks.clear();
        return error;
      }
    }
    return cudaSuccess;
  }
  cudaError_t add(std::function<cudaError_t()> task) {
    Held held(streams_mutex);
    tasks.push_back(std::move(task));
    added++;
    return cudaSuccess;
  }
};

// LOWRANK_EMU_ORDER=forward|reversed|shuffled[:seed[:resident blocks]] says in which order threads and blocks run.
cudaError_t cudaSetDevice(int device) {
  LR_EMU_CALL();
  if (device != 0) return failed(cudaErrorInvalidValue, "there is one emulated device, number 0");
  const char* text = std::getenv("LOWRANK_EMU_ORDER");
  if (!text || !*text) return cudaSuccess;
  char kind[16] = "";
  unsigned long long seed = 1;
  int resident = 2;
  std::sscanf(text, "%15[a-z]:%llu:%d", kind, &seed, &resident);
  return emu::set_order(kind, seed, resident) ? cudaSuccess : failed(cudaErrorInvalidValue, std::string("LOWRANK_EMU_ORDER is \"") + text + "\", which is not forward, reversed or shuffled, a seed and a number of blocks");
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  LR_EMU_CALL();
  std::lock_guard<std::mutex> lock(machine_mutex);
  *data = emu::allocate(bytes);
  return *data ? cudaSuccess : failed(cudaErrorMemoryAllocation, "out of memory");
}

cudaError_t cudaFree(void* data) {
  LR_EMU_CALL();
  std::lock_guard<std::mutex> lock(machine_mutex);
  return !data || emu::release(data) ? cudaSuccess : failed(cudaErrorInvalidValue, "cudaFree of what is no device memory");
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  LR_EMU_CALL();
  if (bytes == 0) return cudaSuccess;
  bool pageable;
  {
    std::lock_guard<std::mutex> lock(machine_mutex);
    // cudaMallocHost gives buffers too; what lies in none is pageable memory, of the host alone.
    const bool to_buffer = emu::in_buffer(to, 1), from_buffer = emu::in_buffer(from, 1);
    const bool device_to = kind == cudaMemcpyDefault ? to_buffer : kind != cudaMemcpyDeviceToHost;
    const bool device_from = kind == cudaMemcpyDefault ? from_buffer : kind != cudaMemcpyHostToDevice;
    if ((device_to && !emu::in_buffer(to, bytes)) || (device_from && !emu::in_buffer(from, bytes)) || (!to_buffer && !from_buffer))
      return failed(cudaErrorInvalidValue, "a copy leaves its buffer");
    pageable = !device_from;
  }
  if (!pageable) return stream->add([=] { return std::memmove(to, from, bytes), cudaSuccess; });
  // From pageable memory the call takes the bytes with it.
  const auto* first = static_cast<const unsigned char*>(from);
  return stream->add([=, held = std::vector<unsigned char>(first, first + bytes)] { return std::memcpy(to, held.data(), bytes), cudaSuccess; });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  LR_EMU_CALL();
  {
    std::lock_guard<std::mutex> lock(machine_mutex);
    if (!emu::in_buffer(to, bytes)) return failed(cudaErrorInvalidValue, "a memset leaves its buffer");
  }
  return stream->add([=] { return std::memset(to, value, bytes), cudaSuccess; });
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  const cudaError_t error = cudaMalloc(data, bytes);
  std::lock_guard<std::mutex> lock(machine_mutex);
  if (!error) host_buffers[static_cast<char*>(*data)] = bytes;
  return error;
}
cudaError_t cudaFreeHost(void* data) {
  {
    std::lock_guard<std::mutex> lock(machine_mutex);
    if (data && !host_buffers.erase(static_cast<char*>(data))) return failed(cudaErrorInvalidValue, "cudaFreeHost of what is no such memory");
  }
  return cudaFree(data);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  LR_EMU_CALL();
  std::lock_guard<std::mutex> lock(machine_mutex);
  const auto next = host_buffers.upper_bound(static_cast<char*>(const_cast<void*>(data)));
  const bool host = next != host_buffers.begin() && data < std::prev(next)->first + std::prev(next)->second;
  *attributes = {host ? cudaMemoryTypeHost : emu::in_buffer(data, 1) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered};
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  LR_EMU_CALL();
  return *stream = new CUstream_st, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t error = cudaStreamSynchronize(stream);
  delete stream;
  return error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  LR_EMU_CALL();
  Held held(streams_mutex);
  return stream->run(stream->added);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  LR_EMU_CALL();
  return *event = new CUevent_st, cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  LR_EMU_CALL();
  Held held(streams_mutex);
  *event = {stream, stream->added};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  LR_EMU_CALL();
  return event->stream ? event->stream->run(event->position) : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  LR_EMU_CALL();
  return stream->add([recorded = *event] { return recorded.stream ? recorded.stream->run(recorded.position) : cudaSuccess; });
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : last_text.c_str(); }

namespace emu {

bool set_order(const char* kind, uint64_t seed, int resident) {
  const char* const kinds[] = {"forward", "reversed", "shuffled"};
  for (int i = 0; i < 3; i++)
    if (!std::strcmp(kind, kinds[i]) && resident >= 1 && resident <= 64) return machine.order = {static_cast<Order::Kind>(i), seed, resident}, true;
  return false;
}

cudaError_t enqueue(cudaStream_t stream, Launch launch) {
  const InRuntime in_runtime;
  if (const cudaError_t error = planted(launch.kernel)) return error;
  const auto limit = [&](const char* what, uint64_t value, uint64_t most) {
    return failed(cudaErrorInvalidConfiguration, std::string(launch.kernel) + ": " + what + " is " + std::to_string(value) + ", which must be 1 to " + std::to_string(most));
  };
  const dim3 g = launch.grid, b = launch.block;
  const uint64_t threads = uint64_t{b.x} * b.y * b.z;
  if (threads < 1 || threads > kMaxThreads) return limit("the number of threads of a block", threads, kMaxThreads);
  if (b.z > 64) return limit("blockDim.z", b.z, 64);
  if (g.x < 1 || g.x > 0x7fffffffu) return limit("gridDim.x", g.x, 0x7fffffffu);
  if (g.y < 1 || g.y > 65535) return limit("gridDim.y", g.y, 65535);
  if (g.z < 1 || g.z > 65535) return limit("gridDim.z", g.z, 65535);
  if (uint64_t{g.x} * g.y * g.z > 0xffffffffu) return limit("the number of blocks", uint64_t{g.x} * g.y * g.z, 0xffffffffu);
  if (launch.shared > kMaxShared) return limit("the shared memory of a block", launch.shared, kMaxShared);
  return stream->add([launch = std::move(launch)] {
    std::lock_guard<std::mutex> lock(machine_mutex);
    return run_grid(launch) ? cudaSuccess : failed(cudaErrorEmulated, machine.report);
  });
}

}  // namespace emu
