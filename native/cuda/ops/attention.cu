// Causal attention with an online softmax (Dao 2023, FlashAttention-2), float32: tiles of keys are visited in ascending order with a running
// maximum and sum, S x S never exists. lse = log Σ exp(score) is kept for the gradient. Layout of tiles and threads: attention_tile.cuh.
//
//   head size   rows x keys   shared memory (q, one buffer for k then v, probabilities)
//   to 64       64 x 64       17 + 17 + 17 KiB
//   to 128      64 x 64       33 + 33 + 17 KiB
//   to 256      32 x 32       33 + 33 + 4.5 KiB
//   to 512      16 x 16       32 + 32 + 1.3 KiB          all below the 99 KiB that every architecture from 8.0 on grants
// The grid: slots of query tiles, the last first since they see most keys; kv heads; parts of the keys.
// Decoding (few rows a sequence) takes tiles of 16 rows, and where the grid would leave the device idle the keys are cut into parts, whose sums
// meet in scratch and are joined in order (Flash-Decoding, Dao et al. 2023). Tolerance: float32 sums in another order than the CPU's.
// Products of bf16 on tensor cores: attention_bf16.cu.
// hot: attention_kernel: 256 threads, 84224 bytes shared, 1 block
// hot: join_parts_kernel: 64 threads, 0 bytes shared, 16 blocks
#include "../table.cuh"
#include "attention_bf16.cuh"

namespace lr {
namespace {

constexpr float kLowest = -3.0e38f;

// What a part of the keys gives: out [part][T H][D] not yet divided, and its maximum and sum [part][T H][2].
struct Parts {
  float *out, *stats;
  int64_t count;
};

template <int Rows, int Keys, int Slices> constexpr size_t attention_shared() { return (size_t)((Rows + Keys) * (64 * Slices + 4) + Rows * (Keys + 1)) * sizeof(float); }

template <int Pitch> __device__ __forceinline__ void load_any_keys(float* to, int rows, const AttentionView& a, const float* kv, const QueryTile& tile, int64_t key) {
  if (a.bf16_cache) load_keys<Pitch>(to, rows, a, (const bf16*)kv, tile.sequence, tile.kv_head, key);
  else load_keys<Pitch>(to, rows, a, kv, tile.sequence, tile.kv_head, key);
}

template <int Rows, int Keys, int Slices> __global__ void attention_kernel(AttentionView a, float* out, float* lse, Parts parts) {
  LR_SHARED_MEMORY(memory);
  constexpr int kPitch = 64 * Slices + 4, kPitchP = Keys + 1, kI = Rows / 16, kJ = Keys / 16;
  float *q = (float*)memory, *kv = q + Rows * kPitch, *p = kv + Keys * kPitch;
  if (a.found->rule != kFine) return;
  const TileStart start = start_of(a.sequences.cu_q, a.sequences.count, a.group, Rows, (int64_t)gridDim.x - 1 - blockIdx.x);
  const QueryTile tile(a, start, blockIdx.y, Rows);
  if (tile.count == 0) return;
  const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
  load_queries<kPitch>(q, Rows, a, a.q, tile, a.scale);
  float o[kI][Slices][4] = {}, top[kI], total[kI] = {};
  int64_t position[kI];
#pragma unroll
  for (int i = 0; i < kI; i++) {
    top[i] = kLowest;
    position[i] = tile.position(a, y + 16 * i);
  }
  int64_t first, last;
  visible_keys(a, tile, &first, &last);
  const int64_t first_tile = first / Keys, tiles = last > first ? (last + Keys - 1) / Keys - first_tile : 0;
  const int64_t from = first_tile + tiles * blockIdx.z / parts.count, to = first_tile + tiles * (blockIdx.z + 1) / parts.count;
  for (int64_t key = from * Keys; key < to * Keys; key += Keys) {
    __syncthreads(); // the buffer's last readers are done
    load_any_keys<kPitch>(kv, Keys, a, a.k, tile, key);
    __syncthreads();
    float s[kI][kJ];
    row_products<kPitch>(s, q, kv, a.padded);
#pragma unroll
    for (int i = 0; i < kI; i++) {
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < kJ; j++) {
        s[i][j] = y + 16 * i < tile.count && sees(a, position[i], key + x + 16 * j) ? capped(a, s[i][j]) : -INFINITY;
        largest = fmaxf(largest, s[i][j]);
      }
      largest = row_reduce(largest, Max());
      const float factor = expf(top[i] - largest);
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kJ; j++) {
        const float probability = expf(s[i][j] - largest);
        p[(y + 16 * i) * kPitchP + x + 16 * j] = probability;
        sum += probability;
      }
      total[i] = total[i] * factor + row_reduce(sum, Add());
      top[i] = largest;
#pragma unroll
      for (int c = 0; c < Slices; c++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[i][c][e] *= factor;
    }
    __syncthreads();
    load_any_keys<kPitch>(kv, Keys, a, a.v, tile, key);
    __syncthreads();
    const int64_t left = a.sequences.keys(tile.sequence) - key;
    add_weighted_rows<kPitch>(o, kv, left < Keys ? (int)left : Keys, a.padded, [&](int i, int n) { return p[(y + 16 * i) * kPitchP + n]; });
  }
#pragma unroll
  for (int i = 0; i < kI; i++) {
    if (y + 16 * i >= tile.count) continue;
    const int64_t vector = tile.vector(a, y + 16 * i);
    if (parts.count > 1) {
      const int64_t at = blockIdx.z * a.tokens * a.heads + vector;
      store_row(parts.out + at * a.d, o[i], a, 1.0f);
      if (x == 0) parts.stats[2 * at] = top[i], parts.stats[2 * at + 1] = total[i];
      continue;
    }
    // total 0: a query that sees no key.
    store_row(out + vector * a.d, o[i], a, total[i] == 0.0f ? 0.0f : 1.0f / total[i]);
    if (lse && x == 0) lse[vector] = top[i] + logf(total[i]);
  }
}

// A block a row, a thread a column.
__global__ void join_parts_kernel(float* out, float* lse, Parts parts, const Finding* found, int64_t rows, int64_t d) {
  if (found->rule != kFine) return;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    float top = kLowest, total = 0.0f;
    for (int64_t part = 0; part < parts.count; part++) top = fmaxf(top, parts.stats[2 * (part * rows + row)]);
    for (int64_t part = 0; part < parts.count; part++) total += parts.stats[2 * (part * rows + row) + 1] * expf(parts.stats[2 * (part * rows + row)] - top);
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
      float sum = 0.0f;
      for (int64_t part = 0; part < parts.count; part++) sum += parts.out[(part * rows + row) * d + i] * expf(parts.stats[2 * (part * rows + row)] - top);
      out[row * d + i] = total == 0.0f ? 0.0f : sum / total;
    }
    if (lse && threadIdx.x == 0) lse[row] = top + logf(total);
  }
}

// Blocks that keep a device busy; beyond them cutting the keys gains nothing.
constexpr int64_t kBusy = 256;

}  // namespace

AttentionView view_of(const lr_attention_args& a) {
  const int64_t tokens = a.q.shape[0], heads = a.q.shape[1], d = a.q.shape[2], kv_heads = a.k.shape[a.k.rank - 2];
  return {(const float*)a.q.data,
          (const float*)a.k.data,
          (const float*)a.v.data,
          sequences_of(a.cu_q, a.cu_k, a.kv_len, a.block_table),
          nullptr,
          tokens,
          (int)heads,
          (int)kv_heads,
          (int)(heads / kv_heads),
          (int)d,
          (int)(d + 3) / 4 * 4,
          a.scale,
          a.softcap,
          a.window,
          d % 4 == 0 && aligned16(a.q.data) && aligned16(a.k.data) && aligned16(a.v.data),
          a.k.dtype == LR_BF16};
}

lr_error attention(lr_queue* queue, const lr_attention_args* args) {
  Check check("attention");
  check_attention(check, *args);
  if (check.failed) return check.error;
  AttentionView a = view_of(*args);
  if (a.kv_heads > 65535) return invalid("attention", "%d kv heads are more than the 65535 that this device takes", a.kv_heads);
  if (takes_bf16(*args, a)) return attention_bf16(queue, args, a);
  const int64_t vectors = a.tokens * a.heads;
  const bool few = has_few_queries(*args, a);
  // Parts of two tiles of 64 keys or more.
  const int64_t slots_of_few = tile_slots(a.tokens, a.sequences.count, a.group, 16), most_keys = a.sequences.block_table ? a.sequences.table_width * kPageSize : args->k.shape[0];
  const int64_t most = few && slots_of_few > 0 ? kBusy / (slots_of_few * a.kv_heads) : 1, wanted = (most_keys + 2 * kPageSize - 1) / (2 * kPageSize);
  Parts parts = {nullptr, nullptr, most < wanted ? most : wanted};
  if (parts.count < 1) parts.count = 1;
  if (queue->sizing) {
    queue->scratch_size = parts.count > 1 ? (size_t)(parts.count * vectors * (a.d + 2)) * sizeof(float) : 0;
    return success();
  }
  parts.out = (float*)queue->scratch;
  parts.stats = parts.out + (parts.count > 1 ? parts.count * vectors * a.d : 0);
  Finding* const found = next_finding(queue, check.op);
  a.found = found;
  enqueue_check(found, a.sequences, a.tokens, args->k.shape[0]);
  const auto run = [&](auto rows, auto keys, auto slices) {
    constexpr int kRows = decltype(rows)::value, kKeys = decltype(keys)::value, kSlices = decltype(slices)::value;
    const int64_t slots = tile_slots(a.tokens, a.sequences.count, a.group, kRows);
    if (vectors == 0 || slots == 0) return;
    LR_LAUNCH((attention_kernel<kRows, kKeys, kSlices>), dim3((unsigned)slots, (unsigned)a.kv_heads, (unsigned)parts.count), kThreads,
              (attention_shared<kRows, kKeys, kSlices>()), a, (float*)args->out.data, (float*)args->lse.data, parts);
  };
  with_slices(a.d, [&](auto slices) {
    constexpr int kSlices = decltype(slices)::value, kTile = kSlices <= 2 ? 64 : kSlices == 4 ? 32 : 16;
    if (few) run(Constant<kFewQueries>(), Constant<kTile>(), slices);
    else run(Constant<kTile>(), Constant<kTile>(), slices);
  });
  if (parts.count > 1 && vectors > 0)
    LR_LAUNCH(join_parts_kernel, blocks_for(vectors, 1), 64, 0, (float*)args->out.data, (float*)args->lse.data, parts, found, vectors, (int64_t)a.d);
  return finish(check.op);
}

}  // namespace lr
