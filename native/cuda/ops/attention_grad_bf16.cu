// Gradient of attention by products of bf16 on tensor cores, in two passes of fixed order, without atomics: the formulas of attention_grad.cu, the tiles
// of attention_bf16.cuh. q, k, v and dO are laid out as bf16 before.
//
// dQ: a block of 4 warps has 128 rows of queries, 32 a warp; tiles of 32 keys pass. Keys come while dO Vᵀ is formed, the next values meanwhile.
// dK and dV: a block of 4 warps has 64 keys, 16 a warp, and forms Pᵀ and dSᵀ; tiles of 64 rows of queries pass. q comes while V dOᵀ is formed, the next
// dO while dK is summed. What is asked of a row (its vector, position, lse, delta) lies in shared memory, for two tiles.
//   head size   shared memory, dQ (q, dO, k, v, rows)   dK and dV (k, v, q, dO, rows)
//   to 64       2 x 16 + 2 x 4 + 1 KiB                  4 x 8 + 2.5 KiB
//   to 128      2 x 32 + 2 x 8 + 1 KiB                  4 x 16 + 2.5 KiB
// A warp and tile of 128 columns: dQ 192 mma.sync and 40 KiB out of shared memory, dK and dV 256 and 72 KiB.
// P and dS take 15 issue slots a score: exp 8, factor, three differences, three products.
// hot: attention_dq_bf16_kernel: 128 threads, 82944 bytes shared, 1 block
// hot: attention_dkv_bf16_kernel: 128 threads, 68112 bytes shared, 1 block
//   two where a multiprocessor has more than 100 KiB (8.0, 9.0, 10.0), and of 64 columns everywhere
// Tolerance: P and dS are rounded to bf16 once more than the reference, so 2^-9 of a term at most.
#include "../table.cuh"
#include "attention_bf16.cuh"

namespace lr {
namespace {

struct LaidGradient {
  const bf16 *q, *k, *v, *dout;
};

// s: a score -> P; ds: dO·v -> dS. `lse` in units of log 2.
__device__ __forceinline__ void softmax_grad(const Scores& score, float& s, float& ds, bool visible, bool alone, float lse, float delta) {
  const float p = visible ? exp2_approx(s - lse) : 0.0f;
  // With one visible key dS is exactly 0: see attention_grad.cu.
  ds = visible && !alone ? p * (ds - delta) * score.slope(s) : 0.0f;
  s = p;
}
__device__ __forceinline__ bool sees_one(const AttentionView& a, int position) { return position == 0 || a.window == 1; }

constexpr int kRowsQ = 128, kKeysQ = 32, kMQ = kRowsQ / kWarpsBf16 / 16;
template <int D> constexpr size_t shared_dq() { return 2 * (kRowsQ + kKeysQ) * kRowBytes<D> + kRowsQ * sizeof(int64_t); }

template <int D> __global__ void __launch_bounds__(kBlockBf16, 2) attention_dq_bf16_kernel(AttentionView a, LaidGradient laid, Gradient g, float* dq) {
  LR_SHARED_MEMORY(memory);
  unsigned char *const q = memory, *const dout = q + kRowsQ * kRowBytes<D>, *const k = dout + kRowsQ * kRowBytes<D>, *const v = k + kKeysQ * kRowBytes<D>;
  int64_t* const vectors = (int64_t*)(v + kKeysQ * kRowBytes<D>);
  if (a.found->rule != kFine) return;
  const QueryTile tile(a, start_of(a.sequences.cu_q, a.sequences.count, a.group, kRowsQ, (int64_t)gridDim.x - 1 - blockIdx.x), blockIdx.y, kRowsQ);
  if (tile.count == 0) return;
  note_vectors<kRowsQ>(vectors, a, tile);
  __syncthreads();
  copy_queries<D, kRowsQ>(q, laid.q, vectors);
  copy_queries<D, kRowsQ>(dout, laid.dout, vectors);
  const int warp_row = (int)threadIdx.x / kWarpSize * 16 * kMQ;
  const int first_position = (int)tile.position(a, warp_row), last_position = (int)tile.position(a, warp_row + 16 * kMQ - 1);
  float sum[kMQ][D / 8][4] = {}, lse[kMQ][2], delta[kMQ][2];
  int position[kMQ][2];
#pragma unroll
  for (int m = 0; m < kMQ; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = warp_row + 16 * m + row_in_16(half);
      const int64_t vector = vectors[row];
      position[m][half] = (int)tile.position(a, row);
      lse[m][half] = vector >= 0 ? g.lse[vector] * kLog2E : 0.0f;
      delta[m][half] = vector >= 0 ? g.delta[vector] : 0.0f;
    }
  const Scores score(a);
  int64_t first, last;
  visible_keys(a, tile, &first, &last);
  const int end = (int)last;
  const Keys keys(a, tile.sequence);
  const auto fetch = [&](unsigned char* to, const bf16* from, int key) {
    keys.copy<D, kKeysQ>(to, a, from, key);
    copy_async_commit();
  };
  const auto arrive = [&] { // what was fetched is here, and everybody is done with what lies where the next bytes go
    copy_async_wait<0>();
    __syncthreads();
  };
  int key = (int)(first / kKeysQ * kKeysQ);
  fetch(v, laid.v, key);
  arrive();
  for (; key < end; key += kKeysQ) {
    const bool needed = warp_row < tile.count && any_seen(a, first_position, last_position, key, kKeysQ);
    fetch(k, laid.k, key);
    float s[kMQ][kKeysQ / 8][4], ds[kMQ][kKeysQ / 8][4];
    if (needed) tile_products<D>(ds, dout, warp_row, v);
    arrive();
    if (key + kKeysQ < end) fetch(v, laid.v, key + kKeysQ);
    if (needed) {
      tile_products<D>(s, q, warp_row, k);
      score(s);
      const bool all = all_seen(a, first_position, last_position, key, kKeysQ);
#pragma unroll
      for (int m = 0; m < kMQ; m++)
#pragma unroll
        for (int n = 0; n < kKeysQ / 8; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const bool visible = all || sees_key(a, position[m][e / 2], key + 8 * n + column_in_8(e % 2));
            softmax_grad(score, s[m][n][e], ds[m][n][e], visible, sees_one(a, position[m][e / 2]), lse[m][e / 2], delta[m][e / 2]);
          }
      add_weighted<D>(sum, ds, k);
    }
    arrive();
  }
#pragma unroll
  for (int m = 0; m < kMQ; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t vector = vectors[warp_row + 16 * m + row_in_16(half)];
      if (vector >= 0) store_sums<D>(dq + vector * a.d, sum[m], half, a.d, a.scale);
    }
}

constexpr int kKeysKV = 64, kRowsKV = 64, kN = kRowsKV / 8;

// Of the rows of a tile of queries; position -1: outside, `last` is the last inside.
struct QueryRows {
  int64_t vector[kRowsKV];
  int position[kRowsKV];
  float lse[kRowsKV], delta[kRowsKV];
  int last;
};
template <int D> constexpr size_t shared_dkv() { return 2 * (kKeysKV + kRowsKV) * kRowBytes<D> + 2 * sizeof(QueryRows); }

template <int D> __global__ void __launch_bounds__(kBlockBf16, 2) attention_dkv_bf16_kernel(AttentionView a, LaidGradient laid, Gradient g, float* dk, float* dv) {
  LR_SHARED_MEMORY(memory);
  unsigned char *const k = memory, *const v = k + kKeysKV * kRowBytes<D>, *const q = v + kKeysKV * kRowBytes<D>, *const dout = q + kRowsKV * kRowBytes<D>;
  QueryRows* const rows = (QueryRows*)(dout + kRowsKV * kRowBytes<D>);
  if (a.found->rule != kFine) return;
  const TileStart start = start_of(a.sequences.cu_k, a.sequences.count, 1, kKeysKV, blockIdx.x);
  const int sequence = (int)start.sequence, key = (int)start.begin;
  const Keys keys(a, sequence);
  if (key >= keys.count) return;
  // The queries that see a key of this tile stand at positions [key, key + kKeysKV - 1 + window).
  const int first_query = a.sequences.cu_q[sequence], queries = a.sequences.cu_q[sequence + 1] - first_query, offset = keys.count - queries;
  const int64_t end = (int64_t)key + kKeysKV - 1 + a.window - offset;
  const int low = key > offset ? (key - offset) * a.group / kRowsKV * kRowsKV : 0, high = (a.window > 0 && end < queries ? (int)end : queries) * a.group;
  const int count = queries * a.group, tiles = high > low ? (high - low + kRowsKV - 1) / kRowsKV : 0;
  const auto note_rows = [&](QueryRows& of, int i) {
    const int r = (int)threadIdx.x, row = low + i * kRowsKV + r, query = row / a.group;
    if (r >= kRowsKV) return;
    const bool inside = row < count;
    if (row == count - 1 || (inside && r == kRowsKV - 1)) of.last = r;
    const int64_t vector = inside ? (int64_t)(first_query + query) * a.heads + (int)blockIdx.y * a.group + row % a.group : -1;
    of.vector[r] = vector;
    of.position[r] = inside ? offset + query : -1;
    of.lse[r] = inside ? g.lse[vector] * kLog2E : 0.0f;
    of.delta[r] = inside ? g.delta[vector] : 0.0f;
  };
  const auto fetch = [&](unsigned char* to, const bf16* from, const QueryRows& of) {
    copy_queries<D, kRowsKV>(to, from, of.vector);
    copy_async_commit();
  };
  const auto arrive = [&] { // what was fetched is here, and everybody is done with what lies where the next bytes go
    copy_async_wait<0>();
    __syncthreads();
  };
  keys.copy<D, kKeysKV>(k, a, laid.k, key);
  keys.copy<D, kKeysKV>(v, a, laid.v, key);
  note_rows(rows[0], 0);
  __syncthreads();
  fetch(dout, laid.dout, rows[0]);
  arrive();
  const int warp_row = (int)threadIdx.x / kWarpSize * 16, warp_key = key + warp_row;
  const Scores score(a);
  float sum_k[1][D / 8][4] = {}, sum_v[1][D / 8][4] = {};
  for (int i = 0; i < tiles; i++) {
    const QueryRows& now = rows[i % 2];
    const int first_position = now.position[0], last_position = now.position[now.last];
    const bool needed = warp_key < keys.count && any_seen(a, first_position, last_position, warp_key, 16), more = i + 1 < tiles;
    fetch(q, laid.q, now);
    if (more) note_rows(rows[(i + 1) % 2], i + 1);
    float s[1][kN][4], ds[1][kN][4];
    if (needed) tile_products<D>(ds, v, warp_row, dout);
    arrive();
    if (needed) {
      tile_products<D>(s, k, warp_row, q);
      score(s);
      const bool all = all_seen(a, first_position, last_position, warp_key, 16); // rows outside are zeros
#pragma unroll
      for (int n = 0; n < kN; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int row = 8 * n + column_in_8(e % 2), position = now.position[row];
          const bool visible = all || sees_key(a, position, warp_key + row_in_16(e / 2));
          softmax_grad(score, s[0][n][e], ds[0][n][e], visible, sees_one(a, position), now.lse[row], now.delta[row]);
        }
      add_weighted<D>(sum_v, s, dout);
    }
    __syncthreads(); // everybody is done with dO
    if (more) fetch(dout, laid.dout, rows[(i + 1) % 2]);
    if (needed) add_weighted<D>(sum_k, ds, q);
    arrive();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int mine = warp_key + row_in_16(half);
    if (mine >= keys.count) continue;
    const int64_t vector = (int64_t)(keys.first + mine) * a.kv_heads + blockIdx.y;
    store_sums<D>(dk + vector * a.d, sum_k[0], half, a.d, a.scale);
    store_sums<D>(dv + vector * a.d, sum_v[0], half, a.d, 1.0f);
  }
}

}  // namespace

lr_error attention_grad_bf16(lr_queue* queue, const lr_attention_args* args, AttentionView a) {
  const int64_t rows = a.tokens * a.heads, keys = args->k.shape[0], rows_kv = keys * a.kv_heads;
  lr_error error = success();
  with_columns(a.d, [&](auto columns) {
    constexpr int kD = decltype(columns)::value;
    Scratch scratch(queue);
    List<Laying> laying;
    const LaidGradient laid = {lay_heads(laying, scratch, a.q, rows, a.d, kD), lay_heads(laying, scratch, a.k, rows_kv, a.d, kD),
                               lay_heads(laying, scratch, a.v, rows_kv, a.d, kD), lay_heads(laying, scratch, args->dout.data, rows, a.d, kD)};
    const Gradient g = {(const float*)args->out.data, (const float*)args->dout.data, (const float*)args->lse.data, scratch.take<float>(rows)};
    laying.place(scratch);
    if (scratch.sizing()) return;
    Finding* const found = next_finding(queue, "attention_grad");
    a.found = found;
    enqueue_check(found, a.sequences, a.tokens, keys);
    enqueue_delta(a, g, true);
    enqueue_laying(laying, LR_MATH_BF16, {});
    const dim3 by_queries((unsigned)tile_slots(a.tokens, a.sequences.count, a.group, kRowsQ), (unsigned)a.kv_heads);
    const dim3 by_keys((unsigned)tile_slots(keys, a.sequences.count, 1, kKeysKV), (unsigned)a.kv_heads);
    if (rows > 0) LR_LAUNCH(attention_dq_bf16_kernel<kD>, by_queries, kBlockBf16, shared_dq<kD>(), a, laid, g, (float*)args->dq.data);
    if (keys > 0) LR_LAUNCH(attention_dkv_bf16_kernel<kD>, by_keys, kBlockBf16, shared_dkv<kD>(), a, laid, g, (float*)args->dk.data, (float*)args->dv.data);
    error = finish("attention_grad");
  });
  return error;
}

}  // namespace lr
