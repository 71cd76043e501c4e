// Gradient of attention in two passes of fixed order, without atomics (float32): dQ by tile of queries, then dK and dV by tile of keys. With
// P = exp(score - lse) and delta = rowsum(dO ∘ O):  dV = Pᵀ dO,  dS = P ∘ (dO Vᵀ - delta) ∘ (1 - (score / softcap)²),
// dQ = scale dS K,  dK = dSᵀ (scale Q).  Layout of tiles and threads: attention_tile.cuh.
//
//   head size   tile      shared memory, dQ (q, dO, one buffer for v then k, dS)   dK and dV (k, v, q, dO, P, dS)
//   to 64       32 x 32   3 x 8.5 + 4.1 KiB                                       4 x 8.5 + 8.3 KiB
//   to 128      32 x 32   3 x 16.5 + 4.1 KiB                                      4 x 16.5 + 8.3 KiB
//   to 256      16 x 16   3 x 16.3 + 1.1 KiB                                      4 x 16.3 + 2.1 KiB
//   to 512      16 x 16   3 x 32.3 + 1.1 KiB                                      q and dO share a buffer: 3 x 32.3 + 2.1 KiB, 98.9 KiB
// Tolerance: float32 sums in another order than the CPU's. Products of bf16 on tensor cores: attention_grad_bf16.cu.
// hot: attention_dq_kernel: 256 threads, 100160 bytes shared, 1 block
// hot: attention_dkv_kernel: 256 threads, 101248 bytes shared, 1 block
// hot: attention_delta_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../table.cuh"
#include "attention_bf16.cuh"

namespace lr {
namespace {

// A warp a row.
template <bool Round> __global__ void attention_delta_kernel(Gradient g, const Finding* found, int64_t rows, int64_t d) {
  if (found->rule != kFine) return;
  const int lane = (int)threadIdx.x % kWarpSize, warps = (int)blockDim.x / kWarpSize;
  for (int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / kWarpSize; row < rows; row += (int64_t)gridDim.x * warps) {
    float sum = 0.0f;
    for (int64_t i = lane; i < d; i += kWarpSize) sum = fmaf(g.out[row * d + i], Round ? round_bf16(g.dout[row * d + i]) : g.dout[row * d + i], sum);
    sum = warp_reduce(sum, Add());
    if (lane == 0) g.delta[row] = sum;
  }
}

// s: scores -> P; ds: dO Vᵀ -> dS, of this thread's rows of queries and keys from `key` on.
template <int I, int J>
__device__ __forceinline__ void softmax_grad(const AttentionView& a, const Gradient& g, const QueryTile& tile, int64_t key, float (&s)[I][J], float (&ds)[I][J]) {
  const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
  const int64_t keys = a.sequences.keys(tile.sequence);
#pragma unroll
  for (int i = 0; i < I; i++) {
    const bool inside = y + 16 * i < tile.count;
    const int64_t position = tile.position(a, y + 16 * i), vector = inside ? tile.vector(a, y + 16 * i) : 0;
    const float lse = inside ? g.lse[vector] : 0.0f, delta = inside ? g.delta[vector] : 0.0f;
    // With one visible key P is 1 and dS exactly 0: what rounding leaves of it, Adam would scale up to a full step.
    const bool alone = position == 0 || a.window == 1;
#pragma unroll
    for (int j = 0; j < J; j++) {
      const int64_t at = key + x + 16 * j;
      const bool visible = inside && at < keys && sees(a, position, at);
      const float score = capped(a, s[i][j]), p = visible ? expf(score - lse) : 0.0f, ratio = a.softcap > 0.0f ? score / a.softcap : 0.0f;
      ds[i][j] = visible && !alone ? p * (ds[i][j] - delta) * (1.0f - ratio * ratio) : 0.0f;
      s[i][j] = p;
    }
  }
}

template <int I, int J, int Pitch> __device__ __forceinline__ void store_tile(float* to, const float (&s)[I][J]) {
  const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) to[(y + 16 * i) * Pitch + x + 16 * j] = s[i][j];
}

template <int Tile, int Slices> __global__ void attention_dq_kernel(AttentionView a, Gradient g, float* dq) {
  LR_SHARED_MEMORY(memory);
  constexpr int kPitch = 64 * Slices + 4, kPitchS = Tile + 1, kI = Tile / 16;
  float *q = (float*)memory, *dout = q + Tile * kPitch, *kv = dout + Tile * kPitch, *ds = kv + Tile * kPitch;
  if (a.found->rule != kFine) return;
  const QueryTile tile(a, start_of(a.sequences.cu_q, a.sequences.count, a.group, Tile, (int64_t)gridDim.x - 1 - blockIdx.x), blockIdx.y, Tile);
  if (tile.count == 0) return;
  const int y = (int)threadIdx.x / 16;
  load_queries<kPitch>(q, Tile, a, a.q, tile, a.scale);
  load_queries<kPitch>(dout, Tile, a, g.dout, tile, 1.0f);
  float o[kI][Slices][4] = {};
  int64_t first, last;
  visible_keys(a, tile, &first, &last);
  for (int64_t key = first / Tile * Tile; key < last; key += Tile) {
    float s[kI][kI], d[kI][kI];
    __syncthreads();
    load_keys<kPitch>(kv, Tile, a, a.v, tile.sequence, tile.kv_head, key);
    __syncthreads();
    row_products<kPitch>(d, dout, kv, a.padded);
    __syncthreads();
    load_keys<kPitch>(kv, Tile, a, a.k, tile.sequence, tile.kv_head, key);
    __syncthreads();
    row_products<kPitch>(s, q, kv, a.padded);
    softmax_grad(a, g, tile, key, s, d);
    store_tile<kI, kI, kPitchS>(ds, d);
    __syncwarp(); // a row's writers and readers are lanes of one warp
    const int64_t left = a.sequences.keys(tile.sequence) - key;
    add_weighted_rows<kPitch>(o, kv, left < Tile ? (int)left : Tile, a.padded, [&](int i, int n) { return ds[(y + 16 * i) * kPitchS + n]; });
    __syncwarp();
  }
#pragma unroll
  for (int i = 0; i < kI; i++)
    if (y + 16 * i < tile.count) store_row(dq + tile.vector(a, y + 16 * i) * a.d, o[i], a, a.scale);
}

template <int Tile, int Slices> constexpr bool kOneBuffer = Slices == 8; // for q and dO

template <int Tile, int Slices> __global__ void attention_dkv_kernel(AttentionView a, Gradient g, float* dk, float* dv) {
  LR_SHARED_MEMORY(memory);
  constexpr int kPitch = 64 * Slices + 4, kPitchS = Tile + 1, kI = Tile / 16;
  constexpr bool kShared = kOneBuffer<Tile, Slices>;
  float *k = (float*)memory, *v = k + Tile * kPitch, *q = v + Tile * kPitch, *dout = kShared ? q : q + Tile * kPitch;
  float *p = dout + Tile * kPitch, *ds = p + Tile * kPitchS;
  if (a.found->rule != kFine) return;
  const TileStart start = start_of(a.sequences.cu_k, a.sequences.count, 1, Tile, blockIdx.x);
  const int64_t s = start.sequence, key = start.begin, keys = a.sequences.keys(s), kv_head = blockIdx.y;
  if (key >= keys) return;
  const int y = (int)threadIdx.x / 16;
  load_keys<kPitch>(k, Tile, a, a.k, s, kv_head, key);
  load_keys<kPitch>(v, Tile, a, a.v, s, kv_head, key);
  float sum_k[kI][Slices][4] = {}, sum_v[kI][Slices][4] = {};
  // The queries that see a key of this tile stand at positions [key, key + Tile - 1 + window).
  const int64_t offset = a.sequences.offset(s), queries = a.sequences.queries(s);
  const int64_t low = key > offset ? (key - offset) * a.group / Tile * Tile : 0, end = key + Tile - 1 + a.window - offset;
  const int64_t high = (a.window > 0 && end < queries ? end : queries) * a.group;
  for (int64_t begin = low; begin < high; begin += Tile) {
    const QueryTile tile(a, {s, begin}, kv_head, Tile);
    float scores[kI][kI], d[kI][kI];
    const auto load_q = [&] { load_queries<kPitch>(q, Tile, a, a.q, tile, a.scale); };
    const auto load_dout = [&] { load_queries<kPitch>(dout, Tile, a, g.dout, tile, 1.0f); };
    __syncthreads();
    load_dout();
    if (!kShared) load_q();
    __syncthreads();
    row_products<kPitch>(d, dout, v, a.padded);
    if (kShared) {
      __syncthreads();
      load_q();
      __syncthreads();
    }
    row_products<kPitch>(scores, q, k, a.padded);
    softmax_grad(a, g, tile, key, scores, d);
    store_tile<kI, kI, kPitchS>(p, scores);
    store_tile<kI, kI, kPitchS>(ds, d);
    __syncthreads();
    // From here on this thread owns keys y + 16 i.
    add_weighted_rows<kPitch>(sum_k, q, tile.count, a.padded, [&](int i, int n) { return ds[n * kPitchS + y + 16 * i]; });
    if (kShared) {
      __syncthreads();
      load_dout();
      __syncthreads();
    }
    add_weighted_rows<kPitch>(sum_v, dout, tile.count, a.padded, [&](int i, int n) { return p[n * kPitchS + y + 16 * i]; });
  }
#pragma unroll
  for (int i = 0; i < kI; i++) {
    if (key + y + 16 * i >= keys) continue;
    const int64_t vector = a.sequences.key_row(s, key + y + 16 * i) * a.kv_heads + kv_head;
    store_row(dk + vector * a.d, sum_k[i], a, 1.0f);
    store_row(dv + vector * a.d, sum_v[i], a, 1.0f);
  }
}

}  // namespace

void enqueue_delta(const AttentionView& a, const Gradient& g, bool round) {
  const int64_t rows = a.tokens * a.heads, d = a.d;
  if (rows == 0) return;
  const unsigned blocks = blocks_for(rows, kThreads / kWarpSize);
  if (round) LR_LAUNCH(attention_delta_kernel<true>, blocks, kThreads, 0, g, a.found, rows, d);
  else LR_LAUNCH(attention_delta_kernel<false>, blocks, kThreads, 0, g, a.found, rows, d);
}

lr_error attention_grad(lr_queue* queue, const lr_attention_args* args) {
  Check check("attention_grad");
  check_attention(check, *args);
  check_attention_grad(check, *args);
  if (check.failed) return check.error;
  AttentionView a = view_of(*args);
  if (a.kv_heads > 65535) return invalid("attention_grad", "%d kv heads are more than the 65535 that this device takes", a.kv_heads);
  if (takes_bf16(*args, a)) return attention_grad_bf16(queue, args, a);
  const int64_t rows = a.tokens * a.heads, keys = args->k.shape[0];
  if (queue->sizing) {
    queue->scratch_size = (size_t)rows * sizeof(float);
    return success();
  }
  a.vectors = a.vectors && aligned16(args->dout.data);
  const Gradient g = {(const float*)args->out.data, (const float*)args->dout.data, (const float*)args->lse.data, (float*)queue->scratch};
  Finding* const found = next_finding(queue, check.op);
  a.found = found;
  enqueue_check(found, a.sequences, a.tokens, keys);
  enqueue_delta(a, g, false);
  with_slices(a.d, [&](auto slices) {
    constexpr int kSlices = decltype(slices)::value, kTile = kSlices <= 2 ? 32 : 16;
    constexpr size_t kRow = (64 * kSlices + 4) * sizeof(float), kScores = kTile * (kTile + 1) * sizeof(float);
    const dim3 by_queries((unsigned)tile_slots(a.tokens, a.sequences.count, a.group, kTile), (unsigned)a.kv_heads);
    const dim3 by_keys((unsigned)tile_slots(keys, a.sequences.count, 1, kTile), (unsigned)a.kv_heads);
    if (rows > 0) LR_LAUNCH((attention_dq_kernel<kTile, kSlices>), by_queries, kThreads, 3 * kTile * kRow + kScores, a, g, (float*)args->dq.data);
    if (keys > 0)
      LR_LAUNCH((attention_dkv_kernel<kTile, kSlices>), by_keys, kThreads, (kOneBuffer<kTile, kSlices> ? 3 : 4) * kTile * kRow + 2 * kScores, a, g,
                (float*)args->dk.data, (float*)args->dv.data);
  });
  return finish(check.op);
}

}  // namespace lr
