// Products of bf16 operands on tensor cores (mma.sync m16n8k16, float32 sums), weights decoded inside.
//
// Tile    rows x columns x depth of a step  threads (warps)  a warp   shared memory
//  Large  128 x 128 x 32                    128 (2 x 2)      64 x 64  48 KiB bf16, 47 KiB 4-bit, 40 KiB float32 and others
//  Small   64 x  64 x 64                    128 (2 x 2)      32 x 32  the same
// hot: gemm_bf16_large_kernel: 128 threads, 49152 bytes shared, 2 blocks
// hot: gemm_bf16_small_kernel: 128 threads, 49152 bytes shared, 2 blocks
// Two blocks a multiprocessor: one decodes while the other multiplies. cp.async fills kStages buffers of A two steps ahead. B, by kind of weight (the
// same for all terms of a launch):
//   kDirect  bf16 in rows of whole 16 bytes: by cp.async into kStages buffers, as A
//   kCoded   4-bit, rows and blocks of whole 32 values: codes by cp.async two steps ahead, 16 bytes = 32 weights a thread; absmax (its nested code and
//            scale) one step ahead in registers. As the 32 weights share an absmax, a thread forms the 16 values that a code can mean, bf16(table *
//            absmax), as bytes in registers, and picks by byte permutations: no look-up in memory. Into one of two tiles; a thread decodes the bytes it
//            fetched itself, so a step needs one barrier.
//   kWide    float32 in rows of whole 16 bytes: one step ahead in registers (32 a thread), then into one of two tiles
//   kOther   any weight, as it comes; in small tiles only
// Tiles in shared memory keep the direction of the matrix and are read by ldmatrix, transposed where the depth runs down the columns. Rows are 64, 128
// or 256 bytes, swizzled (chunk_at).
// An adapter's term is one more K-tile: U and B (or A) of its rows through the buffers that the pipeline does not use yet, before the first step.
// Per step and block (Large): 512 clocks of tensor cores on 8.0 against 384 of shared memory and 184 clocks a scheduler for decoding (92 permutations
// and integer operations a thread, half a warp a clock).
// Rounding: A as it lies in memory; W to bf16(table * absmax), the table itself never. Tolerance: float32 sums of exact products of bf16 values.
// Sources: PTX ISA 9.0 (mma.cuh), CUTLASS's "efficient GEMM" (multistage), kernels.md.
#include "../device/gemm.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int kStages = 3;
enum Kind { kDirect, kCoded, kWide, kOther };

template <int Rows, int Columns, int WarpsDown, int WarpsAcross, int Step> struct Tile {
  static constexpr int kRows = Rows, kColumns = Columns, kStep = Step, kAcross = WarpsAcross, kBlock = WarpsDown * WarpsAcross * kWarpSize;
  static constexpr int kWarpRows = Rows / WarpsDown, kWarpColumns = Columns / WarpsAcross, kI = kWarpRows / 16, kJ = kWarpColumns / 8;
  static constexpr int kBytesA = Rows * kStep * 2, kBytesB = Columns * kStep * 2, kChunksB = Columns * kStep / 8 / kBlock;
  static_assert(Columns * kStep == kBlock * 32, "a thread has 32 weights of a step");
  static_assert(Rows * Columns <= kBytesA + kBytesB, "the mask of a tile lies in two buffers");
};
using Large = Tile<128, 128, 2, 2, 32>;
using Small = Tile<64, 64, 2, 2, 64>;

// Of kGated a tile holds half as many columns of each layer: 8 of the gate, the same 8 of up, the next 8 of the gate, so that neighbouring blocks of
// m16n8 are one block of both. Which layer column `item` of the tile is of, and which of that layer's columns it is.
template <Side S, class T> constexpr int kLayerColumns = S == kGated ? T::kColumns / 2 : T::kColumns;
template <Side S> __device__ __forceinline__ int half_of(int item) { return S == kGated ? item / 8 % 2 : 0; }
template <Side S> __device__ __forceinline__ int column_of(int item) { return S == kGated ? item / 16 * 8 + item % 8 : item; }

constexpr int kNestedBytes = 256 * 4;
template <Side S, Kind K, class T> constexpr size_t shared_bytes() {
  return kStages * T::kBytesA + (K == kDirect ? kStages : 2) * T::kBytesB + (K == kCoded ? kStages * T::kBlock * 16 + (S == kGated ? 2 : 1) * kNestedBytes : 0);
}

// A tile of Height rows and Width columns of a matrix; what lies outside of rows [begin, end) and `columns` is zero. Of kGated: a thread's own layer's.
template <Side S, int Height, int Width, int Threads>
__device__ __forceinline__ void copy_tile(unsigned char* to, const void* from, int64_t stride, int64_t row0, int64_t begin, int64_t end, int64_t column0, int64_t columns) {
  constexpr int kChunks = Width / 8;
#pragma unroll
  for (int i = 0; i < Height * kChunks / Threads; i++) {
    const int at = (int)threadIdx.x + i * Threads, row = at / kChunks, chunk = at % kChunks;
    const int64_t from_row = row0 + column_of<S>(row);
    const bool inside = from_row >= begin && from_row < end && column0 + 8 * chunk < columns;
    const bf16* source = (const bf16*)from + (inside ? from_row * stride + column0 + 8 * chunk : 0);
    copy_async<16>(to + chunk_at<kChunks>(row, chunk), source, inside ? 16 : 0);
  }
}

// Which part of W a step needs: rows [row0, rows) and columns [column0, columns).
struct Window {
  int64_t row0, rows, column0, columns;
};

// One step's chunks of 8 values of a weight: chunk i of this thread lies in the tile at chunk_place.
template <Side S, class T> struct Chunks {
  static constexpr int kWidth = kAlong<S> ? T::kStep : T::kColumns, kChunks = kWidth / 8;
  float v[T::kChunksB][8];
  static __device__ __forceinline__ int row(int i) { return ((int)threadIdx.x + i * T::kBlock) / kChunks; }
  static __device__ __forceinline__ int column(int i) { return ((int)threadIdx.x + i * T::kBlock) % kChunks * 8; }
  static __device__ __forceinline__ unsigned char* place(unsigned char* tile, int i) { return tile + chunk_at<kChunks>(row(i), column(i) / 8); }

  // float32 rows of whole 16 bytes, kept until their tile is free.
  __device__ __forceinline__ void load_wide(const lr_weight& w, const Window& at) {
#pragma unroll
    for (int i = 0; i < T::kChunksB; i++)
#pragma unroll
      for (int j = 0; j < 8; j += 4) {
        const int64_t r = at.row0 + column_of<S>(row(i)), c = at.column0 + column(i) + j;
        const float4 f = r < at.rows && c < at.columns ? load4((const float*)w.data + r * w.k + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        v[i][j] = f.x, v[i][j + 1] = f.y, v[i][j + 2] = f.z, v[i][j + 3] = f.w;
      }
  }
  __device__ __forceinline__ void store_wide(unsigned char* tile) const {
#pragma unroll
    for (int i = 0; i < T::kChunksB; i++) store_chunk(place(tile, i), v[i]);
  }
  static __device__ __forceinline__ void copy_any(unsigned char* tile, const lr_weight& w, const Window& at) {
#pragma unroll 1
    for (int i = 0; i < T::kChunksB; i++) {
      float values[8];
      const int64_t from_row = at.row0 + column_of<S>(row(i)), left = from_row < at.rows ? at.columns - at.column0 - column(i) : 0;
      load_values<8>(w, from_row, at.column0 + column(i), left < 0 ? 0 : left < 8 ? (int)left : 8, values);
      store_chunk(place(tile, i), values);
    }
  }
};

// One step's codes of a 4-bit weight: a thread's 32 values of one row, hence of one block.
template <Side S, class T> struct CodedStage {
  static constexpr int kWidth = kAlong<S> ? T::kStep : T::kColumns, kParts = kWidth / 32;
  float absmax; // or the nested scale, where `byte` is the nested code
  uint8_t byte;
  static __device__ __forceinline__ int row() { return (int)threadIdx.x / kParts; }
  static __device__ __forceinline__ int column() { return (int)threadIdx.x % kParts * 32; }
  static __device__ __forceinline__ int64_t from_row(const Window& at) { return at.row0 + column_of<S>(row()); }
  static __device__ __forceinline__ bool inside(const Window& at) { return from_row(at) < at.rows && at.column0 + column() < at.columns; }

  // Of rows of 16 bytes L1 keeps the other half of the sector for the next step.
  static __device__ __forceinline__ void fetch(unsigned char* raw, const lr_weight& w, const Window& at) {
    const bool in = inside(at);
    copy_async<16, kWidth < 64>(raw + threadIdx.x * 16, (const unsigned char*)w.data + (in ? (from_row(at) * w.k + at.column0 + column()) / 2 : 0), in ? 16 : 0);
  }
  __device__ __forceinline__ void load_scale(const lr_weight& w, const Window& at) {
    absmax = 0.0f;
    byte = 0;
    if (!inside(at)) return;
    const int64_t block = (from_row(at) * w.k + at.column0 + column()) >> (31 - __clz(w.blocksize));
    if (w.nested_absmax) {
      byte = ((const uint8_t*)w.absmax)[block];
      absmax = w.nested_absmax[block >> (31 - __clz(w.nested_blocksize))];
    } else {
      absmax = ((const float*)w.absmax)[block];
    }
  }
  // nested: 256 values in shared memory.
  __device__ __forceinline__ void decode(unsigned char* tile, const unsigned char* raw, const float (&table)[16], const float* nested, const lr_weight& w, const Window& at) const {
    float scale = absmax;
    if (w.nested_absmax && inside(at)) scale = __fadd_rn(__fmul_rn(nested[byte], absmax), *w.nested_offset);
    // The 16 values' low and high bytes, four codes a register.
    uint32_t low[4], high[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t first = pack_bf16(table[4 * i] * scale, table[4 * i + 1] * scale), second = pack_bf16(table[4 * i + 2] * scale, table[4 * i + 3] * scale);
      low[i] = permute_bytes(first, second, 0x6420);
      high[i] = permute_bytes(first, second, 0x7531);
    }
    const float4 bits = load4(reinterpret_cast<const float*>(raw + threadIdx.x * 16));
    const uint32_t words[4] = {__float_as_uint(bits.x), __float_as_uint(bits.y), __float_as_uint(bits.z), __float_as_uint(bits.w)};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint32_t pairs[4];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        // Four codes: byte j of each half of the table by the lower three bits of code j, then of the two the one that its highest bit names.
        const uint32_t codes = words[i] >> (16 * half), in_half = codes & 0x7777, which = (codes >> 1 & 0x4444) | 0x3210;
        const uint32_t l = permute_bytes(permute_bytes(low[0], low[1], in_half), permute_bytes(low[2], low[3], in_half), which);
        const uint32_t h = permute_bytes(permute_bytes(high[0], high[1], in_half), permute_bytes(high[2], high[3], in_half), which);
        pairs[2 * half] = permute_bytes(l, h, 0x4051); // the high nibble of a byte comes first
        pairs[2 * half + 1] = permute_bytes(l, h, 0x6273);
      }
      store4(reinterpret_cast<float*>(tile + chunk_at<kWidth / 8>(row(), column() / 8 + i)),
             make_float4(__uint_as_float(pairs[0]), __uint_as_float(pairs[1]), __uint_as_float(pairs[2]), __uint_as_float(pairs[3])));
    }
  }
};

// A warp's sums, and a step of up to kStep / 16 m16n8k16 in depth.
template <class T, bool AAlong, bool BAlong> struct Sums {
  static constexpr int kChunksA = (AAlong ? T::kStep : T::kRows) / 8, kChunksB = (BAlong ? T::kStep : T::kColumns) / 8;
  float c[T::kI][T::kJ][4] = {};
  static __device__ __forceinline__ int warp_row() { return (int)threadIdx.x / kWarpSize / T::kAcross * T::kWarpRows; }
  static __device__ __forceinline__ int warp_column() { return (int)threadIdx.x / kWarpSize % T::kAcross * T::kWarpColumns; }
  static __device__ __forceinline__ int row(int i, int e) { return warp_row() + 16 * i + (int)threadIdx.x % kWarpSize / 4 + e / 2 * 8; }
  static __device__ __forceinline__ int column(int j, int e) { return warp_column() + 8 * j + (int)threadIdx.x % 4 * 2 + e % 2; }

  __device__ __forceinline__ void multiply(const unsigned char* a, const unsigned char* b, int depth) {
    const int lane = (int)threadIdx.x % kWarpSize, matrix = lane / 8, in_matrix = lane % 8;
#pragma unroll
    for (int k = 0; k < T::kStep; k += 16) {
      if (k >= depth) break;
      uint32_t fragment_a[T::kI][4], fragment_b[T::kJ][2];
#pragma unroll
      for (int i = 0; i < T::kI; i++) {
        const int item = warp_row() + 16 * i;
        // Matrices of A: rows 0 and 8 at depth 0, then at depth 8.
        if (AAlong) load_matrix_x4(fragment_a[i], a + chunk_at<kChunksA>(item + matrix % 2 * 8 + in_matrix, k / 8 + matrix / 2));
        else load_matrix_x4_trans(fragment_a[i], a + chunk_at<kChunksA>(k + matrix / 2 * 8 + in_matrix, item / 8 + matrix % 2));
      }
#pragma unroll
      for (int j = 0; j < T::kJ; j += 2) {
        // Matrices of B: depth 0 and 8 of columns 8 j, then of columns 8 (j + 1).
        const int item = warp_column() + 8 * (j + matrix / 2);
        uint32_t both[4];
        if (BAlong) load_matrix_x4(both, b + chunk_at<kChunksB>(item + in_matrix, k / 8 + matrix % 2));
        else load_matrix_x4_trans(both, b + chunk_at<kChunksB>(k + matrix % 2 * 8 + in_matrix, item / 8));
        fragment_b[j][0] = both[0], fragment_b[j][1] = both[1], fragment_b[j + 1][0] = both[2], fragment_b[j + 1][1] = both[3];
      }
#pragma unroll
      for (int i = 0; i < T::kI; i++)
#pragma unroll
        for (int j = 0; j < T::kJ; j++) mma_bf16(c[i][j], fragment_a[i], fragment_b[j]);
    }
  }
};

template <Side S, Kind K, class T> __device__ __forceinline__ void gemm(const Product* products, int count, const Term* terms, const Dropout& dropout) {
  constexpr bool kAAlong = S != kOuter, kBAlong = kAlong<S>;
  constexpr int kStep = T::kStep, kBuffersB = K == kDirect ? kStages : 2;
  LR_SHARED_MEMORY(memory);
  unsigned char *const buffers_b = memory + kStages * T::kBytesA, *const raw = buffers_b + kBuffersB * T::kBytesB;
  float* const nested = reinterpret_cast<float*>(raw + kStages * T::kBlock * 16);
  // Last first: what is spare of A and of B is one piece.
  const auto buffer_b = [&](int i) { return buffers_b + (kBuffersB - 1 - i) * T::kBytesB; };
  const TilePlace place = find_tile(products, count, T::kRows, kLayerColumns<S, T>);
  const Product& p = *place.product;
  using WarpSums = Sums<T, kAAlong, kBAlong>;
  WarpSums sums;
  // A warp outside of C only helps to fetch.
  const bool inside = place.row0 + WarpSums::warp_row() < p.rows && place.column0 + column_of<S>(WarpSums::warp_column()) < p.columns;
  // All that a thread fetches is of one layer, in chunks and in codes.
  static_assert(S != kGated || T::kBlock / (kStep / 8) % 16 == 0, "chunks of a thread lie whole pairs of blocks apart");
  const int half_of_chunks = half_of<S>((int)threadIdx.x / (kStep / 8)), half = K == kCoded ? half_of<S>(CodedStage<S, T>::row()) : half_of_chunks;

  const auto copy_a = [&](unsigned char* to, const Term& t, int64_t k, int64_t end) {
    if (kAAlong) copy_tile<kForward, T::kRows, kStep, T::kBlock>(to, t.a, t.a_stride, place.row0, t.row_begin, t.row_end, k, end);
    else copy_tile<kOuter, kStep, T::kRows, T::kBlock>(to, t.a, t.a_stride, k, 0, end, place.row0, p.rows);
  };
  const auto copy_b = [&](unsigned char* to, const Term& t, int64_t k, int64_t end) {
    if (kBAlong) copy_tile<S, T::kColumns, kStep, T::kBlock>(to, t.b.data, t.b.k, place.column0, 0, p.columns, k, end);
    else copy_tile<S, kStep, T::kColumns, T::kBlock>(to, t.b.data, t.b.k, k, 0, end, place.column0, p.columns);
  };
  const auto window = [&](const Steps& at) {
    return kBAlong ? Window{place.column0, p.columns, at.k, at.end} : Window{at.k, at.end, place.column0, p.columns};
  };

  Steps ahead(p, terms + p.first_term + p.adapters, S == kGated ? 1 : p.terms - p.adapters, place.part), now = ahead;
  int slot_ahead = 0;
  const auto fetch = [&] {
    if (!ahead.done()) {
      copy_a(memory + slot_ahead * T::kBytesA, *ahead.term, ahead.k, ahead.end);
      if (K == kDirect) copy_b(buffer_b(slot_ahead), ahead.term[half], ahead.k, ahead.end);
      if (K == kCoded) CodedStage<S, T>::fetch(raw + slot_ahead * T::kBlock * 16, ahead.term[half].b, window(ahead));
      ahead.next(kStep);
    }
    copy_async_commit(); // empty groups keep the count
    slot_ahead = slot_ahead == kStages - 1 ? 0 : slot_ahead + 1;
  };
  for (int s = 0; s < kStages - 1; s++) fetch();

  const int64_t row_end = place.row0 + T::kRows;
  unsigned char *const spare_a = memory + (kStages - 1) * T::kBytesA, *const spare_b = buffer_b(kBuffersB - 1);
  for (int i = 0; i < p.adapters; i++) {
    const Term& t = terms[p.first_term + i];
    if (t.row_begin >= row_end || t.row_end <= place.row0) continue;
    for (int64_t k = 0; k < t.depth; k += kStep) {
      copy_a(spare_a, t, k, t.depth);
      copy_b(spare_b, t, k, S == kGated && t.layer != half_of_chunks ? 0 : t.depth);
      copy_async_commit();
      copy_async_wait<0>();
      __syncthreads();
      if (inside) sums.multiply(spare_a, spare_b, (int)(t.depth - k));
      __syncthreads();
    }
  }
  if (p.adapters && dropout.least) {
    write_mask<T::kRows, T::kColumns>(spare_a, dropout, place.row0, place.column0, p.columns);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < T::kI; i++)
#pragma unroll
      for (int j = 0; j < T::kJ; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums.c[i][j][e] *= spare_a[WarpSums::row(i, e) * T::kColumns + WarpSums::column(j, e)] ? dropout.scale : 0.0f;
    __syncthreads();
  }

  Chunks<S, T> wide;
  CodedStage<S, T> coded;
  float table[16];
  const auto prepare = [&] { // what the step needs beyond cp.async, one step ahead
    if (now.done()) return;
    if (K == kWide) wide.load_wide(now.term[half].b, window(now));
    if (K == kCoded) coded.load_scale(now.term[half].b, window(now));
  };
  prepare();
  int slot = 0, tile = 0;
  while (!now.done()) {
    if (K == kCoded && now.at_start()) { // another weight, other tables; everybody has decoded the last step
#pragma unroll
      for (int c = 0; c < 16; c++) table[c] = now.term[half].b.code[c];
      for (int h = 0; h < (S == kGated ? 2 : 1); h++)
        if (now.term[h].b.nested_absmax)
          for (int i = (int)threadIdx.x; i < 256; i += T::kBlock) nested[256 * h + i] = now.term[h].b.nested_code[i];
      __syncthreads();
    }
    copy_async_wait<kStages - 2>();
    unsigned char* const b = buffer_b(K == kDirect ? slot : tile);
    if (K == kWide) wide.store_wide(b);
    if (K == kOther) wide.copy_any(b, now.term[half].b, window(now));
    if (K == kCoded) coded.decode(b, raw + slot * T::kBlock * 16, table, nested + 256 * half, now.term[half].b, window(now));
    __syncthreads(); // everybody's bytes of this step are here, and everybody is done with the buffers that are filled next
    fetch();
    const int depth = now.end - now.k < kStep ? (int)(now.end - now.k) : kStep;
    now.next(kStep);
    prepare();
    if (inside) sums.multiply(memory + slot * T::kBytesA, b, depth);
    slot = slot == kStages - 1 ? 0 : slot + 1;
    tile ^= 1;
  }

  float* const c = p.c + place.part * p.rows * p.stride;
#pragma unroll
  for (int i = 0; i < T::kI; i++)
#pragma unroll
    for (int j = 0; j < T::kJ; j += S == kGated ? 2 : 1)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int64_t row = place.row0 + WarpSums::row(i, e), column = place.column0 + column_of<S>(WarpSums::column(j, e));
        if (row >= p.rows || column >= p.columns) continue;
        if constexpr (S == kGated) finish_gated(p, row * p.stride + column, column, sums.c[i][j][e], sums.c[i][j + 1][e]);
        else finish_element<S>(p, c, row * p.stride + column, column, sums.c[i][j][e]);
      }
}

// One name a tile: their promises differ.
template <Side S, Kind K> __global__ void __launch_bounds__(Large::kBlock, 2) gemm_bf16_large_kernel(const Product* products, int count, const Term* terms, Dropout dropout) {
  gemm<S, K, Large>(products, count, terms, dropout);
}
template <Side S, Kind K> __global__ void __launch_bounds__(Small::kBlock, 2) gemm_bf16_small_kernel(const Product* products, int count, const Term* terms, Dropout dropout) {
  gemm<S, K, Small>(products, count, terms, dropout);
}

Kind kind_of(const lr_weight& w) {
  if (w.kind == LR_WEIGHT_DENSE && aligned16(w.data) && w.dtype == LR_BF16 && w.k % 8 == 0) return kDirect;
  if (w.kind == LR_WEIGHT_DENSE && aligned16(w.data) && w.dtype == LR_F32 && w.k % 4 == 0) return kWide;
  if (w.kind == LR_WEIGHT_DENSE) return kOther;
  return is_coded(w) ? kCoded : kOther;
}

// Of all weights of a launch: terms[.] of a product behind its adapters.
Kind kind_of(const ProductList& list) {
  bool first = true;
  Kind kind = kDirect;
  for (const Product& p : list.products)
    for (int t = p.adapters; t < p.terms; t++) {
      const Kind mine = kind_of(list.terms[(size_t)(p.first_term + t)].b);
      if (!first && mine != kind) return kOther;
      kind = mine;
      first = false;
    }
  return kind;
}

// Large tiles where there are enough of them to fill a device, and rows to fill them; not of kOther, whose decoding waits for memory value by value.
template <Side S, Kind K> void launch_list(ProductList& list, const Dropout& dropout) {
  constexpr int64_t kEnough = 96;
  int64_t tiles = 0;
  for (const Product& p : list.products)
    if (p.rows > Small::kRows && p.columns > kLayerColumns<S, Small>) tiles += ceil_div(p.rows, Large::kRows) * ceil_div(p.columns, kLayerColumns<S, Large>) * p.parts;
  const bool large = K != kOther && tiles >= kEnough;
  const unsigned grid = (unsigned)(large ? list.upload(Large::kRows, kLayerColumns<S, Large>) : list.upload(Small::kRows, kLayerColumns<S, Small>));
  const int count = (int)list.products.size();
  if constexpr (K != kOther) {
    if (large) return LR_LAUNCH((gemm_bf16_large_kernel<S, K>), grid, Large::kBlock, (shared_bytes<S, K, Large>()), list.on_device(), count, list.terms_on_device(), dropout);
  }
  LR_LAUNCH((gemm_bf16_small_kernel<S, K>), grid, Small::kBlock, (shared_bytes<S, K, Small>()), list.on_device(), count, list.terms_on_device(), dropout);
}

template <Side S> void launch_kind(ProductList& list, const Dropout& dropout) {
  switch (kind_of(list)) {
    case kDirect: return launch_list<S, kDirect>(list, dropout);
    case kCoded: return launch_list<S, kCoded>(list, dropout);
    case kWide: return launch_list<S, kWide>(list, dropout);
    case kOther: return launch_list<S, kOther>(list, dropout);
  }
}

}  // namespace

void enqueue_bf16(ProductList& list, Side side, const Dropout& dropout) {
  if (side == kForward) launch_kind<kForward>(list, dropout);
  else if (side == kGated) launch_kind<kGated>(list, dropout);
  else if (side == kBackward) launch_kind<kBackward>(list, dropout);
  else launch_list<kOuter, kDirect>(list, dropout); // both operands are activations
}

}  // namespace lr
