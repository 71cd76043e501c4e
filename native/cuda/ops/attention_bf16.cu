// Causal attention with an online softmax (Dao 2023, FlashAttention-2) by products of bf16 on tensor cores: see attention_bf16.cuh, and attention.cu
// for the same in float32.
//
// A block of 4 warps has 128 rows of queries, 32 a warp; tiles of 32 keys and values pass through two buffers, one on its way while one is used: one
// barrier a tile. q is rounded as it is loaded, k and v are laid out before. With tiles of 64 keys the sums and scores of a warp would not fit in registers.
//   head size   shared memory (q, 2 x (k, v), rows)   a warp and tile
//   to 64       16 + 2 x 8 + 1.5 KiB                  64 mma.sync and 12 KiB out of shared memory
//   to 128      32 + 2 x 16 + 1.5 KiB                 128 and 24 KiB; 96 and 18 KiB for 96 columns, in rows of 128
// The softmax takes 17 issue slots a score: exp 8 (16 a clock and multiprocessor), factor, maximum, difference, sum, half a rounding, four of sums rescaled.
// hot: attention_bf16_kernel: 128 threads, 67072 bytes shared, 1 block
//   two where a multiprocessor has more than 100 KiB (8.0, 9.0, 10.0), and of 64 columns everywhere
// Tolerance: P is rounded to bf16 once more than the reference, so 2^-9 of a value at most.
#include "../table.cuh"
#include "attention_bf16.cuh"

namespace lr {
namespace {

constexpr int kRows = 128, kKeys = 32, kM = kRows / kWarpsBf16 / 16, kN = kKeys / 8;
constexpr float kLowest = -3.0e38f;

template <int D> constexpr size_t shared_bytes() { return (kRows + 4 * kKeys) * kRowBytes<D> + kRows * (sizeof(int64_t) + sizeof(int)); }

template <int D> __device__ __forceinline__ void load_queries_bf16(unsigned char* to, const AttentionView& a, const int64_t* vectors) {
  for (int at = (int)threadIdx.x; at < kRows * (D / 8); at += kBlockBf16) {
    const int r = at / (D / 8), chunk = at % (D / 8), left = vectors[r] >= 0 ? a.d - 8 * chunk : 0;
    float v[8];
    load_floats<8>(a.q + (left > 0 ? vectors[r] * a.d + 8 * chunk : 0), left < 0 ? 0 : left < 8 ? left : 8, v);
    store_chunk(to + chunk_at<kChunks<D>>(r, chunk), v);
  }
}

template <int D> __global__ void __launch_bounds__(kBlockBf16, 2) attention_bf16_kernel(AttentionView a, const bf16* laid_k, const bf16* laid_v, float* out, float* lse) {
  LR_SHARED_MEMORY(memory);
  constexpr int kTile = kKeys * kRowBytes<D>;
  unsigned char *const q = memory, *const buffers = q + kRows * kRowBytes<D>; // k and v, twice
  int64_t* const vectors = (int64_t*)(buffers + 4 * kTile);
  int* const positions = (int*)(vectors + kRows);
  if (a.found->rule != kFine) return;
  const QueryTile tile(a, start_of(a.sequences.cu_q, a.sequences.count, a.group, kRows, (int64_t)gridDim.x - 1 - blockIdx.x), blockIdx.y, kRows);
  if (tile.count == 0) return;
  note_vectors<kRows>(vectors, a, tile);
  for (int r = (int)threadIdx.x; r < kRows; r += kBlockBf16) positions[r] = (int)tile.position(a, r);
  __syncthreads();
  load_queries_bf16<D>(q, a, vectors);
  const int warp_row = (int)threadIdx.x / kWarpSize * 16 * kM;
  float o[kM][D / 8][4] = {}, top[kM][2], total[kM][2] = {};
#pragma unroll
  for (int m = 0; m < kM; m++) top[m][0] = top[m][1] = kLowest;
  const Scores score(a);
  int64_t first, last;
  visible_keys(a, tile, &first, &last);
  const int end = (int)last;
  const Keys keys(a, tile.sequence);
  const auto fetch = [&](unsigned char* to, int key) {
    keys.copy<D, kKeys>(to, a, laid_k, key);
    keys.copy<D, kKeys>(to + kTile, a, laid_v, key);
    copy_async_commit();
  };
  int key = (int)(first / kKeys * kKeys);
  if (key < end) fetch(buffers, key);
  for (int slot = 0; key < end; key += kKeys, slot ^= 1) {
    const unsigned char *const k = buffers + 2 * slot * kTile, *const v = k + kTile;
    copy_async_wait<0>();
    __syncthreads(); // this tile is here, and everybody is done with the one before it
    if (key + kKeys < end) fetch(buffers + 2 * (slot ^ 1) * kTile, key + kKeys);
    const int first_position = positions[warp_row], last_position = positions[warp_row + 16 * kM - 1];
    if (warp_row < tile.count && any_seen(a, first_position, last_position, key, kKeys)) {
      float s[kM][kN][4];
      tile_products<D>(s, q, warp_row, k);
      score(s);
      if (!all_seen(a, first_position, last_position, key, kKeys))
#pragma unroll
        for (int m = 0; m < kM; m++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int position = positions[warp_row + 16 * m + row_in_16(half)];
#pragma unroll
            for (int n = 0; n < kN; n++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                if (!sees_key(a, position, key + 8 * n + column_in_8(e))) s[m][n][2 * half + e] = -INFINITY;
          }
#pragma unroll
      for (int m = 0; m < kM; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float largest = top[m][half];
#pragma unroll
          for (int n = 0; n < kN; n++) largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
          for (int lanes = 1; lanes < 4; lanes *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
          const float factor = exp2_approx(top[m][half] - largest);
          top[m][half] = largest;
          total[m][half] *= factor; // of this thread's columns; the four threads of a row meet at the end
#pragma unroll
          for (int n = 0; n < kN; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) total[m][half] += s[m][n][2 * half + e] = exp2_approx(s[m][n][2 * half + e] - largest);
#pragma unroll
          for (int chunk = 0; chunk < D / 8; chunk++)
#pragma unroll
            for (int e = 0; e < 2; e++) o[m][chunk][2 * half + e] *= factor;
        }
      add_weighted<D>(o, s, v);
    }
  }
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = total[m][half];
      for (int lanes = 1; lanes < 4; lanes *= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
      const int64_t vector = vectors[warp_row + 16 * m + row_in_16(half)];
      if (vector < 0) continue;
      // sum 0: a query that sees no key.
      store_sums<D>(out + vector * a.d, o[m], half, a.d, sum == 0.0f ? 0.0f : 1.0f / sum);
      if (lse && threadIdx.x % 4 == 0) lse[vector] = top[m][half] * kLn2 + logf(sum);
    }
}

}  // namespace

lr_error attention_bf16(lr_queue* queue, const lr_attention_args* args, AttentionView a) {
  const int64_t rows_kv = args->k.shape[0] * a.kv_heads;
  lr_error error = success();
  with_columns(a.d, [&](auto columns) {
    constexpr int kD = decltype(columns)::value;
    Scratch scratch(queue);
    List<Laying> laying;
    const bf16* const k = lay_heads(laying, scratch, a.k, rows_kv, a.d, kD);
    const bf16* const v = lay_heads(laying, scratch, a.v, rows_kv, a.d, kD);
    laying.place(scratch);
    if (scratch.sizing()) return;
    Finding* const found = next_finding(queue, "attention");
    a.found = found;
    enqueue_check(found, a.sequences, a.tokens, args->k.shape[0]);
    enqueue_laying(laying, LR_MATH_BF16, {});
    const int64_t slots = tile_slots(a.tokens, a.sequences.count, a.group, kRows);
    if (a.tokens * a.heads > 0 && slots > 0)
      LR_LAUNCH(attention_bf16_kernel<kD>, dim3((unsigned)slots, (unsigned)a.kv_heads), kBlockBf16, shared_bytes<kD>(), a, k, v, (float*)args->out.data, (float*)args->lse.data);
    error = finish("attention");
  });
  return error;
}

}  // namespace lr
