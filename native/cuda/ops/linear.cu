// linear on tensor cores, first form: y = x Wᵀ + bias with W [n, k] dense bf16, x and y float32, no adapters, math bf16 (x is rounded to bf16).
//
// A block of 128 threads (4 warps, 2 x 2) computes a tile of 64 rows x 64 columns of y; a warp 32 x 32: 2 x 4 tiles of m16n8. K goes in steps of
// 32 through kStages buffers in shared memory that cp.async fills ahead. x stays float32 in shared memory and is rounded when a fragment is read:
// A fragments (mma.cuh) take float2 pairs. W comes by ldmatrix: its rows are the columns of B, so no transposition.
// Rows in shared memory are padded by 16 bytes: the eight rows of a matrix fall in different banks.
// hot: linear_bf16_kernel: 128 threads, 43008 bytes shared, 2 blocks
//   shared: kStages x (64 x (32 + 4) float32 + 64 x (32 + 8) bf16) = kStages x (9216 + 5120) B = 42 KiB at 3 stages
// Where rows do not begin at multiples of 16 bytes, copies are made one element at a time by plain loads and stores, by the same code.
// Tolerance: float32 sums of exact products of bf16 values. Source of the layout: PTX ISA, see mma.cuh.
#include "../device/shared.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int kM = 64, kN = 64, kK = 32, kStages = 3, kBlock = 128;
constexpr int kPitchX = kK + 4, kPitchW = kK + 8; // elements
constexpr size_t kStageBytes = kM * kPitchX * sizeof(float) + kN * kPitchW * sizeof(bf16);

struct Tile {
  float* x;  // [kM][kPitchX]
  bf16* w;   // [kN][kPitchW]
};

__device__ __forceinline__ Tile stage(unsigned char* memory, int i) {
  unsigned char* at = memory + i * kStageBytes;
  return {(float*)at, (bf16*)(at + kM * kPitchX * sizeof(float))};
}

// Copies rows [row0, row0 + Rows) x columns [column0, column0 + kK) of a matrix [rows, k]; what lies outside is zero.
template <int Rows, int Pitch, bool Async, class T>
__device__ __forceinline__ void load_tile(T* to, const T* from, int64_t row0, int64_t rows, int64_t column0, int64_t k) {
  constexpr int kPer = Async ? 16 / (int)sizeof(T) : 1, kChunks = kK / kPer;
  for (int at = (int)threadIdx.x; at < Rows * kChunks; at += kBlock) {
    const int row = at / kChunks, column = at % kChunks * kPer;
    T* target = to + row * Pitch + column;
    const bool inside = row0 + row < rows && column0 + column < k;
    const T* source = inside ? from + (row0 + row) * k + column0 + column : from;
    if (Async) copy_async<16>(target, source, inside ? 16 : 0);
    else *target = inside ? *source : T{};
  }
}

template <bool Async>
__global__ void linear_bf16_kernel(float* y, const float* x, const bf16* w, const float* bias, int64_t rows, int64_t n, int64_t k) {
  LR_SHARED_MEMORY(memory);
  const int lane = (int)threadIdx.x % kWarpSize, warp = (int)threadIdx.x / kWarpSize, group = lane / 4, pair = lane % 4 * 2;
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const int64_t row0 = (int64_t)blockIdx.y * kM, column0 = (int64_t)blockIdx.x * kN, steps = (k + kK - 1) / kK;
  float c[2][4][4] = {};
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      const Tile tile = stage(memory, (int)(step % kStages));
      load_tile<kM, kPitchX, Async>(tile.x, x, row0, rows, step * kK, k);
      load_tile<kN, kPitchW, Async>(tile.w, w, column0, n, step * kK, k);
    }
    copy_async_commit(); // empty groups keep the count
  };
  for (int s = 0; s < kStages - 1; s++) fetch(s);
  for (int64_t step = 0; step < steps; step++) {
    copy_async_wait<kStages - 2>();
    __syncthreads(); // everybody's bytes of this step are here, and everybody is done with the buffer that is filled next
    fetch(step + kStages - 1);
    const Tile tile = stage(memory, (int)(step % kStages));
    for (int depth = 0; depth < kK; depth += 16) {
      uint32_t a[2][4], b[4][2];
      for (int i = 0; i < 2; i++) {
        const float* from = tile.x + (warp_row + 16 * i + group) * kPitchX + depth + pair;
        for (int j = 0; j < 4; j++) {
          const float* p = from + j % 2 * 8 * kPitchX + j / 2 * 8;
          a[i][j] = pack_bf16(p[0], p[1]);
        }
      }
      for (int i = 0; i < 4; i += 2) {
        // Matrices: columns 8 i.. at depth, the same at depth + 8, columns 8 (i + 1).. at depth, at depth + 8.
        uint32_t both[4];
        load_matrix_x4(both, tile.w + (warp_column + 8 * (i + lane / 16) + lane % 8) * kPitchW + depth + lane / 8 % 2 * 8);
        b[i][0] = both[0], b[i][1] = both[1], b[i + 1][0] = both[2], b[i + 1][1] = both[3];
      }
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) mma_bf16(c[i][j], a[i], b[j]);
    }
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int e = 0; e < 4; e++) {
        const int64_t row = row0 + warp_row + 16 * i + group + e / 2 * 8, column = column0 + warp_column + 8 * j + pair + e % 2;
        if (row < rows && column < n) y[row * n + column] = c[i][j][e] + (bias ? bias[column] : 0.0f);
      }
}

template <bool Async> void launch_layer(const lr_linear& layer, const lr_tensor& x) {
  const int64_t rows = x.shape[0], k = x.shape[1], n = layer.weight.n;
  const dim3 grid((unsigned)((n + kN - 1) / kN), (unsigned)((rows + kM - 1) / kM));
  LR_LAUNCH(linear_bf16_kernel<Async>, grid, kBlock, kStages * kStageBytes, (float*)layer.y.data, (const float*)x.data, (const bf16*)layer.weight.data,
            (const float*)layer.bias.data, rows, n, k);
}

lr_error unsupported(const char* what) {
  lr_error error = success();
  error.code = LR_UNSUPPORTED;
  error.op = "linear";
  snprintf(error.text, sizeof error.text, "this device does not compute linears with %s yet", what);
  return error;
}

}  // namespace

lr_error linear(lr_queue* queue, const lr_linear_group* group) {
  const lr_linear_group& g = *group;
  Check check("linear");
  check.tensor("x", g.x, LR_F32);
  check.rank("x", g.x, 2);
  if (check.failed) return check.error;
  const int64_t rows = g.x.shape[0], k = g.x.shape[1];
  if (g.math != LR_MATH_BF16) return unsupported("float32 products");
  for (int l = 0; l < g.count; l++) {
    const lr_linear& layer = g.layers[l];
    if (layer.weight.kind != LR_WEIGHT_DENSE || layer.weight.dtype != LR_BF16) return unsupported("weights that are not dense bfloat16");
    if (layer.segment_count > 0) return unsupported("adapters");
    if (present(layer.bias) && layer.bias.dtype != LR_F32) return unsupported("a bias that is not float32");
    check.require(layer.weight.k == k, "x has %lld columns but the weight of layer %d has %lld", (long long)k, l, (long long)layer.weight.k);
    check.tensor("y", layer.y, LR_F32, rows * layer.weight.n);
    check.optional("bias", layer.bias, LR_F32, layer.weight.n);
    check.require(rows <= 65535 * (int64_t)kM, "x has %lld rows; this device takes up to %lld", (long long)rows, 65535LL * kM);
  }
  if (check.failed) return check.error;
  if (queue->sizing) {
    queue->scratch_size = 0;
    return success();
  }
  for (int l = 0; l < g.count; l++) {
    const lr_linear& layer = g.layers[l];
    if (rows * layer.weight.n == 0) continue;
    if (k % 8 == 0 && aligned16(g.x.data) && aligned16(layer.weight.data)) launch_layer<true>(layer, g.x);
    else launch_layer<false>(layer, g.x);
  }
  return finish("linear");
}

}  // namespace lr
