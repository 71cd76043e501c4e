// Attention with products of bf16 on tensor cores (mma.sync m16n8k16, float32 sums): what forward and gradient share.
//
// Heads of up to 128 values, laid out in 64, 96 or 128 columns, zero behind their size. A tile in shared memory is rows of 128 or 256 bytes, swizzled
// (chunk_at). A warp owns 16 M rows of the tile that stays and meets every row of the tiles that pass:
//   tile_products   s [16 M, 8 N] = left rows · right rowsᵀ     scores, dO Vᵀ, and their transposes
//   add_weighted    o [16 M, D] += s right                      P V, dS K, Pᵀ dO, dSᵀ Q: s turns from sums into an operand in registers
// Both operands come by ldmatrix, `right` transposed in the second. Tiles that pass lie in memory as bf16 (laid by lora.cu) and come by cp.async.
// With n rows that pass, m owned and D columns, a product takes m n D / 2048 mma.sync and moves 2 D (m + n) bytes (tile_products) or 2 D n
// (add_weighted) out of shared memory.
// Rounding, as PyTorch's flash attention has it: q, k, v, dO, P and dS to bf16; scores, maxima, sums, lse, delta and outputs are float32.
#ifndef LOWRANK_CUDA_OPS_ATTENTION_BF16_CUH
#define LOWRANK_CUDA_OPS_ATTENTION_BF16_CUH
#include "../device/lora.cuh"
#include "attention_tile.cuh"

namespace lr {

constexpr int kWidestBf16 = 128; // columns of a head

// Whether the products are bf16 and the shapes those of these kernels, where positions and rows of a sequence are 32 bits wide; the others are attention.cu's.
inline bool takes_bf16(const lr_attention_args& args, const AttentionView& a) {
  return args.math == LR_MATH_BF16 && a.d <= kWidestBf16 && !a.sequences.block_table && !has_few_queries(args, a) && a.tokens * a.group < (int64_t)1 << 30;
}
lr_error attention_bf16(lr_queue* queue, const lr_attention_args* args, AttentionView a);
lr_error attention_grad_bf16(lr_queue* queue, const lr_attention_args* args, AttentionView a);

namespace {

constexpr int kBlockBf16 = 128, kWarpsBf16 = kBlockBf16 / kWarpSize;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <class Body> void with_columns(int d, Body body) {
  if (d <= 64) body(Constant<64>());
  else if (d <= 96) body(Constant<96>());
  else body(Constant<128>());
}

template <int D> constexpr int kChunks = D <= 64 ? 8 : 16; // of 16 bytes, that a row of a tile has room for
template <int D> constexpr int kRowBytes = 16 * kChunks<D>;

// float32 [rows, d] as bf16 [rows, columns], zero behind d.
inline const bf16* lay_heads(List<Laying>& list, Scratch& scratch, const void* from, int64_t rows, int64_t d, int64_t columns) {
  bf16* const to = scratch.take<bf16>(rows * columns);
  list.add({to, columns, d, rows, (const float*)from, d, 0, columns, 0}, rows * columns / 4);
  return to;
}

// Rows of D values to a tile, by cp.async; row(r): where row r lies, NULL: zeros. `any` is an address that may be read.
template <int D, int Rows, class Row> __device__ __forceinline__ void copy_rows(unsigned char* to, const bf16* any, Row row) {
  const int chunk = (int)threadIdx.x % kChunks<D>;
  if (8 * chunk >= D) return;
#pragma unroll 1 // unrolled, it would take the registers of sums
  for (int r = (int)threadIdx.x / kChunks<D>; r < Rows; r += kBlockBf16 / kChunks<D>) {
    const bf16* const from = row(r);
    copy_async<16>(to + chunk_at<kChunks<D>>(r, chunk), from ? from + 8 * chunk : any, from ? 16 : 0);
  }
}
// Numbers of the rows of a tile of queries in a [T, H, D] tensor, -1 outside, into shared memory; row(r) of copy_rows for them.
template <int Rows> __device__ __forceinline__ void note_vectors(int64_t* vectors, const AttentionView& a, const QueryTile& tile) {
  for (int r = (int)threadIdx.x; r < Rows; r += kBlockBf16) vectors[r] = r < tile.count ? tile.vector(a, r) : -1;
}
template <int D, int Rows> __device__ __forceinline__ void copy_queries(unsigned char* to, const bf16* x, const int64_t* vectors) {
  copy_rows<D, Rows>(to, x, [&](int r) { return vectors[r] >= 0 ? x + vectors[r] * D : nullptr; });
}
// The keys of a sequence.
struct Keys {
  int first, count;
  __device__ Keys(const AttentionView& a, int64_t sequence) : first(a.sequences.cu_k[sequence]), count((int)a.sequences.keys(sequence)) {}
  // Keys [key, key + Rows) of laid keys or values.
  template <int D, int Rows> __device__ __forceinline__ void copy(unsigned char* to, const AttentionView& a, const bf16* kv, int key) const {
    copy_rows<D, Rows>(to, kv, [&](int r) { return key + r < count ? kv + ((int64_t)(first + key + r) * a.kv_heads + blockIdx.y) * D : nullptr; });
  }
};

// s = rows row0 .. row0 + 16 M of `left` · rows 0 .. 8 N of `right`.
template <int D, int M, int N>
__device__ __forceinline__ void tile_products(float (&s)[M][N][4], const unsigned char* left, int row0, const unsigned char* right) {
  const int lane = (int)threadIdx.x % kWarpSize, matrix = lane / 8, in_matrix = lane % 8;
  // Of chunk 0; chunks are even below, so they are added by ^ in spite of the swizzle.
  const int at_left = chunk_at<kChunks<D>>(row0 + matrix % 2 * 8 + in_matrix, matrix / 2), at_right = chunk_at<kChunks<D>>(matrix / 2 * 8 + in_matrix, matrix % 2);
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[m][n][e] = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < D / 8; chunk += 2) {
    uint32_t fragment[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) load_matrix_x4(fragment[m], left + 16 * m * kRowBytes<D> + (at_left ^ 16 * chunk));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t both[4];
      load_matrix_x4(both, right + 8 * n * kRowBytes<D> + (at_right ^ 16 * chunk));
      const uint32_t first[2] = {both[0], both[1]}, second[2] = {both[2], both[3]};
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(s[m][n], fragment[m], first);
        mma_bf16(s[m][n + 1], fragment[m], second);
      }
    }
  }
}

// o += s (rounded to bf16) · rows 0 .. 8 N of `right`.
template <int D, int M, int N> __device__ __forceinline__ void add_weighted(float (&o)[M][D / 8][4], const float (&s)[M][N][4], const unsigned char* right) {
  const int lane = (int)threadIdx.x % kWarpSize, matrix = lane / 8, in_matrix = lane % 8;
  const int at_right = chunk_at<kChunks<D>>(matrix % 2 * 8 + in_matrix, matrix / 2);
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    uint32_t fragment[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) {
      fragment[m][0] = pack_bf16(s[m][n][0], s[m][n][1]);
      fragment[m][1] = pack_bf16(s[m][n][2], s[m][n][3]);
      fragment[m][2] = pack_bf16(s[m][n + 1][0], s[m][n + 1][1]);
      fragment[m][3] = pack_bf16(s[m][n + 1][2], s[m][n + 1][3]);
    }
#pragma unroll
    for (int chunk = 0; chunk < D / 8; chunk += 2) {
      uint32_t both[4];
      load_matrix_x4_trans(both, right + 8 * n * kRowBytes<D> + (at_right ^ 16 * chunk));
      const uint32_t first[2] = {both[0], both[1]}, second[2] = {both[2], both[3]};
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(o[m][chunk], fragment[m], first);
        mma_bf16(o[m][chunk + 1], fragment[m], second);
      }
    }
  }
}

// Where element e of a sum lies in its 16 x 8: this thread's rows g and g + 8, columns 2 i and 2 i + 1 (mma.cuh).
__device__ __forceinline__ int row_in_16(int half) { return (int)threadIdx.x % kWarpSize / 4 + 8 * half; }
__device__ __forceinline__ int column_in_8(int e) { return (int)threadIdx.x % 4 * 2 + e; }

// Row `half` of sums [.., D], times `factor`, to a vector of d floats.
template <int D> __device__ __forceinline__ void store_sums(float* to, const float (&o)[D / 8][4], int half, int d, float factor) {
#pragma unroll
  for (int chunk = 0; chunk < D / 8; chunk++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int column = 8 * chunk + column_in_8(e);
      if (column < d) to[column] = o[chunk][2 * half + e] * factor;
    }
}

// Products q·k to scores, in units of log 2.
struct Scores {
  float factor, cap, inverse; // cap 0: none
  __device__ explicit Scores(const AttentionView& a) {
    const bool capped = a.softcap > 0.0f;
    factor = capped ? 2.0f * kLog2E * a.scale / a.softcap : kLog2E * a.scale;
    cap = capped ? a.softcap * kLog2E : 0.0f;
    inverse = capped ? 1.0f / cap : 0.0f;
  }
  template <int M, int N> __device__ __forceinline__ void operator()(float (&s)[M][N][4]) const {
    const bool capped = cap > 0.0f;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          s[m][n][e] *= factor;
          if (capped) s[m][n][e] = cap - 2.0f * cap * reciprocal_approx(1.0f + exp2_approx(s[m][n][e])); // tanh(x) = 1 - 2 / (1 + exp(2 x))
        }
  }
  // d score / d (scale * product).
  __device__ __forceinline__ float slope(float score) const { return fmaf(-score * inverse, score * inverse, 1.0f); }
};

__device__ __forceinline__ bool sees_key(const AttentionView& a, int position, int key) { return key <= position && (a.window <= 0 || position - key < a.window); }
// Whether queries at [first, last] see all of the keys [key, key + count), and whether any sees any.
__device__ __forceinline__ bool all_seen(const AttentionView& a, int first, int last, int key, int count) {
  return key + count - 1 <= first && (a.window <= 0 || last - key < a.window);
}
__device__ __forceinline__ bool any_seen(const AttentionView& a, int first, int last, int key, int count) {
  return key <= last && (a.window <= 0 || first - (key + count - 1) < a.window);
}

}  // namespace
}  // namespace lr
#endif
