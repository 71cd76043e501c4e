/* Gradient of attention in two passes of fixed order, without atomics: dQ by block of queries, then dK and dV by tile of keys. With
 * P = exp(score - lse) and delta = rowsum(dO ∘ O):  dV = Pᵀ dO,  dS = P ∘ (dO Vᵀ - delta) ∘ (1 - (score / softcap)²),
 * dQ = scale dS K,  dK = dSᵀ (scale Q). */
#ifndef LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#define LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#include "attention_block.h"

namespace LR_ISA { namespace {

struct AttentionGradScratch {
  float *q, *dout, *s, *ds, *kt, *vt, *a, *b; /* a and b [.., ld]: accumulators and packed keys */
};

/* s: scores -> P; ds: dO Vᵀ -> dS, for one row. Masked columns become zero. */
LR_INLINE void softmax_grad_row(float* s, float* ds, int64_t from, int64_t to, float lse, float delta, float softcap) {
  const VF shift = VF::set(lse), mean = VF::set(delta), one = VF::set(1.0f);
  const VF inverse = VF::set(softcap > 0 ? 1.0f / softcap : 0.0f);
  for (int64_t j = 0; j < kTileKeys; j += kLanes) {
    const VF score = VF::load(s + j), p = exp(score - shift), ratio = score * inverse;
    p.store(s + j);
    (p * (VF::load(ds + j) - mean) * (one - ratio * ratio)).store(ds + j);
  }
  mask_row(s, from, to, 0.0f);
  mask_row(ds, from, to, 0.0f);
}

/* P and dS of a block of queries (rows packed in w.q and w.dout) with the tile of keys in w.kt and w.vt. */
LR_INLINE void attention_grad_tile(const Attention& at, int64_t s, int64_t begin, int64_t kv_head, int64_t count, int64_t tile, const float* delta,
                                   const AttentionGradScratch& w) {
  at.scores(w.q, count, w.kt, w.s);
  tile_product(count, kTileKeys, at.d, w.dout, at.ld, 1, w.vt, kTileKeys, w.ds, kTileKeys, false);
  const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, at.key_count(s) - key);
  for (int64_t r = 0; r < count; r++) {
    const int64_t position = at.offset(s) + begin + r / at.group;
    int64_t from, to;
    at.visible_columns(position, key, keys, &from, &to);
    const int64_t head_row = at.row_offset(s, begin, kv_head, r) / at.d;
    softmax_grad_row(w.s + r * kTileKeys, w.ds + r * kTileKeys, from, to, ((const float*)at.args.lse.data)[head_row], delta[head_row],
                     at.args.softcap);
    /* With one visible key P is 1 and dS exactly 0: what rounding leaves of it, Adam would scale up to a full step. */
    if (position == 0 || at.args.window == 1) memset(w.ds + r * kTileKeys, 0, kTileKeys * sizeof(float));
  }
}

LR_INLINE void load_key_tile(const Attention& at, int64_t s, int64_t tile, int64_t kv_head, const AttentionGradScratch& w) {
  const int64_t keys = min64(kTileKeys, at.key_count(s) - tile * kTileKeys);
  transpose(at.key_tile(at.args.k, s, tile, kv_head), at.kv_stride(), keys, at.d, w.kt, kTileKeys, kTileKeys);
  transpose(at.key_tile(at.args.v, s, tile, kv_head), at.kv_stride(), keys, at.d, w.vt, kTileKeys, kTileKeys);
}

LR_INLINE void attention_dq_block(const Attention& at, QueryBlock block, int64_t kv_head, const float* delta, const AttentionGradScratch& w) {
  const int64_t s = block.sequence, begin = block.begin, end = min64(at.query_count(s), begin + at.block_q), count = (end - begin) * at.group;
  at.pack_rows(at.args.q, s, begin, kv_head, count, at.args.scale, w.q);
  at.pack_rows(at.args.dout, s, begin, kv_head, count, 1.0f, w.dout);
  memset(w.a, 0, (size_t)(count * at.ld) * sizeof(float));
  int64_t first, last;
  at.visible_tiles(s, begin, end, &first, &last);
  for (int64_t tile = first; tile < last; tile++) {
    load_key_tile(at, s, tile, kv_head, w);
    attention_grad_tile(at, s, begin, kv_head, count, tile, delta, w);
    const int64_t keys = min64(kTileKeys, at.key_count(s) - tile * kTileKeys);
    const float* k = at.key_tile(at.args.k, s, tile, kv_head);
    for (int64_t j = 0; j < keys; j++) pack_row(k + j * at.kv_stride(), at.d, w.b + j * at.ld, at.ld, VF::set(1.0f));
    tile_product(count, at.ld, keys, w.ds, kTileKeys, 1, w.b, at.ld, w.a, at.ld, true);
  }
  for (int64_t r = 0; r < count; r++) {
    float* out = (float*)at.args.dq.data + at.row_offset(s, begin, kv_head, r);
    for_vectors(0, at.d, [&](int64_t i, int64_t lanes) { store_lanes(VF::load(w.a + r * at.ld + i) * VF::set(at.args.scale), out + i, lanes); });
  }
}

LR_INLINE void attention_dkv_tile(const Attention& at, int64_t s, int64_t tile, int64_t kv_head, const float* delta, const AttentionGradScratch& w) {
  const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, at.key_count(s) - key), queries = at.query_count(s);
  load_key_tile(at, s, tile, kv_head, w);
  memset(w.a, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
  memset(w.b, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
  /* The queries that see a key of this tile stand at positions [key, key + keys - 1 + window). */
  const int64_t low = max64(0, key - at.offset(s)) / at.block_q * at.block_q;
  const int64_t high = at.args.window > 0 ? min64(queries, key + keys - 1 + at.args.window - at.offset(s)) : queries;
  for (int64_t begin = low; begin < high; begin += at.block_q) {
    const int64_t count = (min64(queries, begin + at.block_q) - begin) * at.group;
    at.pack_rows(at.args.q, s, begin, kv_head, count, at.args.scale, w.q);
    at.pack_rows(at.args.dout, s, begin, kv_head, count, 1.0f, w.dout);
    attention_grad_tile(at, s, begin, kv_head, count, tile, delta, w);
    tile_product(keys, at.ld, count, w.ds, 1, kTileKeys, w.q, at.ld, w.a, at.ld, true);
    tile_product(keys, at.ld, count, w.s, 1, kTileKeys, w.dout, at.ld, w.b, at.ld, true);
  }
  for (int64_t j = 0; j < keys; j++) {
    const int64_t to = ((at.cu_k[s] + key + j) * at.kv_heads + kv_head) * at.d;
    memcpy((float*)at.args.dk.data + to, w.a + j * at.ld, (size_t)at.d * sizeof(float));
    memcpy((float*)at.args.dv.data + to, w.b + j * at.ld, (size_t)at.d * sizeof(float));
  }
}

LR_INLINE void attention_delta(lr_queue* queue, const Attention& at, float* delta) {
  const float *out = (const float*)at.args.out.data, *dout = (const float*)at.args.dout.data;
  parallel_ranges(queue, at.tokens * at.heads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      VF sums = VF::zero();
      for_vectors(0, at.d, [&](int64_t i, int64_t lanes) {
        sums = fma(load_lanes(out + r * at.d + i, lanes), load_lanes(dout + r * at.d + i, lanes), sums);
      });
      delta[r] = sum(sums);
    }
  }, max64(1, kRange / at.d));
}

lr_error attention_grad(lr_queue* queue, const lr_attention_args* args) {
  const Attention at(*args);
  Check check("attention_grad");
  check_attention(check, *args);
  check_attention_grad(check, *args);
  if (check.failed) return check.error;
  Scratch scratch(queue);
  const int64_t max_tiles = ceil_div(args->k.shape[0], kTileKeys) + at.sequences;
  QueryBlock* blocks = scratch.take<QueryBlock>(at.max_blocks());
  QueryBlock* tiles = scratch.take<QueryBlock>(max_tiles);
  float* delta = scratch.take<float>(at.tokens * at.heads);
  const int64_t q_size = at.rows * at.ld, s_size = at.rows * kTileKeys, kt_size = at.ld * kTileKeys, a_size = max64(q_size, kt_size);
  const int64_t thread_size = 2 * q_size + 2 * s_size + 2 * kt_size + 2 * a_size;
  float* all = scratch.take<float>(queue->threads * thread_size);
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;
  auto part = [&](int32_t thread) {
    float *q = all + thread * thread_size, *dout = q + q_size, *s = dout + q_size, *ds = s + s_size, *kt = ds + s_size, *vt = kt + kt_size;
    return AttentionGradScratch{q, dout, s, ds, kt, vt, vt + kt_size, vt + kt_size + a_size};
  };
  attention_delta(queue, at, delta);
  const int64_t count = at.list_blocks(blocks);
  parallel_for(queue, count * at.kv_heads, [&](int64_t task, int32_t thread) {
    attention_dq_block(at, blocks[task / at.kv_heads], task % at.kv_heads, delta, part(thread));
  });
  int64_t tile_count = 0;
  for (int64_t s = 0; s < at.sequences; s++)
    for (int64_t tile = 0; tile * kTileKeys < at.key_count(s); tile++) tiles[tile_count++] = {(int32_t)s, (int32_t)tile};
  parallel_for(queue, tile_count * at.kv_heads, [&](int64_t task, int32_t thread) {
    const QueryBlock& tile = tiles[task / at.kv_heads];
    attention_dkv_tile(at, tile.sequence, tile.begin, task % at.kv_heads, delta, part(thread));
  });
  return success();
}

}}  // namespace LR_ISA
#endif
