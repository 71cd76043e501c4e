// The plugin's door: memory, the stream, transfers, errors, the table. Entries only enqueue; `synchronize` and `download` wait.
// One device a process for now.
#include <stdlib.h>

#include <new>

#include "../abi/transfer.h"
#include "device/indices.cuh"
#include "table.cuh"

namespace lr {
namespace {

cudaStream_t the_stream, the_copy_stream;
void* the_small_buffer;
cudaEvent_t enqueued;             // what the copy stream must wait for
cudaEvent_t transferred[LR_SLOTS]; // the last transfer of a slot; NULL: there was none
cudaEvent_t last_transfer;         // one of them: the copy stream keeps its order
bool blocking;

// The error, and whether the device fails everything from now on: then it is there again after it was taken.
lr_error failure(const char* op, cudaError_t status) {
  lr_error error = success();
  error.op = op;
  snprintf(error.text, sizeof error.text, "%s", cudaGetErrorString(status));
  cudaGetLastError();
  error.code = status == cudaErrorMemoryAllocation ? LR_OUT_OF_MEMORY : LR_DEVICE;
  if (error.code == LR_DEVICE && cudaStreamSynchronize(the_stream) != cudaSuccess) {
    error.code = LR_DEVICE_LOST;
    cudaGetLastError();
  }
  return error;
}
lr_error outcome(const char* op, cudaError_t status) { return status == cudaSuccess ? success() : failure(op, status); }

void* alloc(size_t bytes, lr_error* error) {
  void* data = nullptr;
  *error = outcome("alloc", cudaMalloc(&data, bytes ? bytes : 1));
  return error->code == LR_OK ? data : nullptr;
}
void release(void* data, size_t) {
  cudaStreamSynchronize(the_copy_stream);
  cudaStreamSynchronize(the_stream);
  cudaFree(data);
}
void* alloc_host(size_t bytes, lr_error* error) {
  void* data = nullptr;
  *error = outcome("allocHost", cudaMallocHost(&data, bytes ? bytes : 1));
  return error->code == LR_OK ? data : nullptr;
}
void release_host(void* data, size_t) {
  cudaStreamSynchronize(the_copy_stream);
  cudaStreamSynchronize(the_stream);
  cudaFreeHost(data);
}

// No exception leaves the table: what an entry keeps on the host while it plans its launches may find no memory there.
template <class Body>
lr_error guarded(const char* op, Body body) {
  lr_error error = success();
  error.op = op;
  try {
    return body();
  } catch (const std::bad_alloc&) {
    error.code = LR_OUT_OF_MEMORY;
    snprintf(error.text, sizeof error.text, "the host has no memory left to plan this op");
  } catch (const std::exception& failure) {
    error.code = LR_DEVICE;
    snprintf(error.text, sizeof error.text, "internal error: %s", failure.what());
  } catch (...) {
    error.code = LR_DEVICE;
    snprintf(error.text, sizeof error.text, "internal error");
  }
  return error;
}

// What lies in memory of the host comes and goes by transfers, of which some may be on their way: those are waited for first.
cudaError_t behind_transfers(const void* data) {
  cudaPointerAttributes attributes = {};
  cudaError_t status = cudaPointerGetAttributes(&attributes, data);
  if (status == cudaSuccess && last_transfer && attributes.type == cudaMemoryTypeHost) status = cudaStreamWaitEvent(the_stream, last_transfer);
  return status;
}

#if defined(__CUDACC__)
uint64_t available() {
  size_t free = 0, all = 0;
  if (cudaMemGetInfo(&free, &all) == cudaSuccess) return free;
  cudaGetLastError();
  return 0;
}
#else  // the emulated device's memory is the host's
constexpr uint64_t (*available)() = nullptr;
#endif

lr_error upload(lr_queue*, void* dst, const void* src, size_t bytes) {
  if (!bytes) return success();
  cudaError_t status = behind_transfers(dst);
  // From pageable memory: the bytes have left it when the call returns.
  if (status == cudaSuccess) status = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, the_stream);
  return outcome("upload", status);
}

lr_error download(lr_queue*, void* dst, const void* src, size_t bytes) {
  cudaError_t status = bytes ? behind_transfers(src) : cudaSuccess;
  if (status == cudaSuccess && bytes) status = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, the_stream);
  return status == cudaSuccess ? wait_for_stream("download") : failure("download", status);
}

lr_error synchronize(lr_queue*, void (*late)(void* owner, const lr_error* error)) {
  const lr_error error = report_findings(late);
  if (error.code != LR_OK) return error;
  return outcome("synchronize", cudaStreamSynchronize(the_copy_stream));
}

lr_error transfer(const char* op, int32_t slot, const lr_tensor& dst, const lr_tensor& src) {
  const lr_error e = check_transfer(op, slot, dst, src);
  if (e.code != LR_OK) return e;
  cudaError_t status = transferred[slot] ? cudaSuccess : cudaEventCreate(&transferred[slot]);
  if (status == cudaSuccess && !enqueued) status = cudaEventCreate(&enqueued);
  if (status == cudaSuccess) status = cudaEventRecord(enqueued, the_stream);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(the_copy_stream, enqueued);
  if (status == cudaSuccess && bytes_of(src)) status = cudaMemcpyAsync(dst.data, src.data, bytes_of(src), cudaMemcpyDefault, the_copy_stream);
  if (status == cudaSuccess) status = cudaEventRecord(transferred[slot], the_copy_stream);
  if (status == cudaSuccess) last_transfer = transferred[slot];
  return outcome(op, status);
}
lr_error prefetch(lr_queue*, int32_t slot, lr_tensor dst, lr_tensor src) { return transfer("prefetch", slot, dst, src); }
lr_error write_back(lr_queue*, int32_t slot, lr_tensor dst, lr_tensor src) { return transfer("write_back", slot, dst, src); }
lr_error wait(lr_queue*, int32_t slot) {
  const lr_error e = check_slot("wait", slot);
  if (e.code != LR_OK || !transferred[slot]) return e;
  return outcome("wait", cudaStreamWaitEvent(the_stream, transferred[slot]));
}

lr_backend make_table() {
  lr_backend t = {};
  t.abi = LR_ABI_VERSION;
  t.size = sizeof(lr_backend);
#if defined(__CUDACC__)
  t.name = "cuda";
#else
  t.name = "emu";
#endif
  t.bf16 = 1;
  t.alloc = alloc;
  t.release = release;
  t.alloc_host = alloc_host;
  t.release_host = release_host;
  t.available = available;
  t.separate = 1;
#define LR_ENTRY(name) t.name = [](auto... arguments) { return guarded(#name, [&] { return name(arguments...); }); }
  LR_ENTRY(upload);
  LR_ENTRY(download);
  LR_ENTRY(synchronize);
  LR_ENTRY(prefetch);
  LR_ENTRY(write_back);
  LR_ENTRY(wait);
  LR_ENTRY(fill);
  LR_ENTRY(copy);
  LR_ENTRY(axpy);
  LR_ENTRY(add);
  LR_ENTRY(scale_rows);
  LR_ENTRY(copy_columns);
  LR_ENTRY(dot);
  LR_ENTRY(random);
  LR_ENTRY(embedding);
  LR_ENTRY(embedding_grad);
  LR_ENTRY(rms_norm);
  LR_ENTRY(rms_norm_grad);
  LR_ENTRY(rope_table);
  LR_ENTRY(rope);
  LR_ENTRY(glu);
  LR_ENTRY(glu_grad);
  LR_ENTRY(softcap);
  LR_ENTRY(softcap_grad);
  LR_ENTRY(linear);
  LR_ENTRY(linear_grad);
  LR_ENTRY(linear_dw);
  LR_ENTRY(attention);
  LR_ENTRY(attention_grad);
  LR_ENTRY(kv_append);
  LR_ENTRY(token_logprob);
  LR_ENTRY(token_logprob_grad);
  LR_ENTRY(quantize_4bit);
  LR_ENTRY(dequantize_4bit);
  LR_ENTRY(quantize_8bit);
  LR_ENTRY(dequantize_8bit);
  LR_ENTRY(quantize_absmax);
  LR_ENTRY(grad_stats);
  LR_ENTRY(adamw);
  LR_ENTRY(lion);
  LR_ENTRY(adafactor);
  LR_ENTRY(sgd);
#undef LR_ENTRY
  return t;
}

}  // namespace

cudaStream_t stream() { return the_stream; }
void* small_buffer() { return the_small_buffer; }

lr_error wait_for_stream(const char* op) {
  const cudaError_t status = cudaGetLastError();
  return outcome(op, status == cudaSuccess ? cudaStreamSynchronize(the_stream) : status);
}
lr_error finish(const char* op) { return blocking ? wait_for_stream(op) : outcome(op, cudaGetLastError()); }

namespace {

// Why the device cannot be used, and what to do, on two lines.
void explain(lr_error* error, cudaError_t status, int32_t device) {
  int driver = 0, runtime = 0, devices = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  cudaGetDeviceCount(&devices);
  cudaGetLastError();
  error->code = LR_DEVICE;
  error->op = "openDevice";
  const auto say = [&](const char* format, auto... arguments) { snprintf(error->text, sizeof error->text, format, arguments...); };
  const int needed = runtime / 1000, has = driver / 1000;
  if (status == cudaErrorInsufficientDriver && driver == 0)
    say("no NVIDIA driver is installed\nInstall one for CUDA %d or later, or compute on device cpu.", needed);
  else if (status == cudaErrorInsufficientDriver)
    say("the NVIDIA driver is for CUDA %d.%d, too old for CUDA %d\nUpdate the driver, or compute on device cpu.", has, driver % 1000 / 10, needed);
  else if (status == cudaErrorNoDevice)
    say("the NVIDIA driver finds no GPU\nSee what nvidia-smi lists, and that CUDA_VISIBLE_DEVICES does not hide it.");
  else if (status == cudaErrorInvalidDevice)
    say("there is no GPU number %d: the driver lists %d\nChoose cuda:0, and the GPU by CUDA_VISIBLE_DEVICES.", (int)device, devices);
  else if (status == cudaErrorNoKernelImageForDevice)
    say("the GPU is older than compute capability 8.0\nUse a GPU of the Ampere generation or later, or compute on device cpu.");
  else if (status == cudaErrorMemoryAllocation)
    say("the GPU has no memory left for lowrank to begin\nSee with nvidia-smi which processes use it.");
  else
    say("the GPU cannot be used: %s (CUDA error %d)\nSee what nvidia-smi says, or compute on device cpu.", cudaGetErrorString(status), (int)status);
}

}  // namespace
}  // namespace lr

extern "C" __attribute__((visibility("default"))) const lr_backend* lr_backend_table(void) {
  static const lr_backend table = lr::make_table();
  return &table;
}

extern "C" __attribute__((visibility("default"))) const lr_backend* lr_backend_open(int32_t device, lr_error* error) {
  using namespace lr;
  *error = success();
  const char* asked = getenv("CUDA_LAUNCH_BLOCKING");
  blocking = asked && atoi(asked) != 0;
  cudaError_t status = cudaSetDevice(device);
#if defined(__CUDACC__)
  int capability = 0;
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device);
  if (status == cudaSuccess && capability < 8) status = cudaErrorNoKernelImageForDevice;
#endif
  if (status == cudaSuccess && !the_stream) status = cudaStreamCreate(&the_stream);
  if (status == cudaSuccess && !the_copy_stream) status = cudaStreamCreate(&the_copy_stream);
  if (status == cudaSuccess && !the_small_buffer) status = cudaMalloc(&the_small_buffer, kSmallBuffer);
  if (status == cudaSuccess) status = make_findings();
  if (status == cudaSuccess) return lr_backend_table();
  explain(error, status, device);
  return nullptr;
}
