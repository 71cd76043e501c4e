// Sums in float64: a fixed number of blocks that depends on the length alone, then their sums in order. The same bits every time.
// hot: dot_parts_kernel: 256 threads, 64 bytes shared, 6 blocks
#include "../device/reduce.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int64_t kMaxParts = 128;

__global__ void dot_parts_kernel(double* parts, const float* a, const float* b, int64_t n) {
  LR_SHARED_MEMORY(memory);
  double total = 0.0;
  LR_FOR_EACH(i, n) total += (double)a[i] * (b ? (double)b[i] : 1.0);
  total = block_reduce(total, Add(), (double*)memory);
  if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

// One thread: there are few parts, and their order is the point.
__global__ void dot_kernel(float* y, double* exact, const double* parts, int count, double scale, int accumulate) {
  double total = 0.0;
  for (int i = 0; i < count; i++) total += parts[i];
  total *= scale;
  if (exact) *exact = total;
  if (y) *y = (float)(accumulate ? (double)*y + total : total);
}

}  // namespace

void enqueue_dot(float* y, double* exact, const float* a, const float* b, int64_t n, double scale, bool accumulate) {
  const int64_t blocks = (n + 4 * kThreads - 1) / (4 * kThreads);
  const unsigned parts = (unsigned)(blocks < 1 ? 1 : blocks < kMaxParts ? blocks : kMaxParts);
  double* sums = (double*)small_buffer();
  static_assert(kMaxParts * sizeof(double) <= kSmallBuffer, "the parts fit the small buffer");
  LR_LAUNCH(dot_parts_kernel, parts, kThreads, kThreads / kWarpSize * sizeof(double), sums, a, b, n);
  LR_LAUNCH(dot_kernel, 1, 1, 0, y, exact, sums, (int)parts, scale, accumulate);
}

lr_error dot(lr_queue*, lr_tensor y, lr_tensor a, lr_tensor b, float scale, int32_t accumulate) {
  Check check("dot");
  check.tensor("a", a, LR_F32);
  check.optional("b", b, LR_F32, elements(a));
  check.tensor("y", y, LR_F32, 1);
  if (check.failed) return check.error;
  enqueue_dot((float*)y.data, nullptr, (const float*)a.data, (const float*)b.data, elements(a), (double)scale, accumulate != 0);
  return finish("dot");
}

}  // namespace lr
