// The plugin's door: memory, the stream, the table. Every entry waits for its kernels before it returns (`finish`), so errors name their op.
// One device a process for now. Entries that are missing here stay NULL, and the addon says UNSUPPORTED with the op's name.
#include "device/indices.cuh"
#include "table.cuh"

namespace lr {
namespace {

cudaStream_t the_stream;
void* the_small_buffer;
Finding* the_finding;

void* alloc(size_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, bytes ? bytes : 1) == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}

void release(void* data, size_t) { cudaFree(data); }

lr_error upload(lr_queue*, void* dst, const void* src, size_t bytes) {
  if (bytes) cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, the_stream);
  return finish("upload");
}

lr_error download(lr_queue*, void* dst, const void* src, size_t bytes) {
  if (bytes) cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, the_stream);
  return finish("download");
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
  t.upload = upload;
  t.download = download;
  t.fill = fill;
  t.copy = copy;
  t.axpy = axpy;
  t.add = add;
  t.scale_rows = scale_rows;
  t.dot = dot;
  t.random = random;
  t.embedding = embedding;
  t.embedding_grad = embedding_grad;
  t.rms_norm = rms_norm;
  t.rms_norm_grad = rms_norm_grad;
  t.rope_table = rope_table;
  t.rope = rope;
  t.swiglu = swiglu;
  t.swiglu_grad = swiglu_grad;
  t.linear = linear;
  t.linear_dx = linear_dx;
  t.lora_grad = lora_grad;
  t.linear_dw = linear_dw;
  t.attention = attention;
  t.attention_grad = attention_grad;
  t.kv_append = kv_append;
  t.quantize_4bit = quantize_4bit;
  t.dequantize_4bit = dequantize_4bit;
  t.quantize_8bit = quantize_8bit;
  t.dequantize_8bit = dequantize_8bit;
  t.quantize_absmax = quantize_absmax;
  t.grad_stats = grad_stats;
  t.adamw = adamw;
  t.sgd = sgd;
  return t;
}

}  // namespace

cudaStream_t stream() { return the_stream; }
void* small_buffer() { return the_small_buffer; }
Finding* finding() { return the_finding; }

}  // namespace lr

extern "C" __attribute__((visibility("default"))) const lr_backend* lr_backend_open(int32_t device, lr_error* error) {
  static const lr_backend table = lr::make_table();
  *error = lr::success();
  cudaError_t status = cudaSetDevice(device);
  if (status == cudaSuccess && !lr::the_stream) status = cudaStreamCreate(&lr::the_stream);
  if (status == cudaSuccess && !lr::the_small_buffer) status = cudaMalloc(&lr::the_small_buffer, lr::kSmallBuffer);
  if (status == cudaSuccess && !lr::the_finding) status = cudaMalloc((void**)&lr::the_finding, sizeof(lr::Finding));
  if (status == cudaSuccess) return &table;
  error->code = LR_DEVICE;
  error->op = "openDevice";
  snprintf(error->text, sizeof error->text, "%s", cudaGetErrorString(status));
  return nullptr;
}
