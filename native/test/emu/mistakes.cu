// Typical mistakes, planted: each kernel comes right (Wrong = false) and wrong, and the emulator must tell them apart.
#include "cases.h"

namespace lr {
namespace {

constexpr int kBlock = 128;

// Two cases, right_<name> and wrong_<name>, of one body.
#define MISTAKE(name, ...)                               \
  template <bool Wrong> std::string run_##name() __VA_ARGS__ \
  CASE(right_##name) { return run_##name<false>(); }     \
  CASE(wrong_##name) { return run_##name<true>(); }

template <bool Wrong> __global__ void missing_syncthreads_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  tile[threadIdx.x] = (float)threadIdx.x;
  if (!Wrong) __syncthreads();
  y[threadIdx.x] = tile[(threadIdx.x + 40) % kBlock];
}
MISTAKE(missing_syncthreads, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(missing_syncthreads_kernel<Wrong>, 1, kBlock, kBlock * 4, y.data);
  return outcome();
})

template <bool Wrong> __global__ void divergent_barrier_kernel(float* y) {
  if (!Wrong || threadIdx.x < 64) __syncthreads();
  y[threadIdx.x] = 1.0f;
}
MISTAKE(divergent_barrier, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(divergent_barrier_kernel<Wrong>, 1, kBlock, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void barrier_elsewhere_kernel(float* y) {
  if (Wrong && threadIdx.x >= 64) {
    y[threadIdx.x] = 2.0f;
    __syncthreads();
  } else {
    y[threadIdx.x] = 1.0f;
    __syncthreads();
  }
}
MISTAKE(barrier_elsewhere, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(barrier_elsewhere_kernel<Wrong>, 1, kBlock, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void named_barrier_count_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  // Two warps exchange through barrier 1, the others stay out.
  if (threadIdx.x >= 64) return;
  tile[threadIdx.x] = 1.0f;
  named_barrier(1, Wrong ? 96 : 64);
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
MISTAKE(named_barrier_count, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(named_barrier_count_kernel<Wrong>, 1, kBlock, 64 * 4, y.data);
  return outcome();
})

// Two groups of copies in a row; the second is read.
template <bool Wrong> __global__ void wait_count_kernel(float* y, const float* x) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  for (int i = 0; i < 2; i++) {
    copy_async<16>(tile + (i * kBlock + threadIdx.x) * 4, x + (i * kBlock + threadIdx.x) * 4);
    copy_async_commit();
  }
  copy_async_wait<Wrong ? 1 : 0>();
  __syncthreads();
  for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = tile[(kBlock + (threadIdx.x + 7) % kBlock) * 4 + i];
}
MISTAKE(wait_count, {
  Buffer<float> x(random_floats(8 * kBlock, 1)), y(4 * kBlock);
  LR_LAUNCH(wait_count_kernel<Wrong>, 1, kBlock, kBlock * 32, y.data, x.data);
  return outcome();
})

template <bool Wrong> __global__ void tail_guard_kernel(float* y, int64_t n) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (Wrong || i < n) y[i] = 1.0f;
}
MISTAKE(tail_guard, {
  Buffer<float> y(1000);
  LR_LAUNCH(tail_guard_kernel<Wrong>, 8, kBlock, 0, y.data, 1000);
  return outcome();
})

template <bool Wrong> __global__ void before_begin_kernel(float* y) {
  y[(int)threadIdx.x - (Wrong ? 1 : 0)] = 1.0f;
}
MISTAKE(before_begin, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(before_begin_kernel<Wrong>, 1, kBlock, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void past_shared_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  for (int i = (int)threadIdx.x; i < (Wrong ? 130 : kBlock); i += kBlock) tile[i] = 0.0f;
  y[threadIdx.x] = tile[threadIdx.x];
}
MISTAKE(past_shared, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(past_shared_kernel<Wrong>, 1, kBlock, kBlock * 4, y.data);
  return outcome();
})

template <bool Wrong> __global__ void misaligned_vector_kernel(float* y, const float* x) {
  store4(y + 4 * threadIdx.x, load4(x + 4 * threadIdx.x + (Wrong ? 1 : 0)));
}
MISTAKE(misaligned_vector, {
  Buffer<float> x(random_floats(4 * kBlock + 4, 2)), y(4 * kBlock);
  LR_LAUNCH(misaligned_vector_kernel<Wrong>, 1, kBlock, 0, y.data, x.data);
  return outcome();
})

template <bool Wrong> __global__ void misaligned_cast_kernel(float4* y, const float* x) {
  y[threadIdx.x] = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + (Wrong ? 2 : 0));
}
MISTAKE(misaligned_cast, {
  Buffer<float> x(random_floats(4 * kBlock + 4, 2)), y(4 * kBlock);
  LR_LAUNCH(misaligned_cast_kernel<Wrong>, 1, kBlock, 0, (float4*)y.data, x.data);
  return outcome();
})

template <bool Wrong> __global__ void race_across_warps_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* total = (float*)memory;
  const float sum = warp_reduce(1.0f, Add());
  if (threadIdx.x % 32 == 0) total[Wrong ? 0 : threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) *y = total[0];
}
MISTAKE(race_across_warps, {
  Buffer<float> y(1);
  LR_LAUNCH(race_across_warps_kernel<Wrong>, 1, kBlock, 16, y.data);
  return outcome();
})

// Two buffers by turns: without the second barrier a slow warp still reads what a fast one overwrites two steps later.
template <bool Wrong> __global__ void double_buffer_kernel(float* y, const float* x, int steps) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  float sum = 0.0f;
  for (int step = 0; step < steps; step++) {
    float* now = tile + (Wrong ? 0 : step % 2) * kBlock;
    now[threadIdx.x] = x[step * kBlock + threadIdx.x];
    __syncthreads();
    sum += now[kBlock - 1 - threadIdx.x];
  }
  y[threadIdx.x] = sum;
}
MISTAKE(double_buffer, {
  Buffer<float> x(random_floats(4 * kBlock, 3)), y(kBlock);
  LR_LAUNCH(double_buffer_kernel<Wrong>, 1, kBlock, kBlock * 8, y.data, x.data, 4);
  return outcome();
})

template <bool Wrong> __global__ void missing_syncwarp_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  tile[threadIdx.x] = (float)threadIdx.x;
  if (!Wrong) __syncwarp();
  y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
MISTAKE(missing_syncwarp, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(missing_syncwarp_kernel<Wrong>, 1, kBlock, kBlock * 4, y.data);
  return outcome();
})

// A warp reads a word, then a lane of it writes the word.
template <bool Wrong> __global__ void write_after_read_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* word = (float*)memory;
  if (threadIdx.x == 0) *word = 1.0f;
  __syncwarp();
  y[threadIdx.x] = *word;
  if (!Wrong) __syncwarp();
  if (threadIdx.x == 31) *word = 2.0f;
}
MISTAKE(write_after_read, {
  Buffer<float> y(32);
  LR_LAUNCH(write_after_read_kernel<Wrong>, 1, 32, 4, y.data);
  return outcome();
})

template <bool Wrong> __global__ void plain_adds_kernel(float* y) {
  if (threadIdx.x != 0) return;
  if (Wrong) *y += 1.0f;
  else atomicAdd(y, 1.0f);
}
MISTAKE(plain_adds, {
  Buffer<float> y(std::vector<float>{0.0f});
  LR_LAUNCH(plain_adds_kernel<Wrong>, 16, 32, 0, y.data);
  const std::string seen = outcome();
  return seen.empty() && y.read()[0] != 16.0f ? "a sum is wrong" : seen;
})

template <bool Wrong> __global__ void blocks_exchange_kernel(float* y, float* x) {
  x[blockIdx.x * 32 + threadIdx.x] = 1.0f;
  y[blockIdx.x * 32 + threadIdx.x] = x[(Wrong ? (blockIdx.x + 1) % gridDim.x : blockIdx.x) * 32 + threadIdx.x];
}
MISTAKE(blocks_exchange, {
  Buffer<float> x(std::vector<float>(4 * 32)), y(4 * 32);
  LR_LAUNCH(blocks_exchange_kernel<Wrong>, 4, 32, 0, y.data, x.data);
  return outcome();
})

template <bool Wrong> __global__ void shuffle_exited_kernel(float* y) {
  if (threadIdx.x >= 24) return;
  y[threadIdx.x] = __shfl_down_sync(Wrong ? kAllLanes : 0x00ffffffu, (float)threadIdx.x, threadIdx.x < 16 ? 8 : 0);
}
MISTAKE(shuffle_exited, {
  Buffer<float> y(32);
  LR_LAUNCH(shuffle_exited_kernel<Wrong>, 1, 32, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void shuffle_source_kernel(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, (float)threadIdx.x, Wrong ? 16 : 15);
}
MISTAKE(shuffle_source, {
  Buffer<float> y(32);
  LR_LAUNCH(shuffle_source_kernel<Wrong>, 1, 32, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void mask_without_self_kernel(float* y) {
  y[threadIdx.x] = __shfl_xor_sync(Wrong ? 0xfffffffeu : kAllLanes, 1.0f, 1);
}
MISTAKE(mask_without_self, {
  Buffer<float> y(32);
  LR_LAUNCH(mask_without_self_kernel<Wrong>, 1, 32, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void divergent_vote_kernel(int* y) {
  if (Wrong && threadIdx.x == 3) y[threadIdx.x] = __any_sync(kAllLanes, 1);
  else y[threadIdx.x] = (int)__ballot_sync(kAllLanes, 1);
}
MISTAKE(divergent_vote, {
  Buffer<int> y(32);
  LR_LAUNCH(divergent_vote_kernel<Wrong>, 1, 32, 0, y.data);
  return outcome();
})

template <bool Wrong> __global__ void uninitialised_shared_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  if (!Wrong || threadIdx.x != 77) tile[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
MISTAKE(uninitialised_shared, {
  Buffer<float> y(kBlock);
  LR_LAUNCH(uninitialised_shared_kernel<Wrong>, 1, kBlock, kBlock * 4, y.data);
  return outcome();
})

// Row 70000 of 32768 bytes begins past 2^31.
template <bool Wrong> __global__ void index_overflow_kernel(uint8_t* y, int rows, int columns) {
  const int row = rows - 1, column = (int)threadIdx.x;
  const int64_t i = Wrong ? row * columns + column : (int64_t)row * columns + column;
  y[i] = 1;
}
MISTAKE(index_overflow, {
  Buffer<uint8_t> y((size_t)70000 * 32768);
  LR_LAUNCH(index_overflow_kernel<Wrong>, 1, kBlock, 0, y.data, 70000, 32768);
  return outcome();
})

// A lane reads its neighbour's cp.async bytes after its own wait, without a barrier between.
template <bool Wrong> __global__ void copy_without_barrier_kernel(float* y, const float* x) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  copy_async<4>(tile + threadIdx.x, x + threadIdx.x);
  copy_async_commit();
  copy_async_wait<0>();
  if (!Wrong) __syncthreads();
  y[threadIdx.x] = tile[(threadIdx.x + 64) % kBlock];
}
MISTAKE(copy_without_barrier, {
  Buffer<float> x(random_floats(kBlock, 4)), y(kBlock);
  LR_LAUNCH(copy_without_barrier_kernel<Wrong>, 1, kBlock, kBlock * 4, y.data, x.data);
  return outcome();
})

template <bool Wrong> __global__ void copy_misaligned_kernel(const float* x) {
  LR_SHARED_MEMORY(memory);
  copy_async<16>(memory + threadIdx.x * 16, x + 4 * threadIdx.x + (Wrong ? 1 : 0));
}
MISTAKE(copy_misaligned, {
  Buffer<float> x(random_floats(5 * kBlock, 5));
  LR_LAUNCH(copy_misaligned_kernel<Wrong>, 1, kBlock, kBlock * 16, x.data);
  return outcome();
})

// C = A B for one tile through ldmatrix; wrong: the lanes bring the rows of matrices 1 and 2 in each other's place.
template <bool Wrong> __global__ void lane_map_kernel(float* c, const uint16_t* a, const uint16_t* bt) {
  LR_SHARED_MEMORY(memory);
  uint16_t *ta = (uint16_t*)memory, *tb = ta + 16 * 16;
  const int lane = (int)threadIdx.x;
  for (int i = lane; i < 16 * 16; i += 32) ta[i] = a[i];
  for (int i = lane; i < 8 * 16; i += 32) tb[i] = bt[i];
  __syncwarp();
  uint32_t fa[4], fb[2];
  const int row = Wrong ? lane % 8 + lane / 16 * 8 : lane % 16, column = Wrong ? lane / 8 % 2 * 8 : lane / 16 * 8;
  load_matrix_x4(fa, ta + row * 16 + column);
  load_matrix_x2(fb, tb + lane % 8 * 16 + lane / 8 % 2 * 8);
  float acc[4] = {};
  mma_bf16(acc, fa, fb);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}
MISTAKE(lane_map, {
  std::vector<uint16_t> a, bt;
  for (float v : random_floats(16 * 16, 6)) a.push_back(emu::float_to_bf16(v));
  for (float v : random_floats(8 * 16, 7)) bt.push_back(emu::float_to_bf16(v));
  Buffer<uint16_t> da(a), db(bt);
  Buffer<float> c(16 * 8);
  LR_LAUNCH(lane_map_kernel<Wrong>, 1, 32, (16 + 8) * 16 * 2, c.data, da.data, db.data);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<float> got = c.read();
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double sum = 0;
      for (int k = 0; k < 16; k++) sum += (double)emu::bf16_to_float(a[(size_t)(i * 16 + k)]) * (double)emu::bf16_to_float(bt[(size_t)(j * 16 + k)]);
      if (!(std::abs(got[(size_t)(i * 8 + j)] - sum) < 1e-5)) return "the product is wrong at row " + std::to_string(i) + " column " + std::to_string(j);
    }
  return "";
})

__global__ void nothing_kernel() {}
CASE(wrong_too_many_threads) {
  LR_LAUNCH(nothing_kernel, 1, dim3(33, 32), 0);
  return outcome();
}
CASE(wrong_too_much_shared) {
  LR_LAUNCH(nothing_kernel, 1, 32, 228 * 1024);
  return outcome();
}
CASE(wrong_grid) {
  LR_LAUNCH(nothing_kernel, dim3(1, 65536), 32, 0);
  return outcome();
}
CASE(right_after_wrong) {
  LR_LAUNCH(nothing_kernel, dim3(1, 65535), 1, 0);
  return outcome();
}

}  // namespace
}  // namespace lr
