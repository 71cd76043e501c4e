// Products in float32 by fused multiply-adds: the exact path (dtype float32), and what tensor cores are checked against.
//
// A block of 64 threads (2 warps) computes a tile of 64 x 64; thread (y, x) of 8 x 8 the rows 4 y.. and 32 + 4 y.. of the columns 4 x.. and 32 + 4 x..:
// 8 x 8 sums from 16 values a step, read as float4 without bank conflicts. The depth goes in steps of 16 through two buffers, both operands as
// [depth][64 + 4]: while one is multiplied, the next values wait in registers (32 a thread). Weights are decoded on the way.
// hot: gemm_f32_kernel: 64 threads, 17408 bytes shared, 4 blocks
//   shared: 2 buffers x 2 operands x 16 x 68 x 4 B
// Of kGated the first 32 columns of a tile are the gate's, the others the same of up: sums j and j + 4 of a thread are one element's.
// Every element is one sequence of fused multiply-adds, adapters first, ascending in depth: its bits depend on its row, its column and the depth alone.
// Tolerance against float64: about sqrt(depth) * 6e-8 of the largest product. Source: Volkov and Demmel, SC08 (register blocking).
#include "../device/gemm.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int kTile = 64, kDepth = 16, kPitch = kTile + 4, kBlock = 64;
template <Side S> constexpr int kLayerColumns = S == kGated ? kTile / 2 : kTile;
constexpr int kChunks = kTile * kDepth / 4 / kBlock; // of four values, a thread and operand

// A tile of an operand on its way from memory to shared memory. Along: the depth runs along a row of the matrix, else down its columns.
template <bool Along> struct Staged {
  float v[kChunks][4];

  // Elements (first + i, k + j) of the operand seen as [items, depth], by read(row, column, count, values) of the matrix; zero outside of items
  // [begin, end) and depth [k, k_end).
  template <class Read> __device__ __forceinline__ void load(const Read& read, int64_t first, int64_t begin, int64_t end, int64_t k, int64_t k_end) {
#pragma unroll
    for (int i = 0; i < kChunks; i++) {
      const int at = (int)threadIdx.x + i * kBlock;
      const int64_t item = first + (Along ? at / (kDepth / 4) : at % (kTile / 4) * 4), depth = k + (Along ? at % (kDepth / 4) * 4 : at / (kTile / 4));
      const int64_t left = !(item >= begin && item < end && depth < k_end) ? 0 : Along ? k_end - depth : end - item;
      read(Along ? item : depth, Along ? depth : item, left < 4 ? (int)left : 4, v[i]);
    }
  }
  __device__ __forceinline__ void place(float* to) const {
#pragma unroll
    for (int i = 0; i < kChunks; i++) {
      const int at = (int)threadIdx.x + i * kBlock;
      if (Along) {
        for (int j = 0; j < 4; j++) to[(at % (kDepth / 4) * 4 + j) * kPitch + at / (kDepth / 4)] = v[i][j];
      } else {
        store4(to + at / (kTile / 4) * kPitch + at % (kTile / 4) * 4, make_float4(v[i][0], v[i][1], v[i][2], v[i][3]));
      }
    }
  }
};

struct Sums {
  float c[8][8] = {};
  // Row and column of sum (i, j) in the tile.
  static __device__ __forceinline__ int row(int i) { return (int)threadIdx.x / 8 * 4 + i % 4 + i / 4 * 32; }
  static __device__ __forceinline__ int column(int j) { return (int)threadIdx.x % 8 * 4 + j % 4 + j / 4 * 32; }

  __device__ __forceinline__ void multiply(const float* a, const float* b) {
#pragma unroll 4
    for (int k = 0; k < kDepth; k++) {
      const float4 a0 = load4(a + k * kPitch + row(0)), a1 = load4(a + k * kPitch + row(4)), b0 = load4(b + k * kPitch + column(0)), b1 = load4(b + k * kPitch + column(4));
      const float x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w}, y[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) c[i][j] = fmaf(x[i], y[j], c[i][j]);
    }
  }
};

template <Side S> __global__ void __launch_bounds__(kBlock, 4) gemm_f32_kernel(const Product* products, int count, const Term* terms, Dropout dropout) {
  LR_SHARED_MEMORY(memory);
  float* const tiles = (float*)memory; // A and B of buffer 0, A and B of buffer 1
  const TilePlace place = find_tile(products, count, kTile, kLayerColumns<S>);
  const Product& p = *place.product;
  const bool inside = place.row0 + Sums::row(0) < p.rows && place.column0 + Sums::column(0) < p.columns;
  Sums sums;
  Staged<S != kOuter> a;
  Staged<kAlong<S>> b;
  int buffer = 0;
  // All steps of one term, rows outside of the term's as zeros. Of kGated: of the term and the one of up, either of which may be absent.
  const auto add_term = [&](const Term& t, int64_t begin, int64_t end, const lr_weight* gate, const lr_weight* up) {
    const auto load = [&](int64_t k) {
      const int64_t last = S == kOuter ? p.rows : t.row_end < p.rows ? t.row_end : p.rows;
      a.load([&](int64_t row, int64_t column, int n, float(&v)[4]) { load_floats<4>((const float*)t.a + row * t.a_stride + column, n, v); }, place.row0,
             t.row_begin, last, k, end);
      if constexpr (S == kGated)
        b.load([&](int64_t item, int64_t column, int n, float(&v)[4]) {
          const lr_weight* const of = item < kLayerColumns<S> ? gate : up;
          const int64_t row = place.column0 + item % kLayerColumns<S>;
          load_values<4>(of ? *of : t.b, row, column, of && row < p.columns ? n : 0, v);
        }, 0, 0, kTile, k, end);
      else
        b.load([&](int64_t row, int64_t column, int n, float(&v)[4]) { load_values<4>(t.b, row, column, n, v); }, place.column0, 0, p.columns, k, end);
    };
    load(begin);
    for (int64_t k = begin; k < end; k += kDepth) {
      float *to_a = tiles + buffer * 2 * kDepth * kPitch, *to_b = to_a + kDepth * kPitch;
      a.place(to_a);
      b.place(to_b);
      __syncthreads(); // the other buffer is free too: everybody has finished with it
      if (k + kDepth < end) load(k + kDepth);
      if (inside) sums.multiply(to_a, to_b);
      buffer ^= 1;
    }
  };
  const Term* const first = terms + p.first_term;
  for (int t = 0; t < p.adapters; t++)
    if (first[t].row_begin < place.row0 + kTile && first[t].row_end > place.row0)
      add_term(first[t], 0, first[t].depth, first[t].layer ? nullptr : &first[t].b, first[t].layer ? &first[t].b : nullptr);
  if (p.adapters && dropout.least) {
    __syncthreads();
    write_mask<kTile, kTile>(memory, dropout, place.row0, place.column0, p.columns);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) sums.c[i][j] *= memory[Sums::row(i) * kTile + Sums::column(j)] ? dropout.scale : 0.0f;
    __syncthreads();
  }
  for (int t = p.adapters; t < (S == kGated ? p.adapters + 1 : p.terms); t++) {
    const int64_t begin = place.part * p.part_depth, depth = first[t].depth;
    add_term(first[t], begin, p.part_depth && begin + p.part_depth < depth ? begin + p.part_depth : depth, &first[t].b, &first[t + 1].b);
  }
  float* const c = p.c + place.part * p.rows * p.stride;
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < (S == kGated ? 4 : 8); j++) {
      const int64_t row = place.row0 + Sums::row(i), column = place.column0 + Sums::column(j);
      if (row >= p.rows || column >= p.columns) continue;
      if constexpr (S == kGated) finish_gated(p, row * p.stride + column, column, sums.c[i][j], sums.c[i][j + 4]);
      else finish_element<S>(p, c, row * p.stride + column, column, sums.c[i][j]);
    }
}

}  // namespace

void enqueue_f32(ProductList& list, Side side, const Dropout& dropout) {
  const unsigned tiles = (unsigned)list.upload(kTile, side == kGated ? kLayerColumns<kGated> : kTile);
  const int count = (int)list.products.size();
  const size_t shared = 4 * kDepth * kPitch * sizeof(float);
  if (side == kForward) LR_LAUNCH(gemm_f32_kernel<kForward>, tiles, kBlock, shared, list.on_device(), count, list.terms_on_device(), dropout);
  else if (side == kGated) LR_LAUNCH(gemm_f32_kernel<kGated>, tiles, kBlock, shared, list.on_device(), count, list.terms_on_device(), dropout);
  else if (side == kBackward) LR_LAUNCH(gemm_f32_kernel<kBackward>, tiles, kBlock, shared, list.on_device(), count, list.terms_on_device(), dropout);
  else LR_LAUNCH(gemm_f32_kernel<kOuter>, tiles, kBlock, shared, list.on_device(), count, list.terms_on_device(), dropout);
}

}  // namespace lr
