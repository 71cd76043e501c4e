// What the emulator itself must get right, against float64 or plain C++: fragments of mma and ldmatrix, shuffles, votes, barriers, cp.async,
// atomics, streams and events. Layouts are written from the PTX ISA (9.0, "Warp-level matrix instructions"), not from the emulator.
#include <math.h>

#include "cases.h"

namespace lr {
namespace {

std::string differs(const char* what, int row, int column, double got, double expected) {
  char text[160];
  snprintf(text, sizeof text, "%s[%d][%d] is %g but must be %g", what, row, column, got, expected);
  return text;
}

// "Matrix fragments for mma.m16n8k16 with floating point type":
//   A: row = groupID for ai where 0 <= i < 2 || 4 <= i < 6, else groupID + 8; col = threadID_in_group * 2 + (i & 1) for i < 4, else + 8
//   B: row = threadID_in_group * 2 + (i & 1) for i < 2, else + 8; col = groupID
//   C: row = groupID for i < 2, else groupID + 8; col = threadID_in_group * 2 + (i & 1)
// "Matrix fragments for mma.m16n8k8" (.tf32):
//   A: row = groupID for a0 and a2, else + 8; col = threadID_in_group for a0 and a1, else + 4;  B: row = threadID_in_group, + 4 for b1; col = groupID
template <int Element> __global__ void fragments_kernel(float* c, const uint32_t* a, const uint32_t* b) {
  const int lane = (int)threadIdx.x, group = lane >> 2, in_group = lane % 4;
  uint32_t fa[4] = {}, fb[2] = {};
  float fc[4];
  for (int i = 0; i < 4; i++) fc[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  if (Element == emu::kTf32) {
    for (int i = 0; i < 4; i++) fa[i] = a[(i == 0 || i == 2 ? group : group + 8) * 8 + (i < 2 ? in_group : in_group + 4)];
    for (int i = 0; i < 2; i++) fb[i] = b[(i == 0 ? in_group : in_group + 4) * 8 + group];
    mma_tf32(fc, fa, fb);
  } else {
    for (int i = 0; i < 8; i++) {
      const int row = (i < 2 || (4 <= i && i < 6)) ? group : group + 8, column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
      fa[i / 2] |= a[row * 16 + column] << (i % 2 * 16);
    }
    for (int i = 0; i < 4; i++) fb[i / 2] |= b[(in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)) * 8 + group] << (i % 2 * 16);
    if (Element == emu::kBf16) mma_bf16(fc, fa, fb);
    else mma_f16(fc, fa, fb);
  }
  for (int i = 0; i < 4; i++) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = fc[i];
}

template <int Element> std::string product() {
  constexpr int kDepth = Element == emu::kTf32 ? 8 : 16;
  // The value of the bits, computed here by powers of two.
  const auto bits_of = [](float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    return Element == emu::kTf32 ? u : Element == emu::kBf16 ? u >> 16 : (uint32_t)(emu::float_to_f16(v));
  };
  const auto value_of = [](uint32_t bits) -> double {
    if (Element == emu::kF16) return ldexp((bits & 0x3ff) / 1024.0 + ((bits >> 10 & 31) ? 1 : 0), (int)(bits >> 10 & 31) - 15 + ((bits >> 10 & 31) ? 0 : 1)) * (bits >> 15 ? -1 : 1);
    const uint32_t u = Element == emu::kBf16 ? bits << 16 : bits & ~0x1fffu;
    const int exponent = (int)(u >> 23 & 255);
    return exponent ? ldexp(1 + (u & 0x7fffff) * 0x1p-23, exponent - 127) * (u >> 31 ? -1 : 1) : 0.0;
  };
  std::vector<uint32_t> a, b;
  for (float v : random_floats(16 * kDepth, 11)) a.push_back(bits_of(v));
  for (float v : random_floats(kDepth * 8, 12)) b.push_back(bits_of(v));
  const std::vector<float> c0 = random_floats(16 * 8, 13);
  Buffer<uint32_t> da(a), db(b);
  Buffer<float> c(c0);
  LR_LAUNCH(fragments_kernel<Element>, 1, 32, 0, c.data, da.data, db.data);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<float> got = c.read();
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double sum = c0[(size_t)(i * 8 + j)];
      for (int k = 0; k < kDepth; k++) sum += value_of(a[(size_t)(i * kDepth + k)]) * value_of(b[(size_t)(k * 8 + j)]);
      if (!(fabs(got[(size_t)(i * 8 + j)] - sum) <= 1e-6 * (1 + fabs(sum)))) return differs("C", i, j, got[(size_t)(i * 8 + j)], sum);
    }
  return "";
}
CASE(mma_bf16_product) { return product<emu::kBf16>(); }
CASE(mma_f16_product) { return product<emu::kF16>(); }
CASE(mma_tf32_product) { return product<emu::kTf32>(); }

// "ldmatrix": threads 0-7 hold the addresses of matrix 0's rows, 8-15 of matrix 1's, and so on; a thread receives, of row lane / 4, the elements
// 2 (lane % 4) and 2 (lane % 4) + 1; with .trans of the transposed matrix.
template <int Count, bool Trans> __global__ void load_matrix_kernel(uint32_t* out, const uint16_t* in) {
  LR_SHARED_MEMORY(memory);
  uint16_t* tile = (uint16_t*)memory;
  for (int i = (int)threadIdx.x; i < Count * 64; i += 32) tile[i] = in[i];
  __syncwarp();
  uint32_t r[Count];
  const uint16_t* row = tile + (int)threadIdx.x % (8 * Count) * 8;
  if constexpr (Count == 1) Trans ? load_matrix_x1_trans(r, row) : load_matrix_x1(r, row);
  if constexpr (Count == 2) Trans ? load_matrix_x2_trans(r, row) : load_matrix_x2(r, row);
  if constexpr (Count == 4) Trans ? load_matrix_x4_trans(r, row) : load_matrix_x4(r, row);
  for (int i = 0; i < Count; i++) out[i * 32 + (int)threadIdx.x] = r[i];
}
template <int Count, bool Trans> std::string load_matrix() {
  std::vector<uint16_t> in;
  for (int i = 0; i < Count * 64; i++) in.push_back((uint16_t)(i * 7 + 1));
  Buffer<uint16_t> d(in);
  Buffer<uint32_t> out(Count * 32);
  LR_LAUNCH((load_matrix_kernel<Count, Trans>), 1, 32, Count * 128, out.data, d.data);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<uint32_t> got = out.read();
  for (int matrix = 0; matrix < Count; matrix++)
    for (int lane = 0; lane < 32; lane++)
      for (int half = 0; half < 2; half++) {
        const int row = lane / 4, column = 2 * (lane % 4) + half;
        const int expected = in[(size_t)(matrix * 64 + (Trans ? column * 8 + row : row * 8 + column))];
        const int value = (int)(got[(size_t)(matrix * 32 + lane)] >> (16 * half) & 0xffff);
        if (value != expected) return differs("matrix", matrix, lane, value, expected);
      }
  return "";
}
CASE(load_matrix_x1_layout) { return load_matrix<1, false>(); }
CASE(load_matrix_x2_layout) { return load_matrix<2, false>(); }
CASE(load_matrix_x4_layout) { return load_matrix<4, false>(); }
CASE(load_matrix_x1_trans_layout) { return load_matrix<1, true>(); }
CASE(load_matrix_x2_trans_layout) { return load_matrix<2, true>(); }
CASE(load_matrix_x4_trans_layout) { return load_matrix<4, true>(); }

__global__ void shuffles_kernel(int* out) {
  const int lane = (int)threadIdx.x;
  out[lane] = __shfl_sync(kAllLanes, lane * 10, lane + 3, 8);
  out[32 + lane] = __shfl_up_sync(kAllLanes, lane * 10, 3u, 16);
  out[64 + lane] = __shfl_down_sync(kAllLanes, lane * 10, 5u);
  out[96 + lane] = __shfl_xor_sync(kAllLanes, lane * 10, 9);
  out[128 + lane] = (int)__ballot_sync(kAllLanes, lane % 3 == 0);
  out[160 + lane] = __all_sync(kAllLanes, lane < 32) * 2 + __any_sync(kAllLanes, lane == 40);
  if (lane % 2 == 0) out[192 + lane] = (int)__ballot_sync(0x55555555u, lane > 15);
  else out[192 + lane] = (int)(__shfl_sync(0xaaaaaaaau, (double)lane, 7) * 2);
}
CASE(shuffles_and_votes) {
  Buffer<int> out(224);
  LR_LAUNCH(shuffles_kernel, 1, 32, 0, out.data);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<int> got = out.read();
  for (int lane = 0; lane < 32; lane++) {
    uint32_t thirds = 0;
    for (int i = 0; i < 32; i += 3) thirds |= 1u << i;
    const int expected[] = {(lane / 8 * 8 + (lane + 3) % 8) * 10, (lane % 16 >= 3 ? lane - 3 : lane) * 10, (lane + 5 < 32 ? lane + 5 : lane) * 10, (lane ^ 9) * 10,
                            (int)thirds, 2, lane % 2 == 0 ? 0x55550000 : 14};
    for (int row = 0; row < 7; row++)
      if (got[(size_t)(row * 32 + lane)] != expected[row]) return differs("result", row, lane, got[(size_t)(row * 32 + lane)], expected[row]);
  }
  return "";
}

// Bytes of cp.async are not there before the wait: memory keeps what it had. The source's tail is not read, its place becomes 0.
__global__ void zero_fill_kernel(float* y, const float* x, int valid) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  const int at = (int)threadIdx.x * 4, rest = valid - at;
  copy_async<16>(tile + at, rest > 0 ? x + at : x, rest >= 4 ? 16 : rest > 0 ? rest * 4 : 0);
  copy_async<8>(tile + 128 + threadIdx.x * 2, x);
  copy_async_commit();
  copy_async<4>(tile + 192 + threadIdx.x, x + 1);
  copy_async_commit();
  copy_async_wait<1>();
  __syncwarp();
  for (int i = 0; i < 4; i++) y[at + i] = tile[(at + 4 + i) % 128];
  copy_async_wait<0>();
  __syncwarp();
  y[128 + threadIdx.x] = tile[128 + (threadIdx.x + 1) % 64] + tile[192 + (threadIdx.x + 1) % 32];
}
CASE(copy_async_zero_fill) {
  const std::vector<float> x = random_floats(101, 21);
  Buffer<float> dx(x), y(160);
  LR_LAUNCH(zero_fill_kernel, 1, 32, 224 * 4, y.data, dx.data, 101);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<float> got = y.read();
  for (int i = 0; i < 128; i++) {
    const int from = (i + 4) % 128;
    const float expected = from < 101 ? x[(size_t)from] : 0.0f;
    if (got[(size_t)i] != expected) return differs("y", 0, i, got[(size_t)i], expected);
  }
  for (int i = 0; i < 32; i++) {
    const float expected = x[(size_t)((i + 1) % 2)] + x[1];
    if (got[(size_t)(128 + i)] != expected) return differs("y", 1, i, got[(size_t)(128 + i)], expected);
  }
  return "";
}

__global__ void reduce_kernel(float* y, const float* x, int64_t n) {
  LR_SHARED_MEMORY(memory);
  float sum = 0.0f, largest = -1e30f;
  LR_FOR_EACH(i, n) sum += x[i], largest = x[i] > largest ? x[i] : largest;
  sum = block_reduce(sum, Add(), (float*)memory);
  largest = block_reduce(largest, Max(), (float*)memory);
  if (threadIdx.x == 0) y[2 * blockIdx.x] = sum, y[2 * blockIdx.x + 1] = largest;
}
CASE(block_reductions) {
  const std::vector<float> x = random_floats(10007, 31);
  Buffer<float> dx(x), y(14);
  LR_LAUNCH(reduce_kernel, 7, 96, 12, y.data, dx.data, 10007);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  double sum = 0, expected = 0, largest = -1, most = -1;
  const std::vector<float> got = y.read();
  for (int b = 0; b < 7; b++) sum += got[(size_t)(2 * b)], largest = fmax(largest, got[(size_t)(2 * b + 1)]);
  for (float v : x) expected += v, most = fmax(most, v);
  return fabs(sum - expected) > 1e-3 ? differs("sum", 0, 0, sum, expected) : largest != most ? differs("max", 0, 0, largest, most) : "";
}

__global__ void atomics_kernel(int* counts, int* lowest) {
  atomicAdd(counts + threadIdx.x % 3, 1);
  atomicMin(lowest, (int)(blockIdx.x * 100 + threadIdx.x) - 50);
}
CASE(atomics_over_blocks) {
  Buffer<int> counts(std::vector<int>{0, 0, 0}), lowest(std::vector<int>{1000});
  LR_LAUNCH(atomics_kernel, 5, 96, 0, counts.data, lowest.data);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<int> got = counts.read();
  for (int i = 0; i < 3; i++)
    if (got[(size_t)i] != 160) return differs("count", 0, i, got[(size_t)i], 160);
  return lowest.read()[0] == -50 ? "" : "the minimum is wrong";
}

__global__ void set_kernel(float* y, float value) { y[threadIdx.x] = value; }

// Nothing runs before the stream is waited for, and a stream waits for an event of another.
CASE(streams_are_lazy) {
  Buffer<float> y(32);
  cudaStream_t other;
  cudaEvent_t set;
  cudaStreamCreate(&other);
  cudaEventCreate(&set);
  float early = 1.0f, late = 1.0f;
  emu::launch("set", set_kernel, 1, 32, 0, other, y.data, 5.0f);
  cudaEventRecord(set, other);
  emu::launch("set", set_kernel, 1, 32, 0, other, y.data, 6.0f);
  cudaStreamWaitEvent(stream(), set);
  cudaMemcpyAsync(&early, y.data, 4, cudaMemcpyDeviceToHost, stream());
  if (early != 1.0f) return "a copy ran before anyone waited";
  cudaStreamSynchronize(stream());
  if (early != 5.0f) return differs("after the event", 0, 0, early, 5);
  cudaStreamSynchronize(other);
  cudaMemcpyAsync(&late, y.data, 4, cudaMemcpyDeviceToHost, stream());
  cudaStreamSynchronize(stream());
  cudaEventDestroy(set);
  cudaStreamDestroy(other);
  return late == 6.0f ? "" : differs("after all", 0, 0, late, 6);
}

CASE(fresh_memory_is_nan) {
  Buffer<float> y(1000);
  for (float v : y.read())
    if (v == v) return "a fresh value is a number";
  return "";
}

__global__ void named_pairs_kernel(float* y) {
  LR_SHARED_MEMORY(memory);
  float* tile = (float*)memory;
  const int pair = (int)threadIdx.x / 64, in_pair = (int)threadIdx.x % 64;
  float sum = 0.0f;
  for (int round = 0; round < 3; round++) {
    tile[threadIdx.x] = (float)(in_pair + round);
    named_barrier(1 + pair, 64);
    sum += tile[pair * 64 + 63 - in_pair];
    named_barrier(1 + pair, 64);
  }
  y[blockIdx.x * 128 + threadIdx.x] = sum;
}
CASE(named_barriers) {
  Buffer<float> y(256);
  LR_LAUNCH(named_pairs_kernel, 2, 128, 512, y.data);
  const std::string seen = outcome();
  if (!seen.empty()) return seen;
  const std::vector<float> got = y.read();
  for (int i = 0; i < 256; i++)
    if (got[(size_t)i] != 3.0f * (float)(63 - i % 64) + 3.0f) return differs("y", 0, i, got[(size_t)i], 3.0 * (63 - i % 64) + 3.0);
  return "";
}

}  // namespace
}  // namespace lr
