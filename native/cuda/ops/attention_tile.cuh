// What attention and its gradient share: tiles of queries and of keys in shared memory, float32 products of two tiles, what a query sees.
//
// A tile of queries holds `Rows` rows of one sequence and one kv head: row r is query (begin + r) / group, head (begin + r) % group of the kv
// head's group, so K and V are read once for all heads of a group. Tiles of keys begin at multiples of their size, counted from the sequence's
// first key, so a tile lies in one block of the paged cache.
// A block has 256 threads, as 16 x 16: thread (x, y) owns rows y + 16 i, and of them the keys x + 16 j (scores) or columns 4 x + 64 c + e (sums).
// A row belongs to 16 lanes of one warp, which reduce it by shuffles.
// In shared memory rows are d rounded up to 64 * Slices plus 4 floats apart: eight lanes that read 16 bytes of eight rows meet 32 banks.
#ifndef LOWRANK_CUDA_OPS_ATTENTION_TILE_CUH
#define LOWRANK_CUDA_OPS_ATTENTION_TILE_CUH
#include "../device/indices.cuh"
#include "../device/reduce.cuh"
#include "../device/shared.cuh"

namespace lr {

struct AttentionView {
  const float *q, *k, *v;
  Sequences sequences;
  const Finding* found;
  int64_t tokens;
  int heads, kv_heads, group, d, padded; // padded: d rounded up to 4
  float scale, softcap;
  int window;
  bool vectors; // every head begins at a multiple of 4 elements, 16 bytes of float32
  bool bf16_cache; // k and v are pools in bf16
};

// Of checked arguments; `found` is left to the entry.
AttentionView view_of(const lr_attention_args& args);

// Up to so many rows a sequence and kv head are decoding: attention.cu cuts their keys into parts.
constexpr int kFewQueries = 16;
inline bool has_few_queries(const lr_attention_args& args, const AttentionView& a) { return (int64_t)args.max_q * a.group <= kFewQueries; }

// What the gradient reads of the forward pass and of its output.
struct Gradient {
  const float *out, *dout, *lse;
  float* delta; // [T, H]: rowsum(dO ∘ O)
};
// delta, of dO as it is or rounded to bf16 as the products take it.
void enqueue_delta(const AttentionView& a, const Gradient& g, bool round);

// Slots of the grid for the tiles of cumulative counts `cu`, `per` rows each element: sequence s owns the slots from cu[s] * per / rows + s on,
// which are enough for its tiles whatever the counts are.
inline int64_t tile_slots(int64_t total, int64_t sequences, int64_t per, int rows) { return total * per / rows + sequences; }

struct TileStart {
  int64_t sequence, begin; // first row of the tile, counted from the sequence's first
};
__device__ __forceinline__ TileStart start_of(const int32_t* cu, int64_t sequences, int64_t per, int rows, int64_t slot) {
  const auto first = [&](int64_t s) { return cu[s] * per / rows + s; };
  const int64_t s = last_from(sequences, slot, first);
  return {s, (slot - first(s)) * rows};
}

// The rows of a tile of queries.
struct QueryTile {
  int64_t sequence, begin, kv_head;
  int count;
  __device__ QueryTile(const AttentionView& a, TileStart place, int64_t kv_head, int rows) : sequence(place.sequence), begin(place.begin), kv_head(kv_head) {
    const int64_t left = a.sequences.queries(sequence) * a.group - begin;
    count = left < 0 ? 0 : left < rows ? (int)left : rows;
  }
  // Number of the row's vector in a [T, H, D] tensor.
  __device__ int64_t vector(const AttentionView& a, int r) const {
    return (a.sequences.cu_q[sequence] + (begin + r) / a.group) * a.heads + kv_head * a.group + (begin + r) % a.group;
  }
  __device__ int64_t position(const AttentionView& a, int r) const { return a.sequences.offset(sequence) + (begin + r) / a.group; }
};

__device__ __forceinline__ bool sees(const AttentionView& a, int64_t position, int64_t key) {
  return key <= position && (a.window <= 0 || position - key < a.window);
}

// The keys that some query of a tile sees: [first, last).
__device__ __forceinline__ void visible_keys(const AttentionView& a, const QueryTile& tile, int64_t* first, int64_t* last) {
  const int64_t oldest = a.window > 0 ? tile.position(a, 0) - a.window + 1 : 0, end = tile.position(a, tile.count - 1) + 1;
  *first = oldest > 0 ? oldest : 0;
  *last = end < a.sequences.keys(tile.sequence) ? end : a.sequences.keys(tile.sequence);
}

// Rows of d values, times `factor`, to shared memory in float32; row(r) is where row r lies, NULL: zeros. Columns d to padded become zero.
template <int Pitch, class Row> __device__ __forceinline__ void load_rows(float* to, int rows, const AttentionView& a, float factor, Row row) {
  const int quads = a.padded / 4;
  for (int at = (int)threadIdx.x; at < rows * quads; at += (int)blockDim.x) {
    const int r = at / quads, c = at % quads * 4;
    const auto* from = row(r);
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (from && a.vectors) x = load4(from + c);
    else if (from) {
      x.x = to_float(from[c]);
      if (c + 1 < a.d) x.y = to_float(from[c + 1]);
      if (c + 2 < a.d) x.z = to_float(from[c + 2]);
      if (c + 3 < a.d) x.w = to_float(from[c + 3]);
    }
    store4(to + r * Pitch + c, make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor));
  }
}
// Keys [key, key + rows) of `kv`, which is k or v.
template <int Pitch, class T> __device__ __forceinline__ void load_keys(float* to, int rows, const AttentionView& a, const T* kv, int64_t sequence, int64_t kv_head, int64_t key) {
  const int64_t keys = a.sequences.keys(sequence);
  load_rows<Pitch>(to, rows, a, 1.0f, [&](int r) { return key + r < keys ? kv + (a.sequences.key_row(sequence, key + r) * a.kv_heads + kv_head) * a.d : nullptr; });
}
// The tile's rows of a [T, H, D] tensor.
template <int Pitch> __device__ __forceinline__ void load_queries(float* to, int rows, const AttentionView& a, const float* x, const QueryTile& tile, float factor) {
  load_rows<Pitch>(to, rows, a, factor, [&](int r) { return r < tile.count ? x + tile.vector(a, r) * a.d : nullptr; });
}

// s[i][j] = left row y + 16 i · right row x + 16 j.
template <int Pitch, int I, int J> __device__ __forceinline__ void row_products(float (&s)[I][J], const float* left, const float* right, int padded) {
  const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) s[i][j] = 0.0f;
  for (int c = 0; c < padded; c += 4) {
    float4 l[I], r[J];
#pragma unroll
    for (int i = 0; i < I; i++) l[i] = load4(left + (y + 16 * i) * Pitch + c);
#pragma unroll
    for (int j = 0; j < J; j++) r[j] = load4(right + (x + 16 * j) * Pitch + c);
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
      for (int j = 0; j < J; j++) s[i][j] = fmaf(l[i].w, r[j].w, fmaf(l[i].z, r[j].z, fmaf(l[i].y, r[j].y, fmaf(l[i].x, r[j].x, s[i][j]))));
  }
}

// o[i][c][e] += Σ_n p(i, n) right[n][4 x + 64 c + e], n in [0, count).
template <int Pitch, int I, int Slices, class P> __device__ __forceinline__ void add_weighted_rows(float (&o)[I][Slices][4], const float* right, int count, int padded, P p) {
  const int x = (int)threadIdx.x % 16;
  for (int n = 0; n < count; n++) {
    float weight[I];
#pragma unroll
    for (int i = 0; i < I; i++) weight[i] = p(i, n);
#pragma unroll
    for (int c = 0; c < Slices; c++) {
      if (4 * x + 64 * c >= padded) continue;
      const float4 r = load4(right + n * Pitch + 4 * x + 64 * c);
#pragma unroll
      for (int i = 0; i < I; i++) {
        o[i][c][0] = fmaf(weight[i], r.x, o[i][c][0]);
        o[i][c][1] = fmaf(weight[i], r.y, o[i][c][1]);
        o[i][c][2] = fmaf(weight[i], r.z, o[i][c][2]);
        o[i][c][3] = fmaf(weight[i], r.w, o[i][c][3]);
      }
    }
  }
}

// A row's columns of this thread, times `factor`, to a vector of d floats.
template <int Slices> __device__ __forceinline__ void store_row(float* to, const float (&o)[Slices][4], const AttentionView& a, float factor) {
  const int x = (int)threadIdx.x % 16;
#pragma unroll
  for (int c = 0; c < Slices; c++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (4 * x + 64 * c + e < a.d) to[4 * x + 64 * c + e] = o[c][e] * factor;
}

__device__ __forceinline__ float capped(const AttentionView& a, float score) { return a.softcap > 0.0f ? a.softcap * tanhf(score / a.softcap) : score; }

// Over the 16 lanes that share a row.
template <class Op> __device__ __forceinline__ float row_reduce(float x, Op op) {
  for (int lanes = 8; lanes > 0; lanes /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

// Calls body with the number of slices of 64 columns that heads of size d need, as a constant. On the host.
template <int N> struct Constant { static constexpr int value = N; };
template <class Body> void with_slices(int d, Body body) {
  if (d <= 64) body(Constant<1>());
  else if (d <= 128) body(Constant<2>());
  else if (d <= 256) body(Constant<4>());
  else body(Constant<8>());
}

}  // namespace lr
#endif
