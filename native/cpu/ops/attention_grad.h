/* Gradient of attention in one pass over the tiles of keys, without atomics. With P = exp(score - lse) and delta = rowsum(dO ∘ O):
 * dV = Pᵀ dO,  dS = P ∘ (dO Vᵀ - delta) ∘ (1 - (score / softcap)²),  dQ = scale dS K,  dK = dSᵀ (scale Q).
 * Every part of the tiles (tile t is in part t % parts) sums a dQ of its own, in ascending order; then these are added in order. How many
 * parts there are follows from the shapes alone. */
#ifndef LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#define LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#include "attention_block.h"

namespace LR_ISA { namespace {

struct AttentionGradScratch {
  float *q, *dout, *s, *ds, *kt, *vt, *k, *dk, *dv; /* the last three [kTileKeys, ld] */
};

/* s: scores -> P; ds: dO Vᵀ -> dS, for one row. Masked columns become zero. */
LR_INLINE void softmax_grad_row(float* s, float* ds, int64_t columns, int64_t from, int64_t to, float lse, float delta, float softcap) {
  const VF shift = VF::set(lse), mean = VF::set(delta), one = VF::set(1.0f);
  const VF inverse = VF::set(softcap > 0 ? 1.0f / softcap : 0.0f);
  for (int64_t j = 0; j < columns; j += kLanes) {
    const VF score = VF::load(s + j), p = exp(score - shift), ratio = score * inverse;
    p.store(s + j);
    (p * (VF::load(ds + j) - mean) * (one - ratio * ratio)).store(ds + j);
  }
  mask_row(s, columns, from, to, 0.0f);
  mask_row(ds, columns, from, to, 0.0f);
}

/* P and dS of a block of queries (rows packed in w.q and w.dout) with `columns` of the tile of keys in w.kt and w.vt. */
LR_INLINE void attention_grad_tile(const Attention& at, int64_t s, int64_t begin, int64_t kv_head, int64_t count, int64_t key, int64_t columns,
                                   const float* delta, const AttentionGradScratch& w) {
  at.scores(w.q, count, w.kt, columns, w.s);
  tile_product(count, columns, at.d, w.dout, at.ld, 1, w.vt, kTileKeys, w.ds, kTileKeys, false);
  const int64_t keys = min64(kTileKeys, at.key_count(s) - key);
  for (int64_t r = 0; r < count; r++) {
    const int64_t position = at.offset(s) + begin + r / at.group;
    int64_t from, to;
    at.visible_columns(position, key, keys, &from, &to);
    const int64_t head_row = at.row_offset(s, begin, kv_head, r) / at.d;
    float *p = w.s + r * kTileKeys, *ds = w.ds + r * kTileKeys;
    softmax_grad_row(p, ds, columns, from, to, ((const float*)at.args.lse.data)[head_row], delta[head_row], at.args.softcap);
    /* With one visible key P is 1 and dS exactly 0: what rounding leaves of it, Adam would scale up to a full step. */
    if (position == 0 || at.args.window == 1) memset(ds, 0, (size_t)columns * sizeof(float));
  }
}

/* dK and dV of one tile of keys, and what it adds to dQ: [queries of the sequence * group, ld]. */
LR_INLINE void attention_grad_keys(const Attention& at, int64_t s, int64_t tile, int64_t kv_head, const float* delta, float* dq, const AttentionGradScratch& w) {
  const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, at.key_count(s) - key), queries = at.query_count(s);
  const float* k = at.key_tile(at.args.k, s, tile, kv_head);
  transpose(k, at.kv_stride(), keys, at.d, w.kt, kTileKeys, kTileKeys);
  transpose(at.key_tile(at.args.v, s, tile, kv_head), at.kv_stride(), keys, at.d, w.vt, kTileKeys, kTileKeys);
  for (int64_t j = 0; j < keys; j++) pack_row(k + j * at.kv_stride(), at.d, w.k + j * at.ld, at.ld, VF::set(1.0f));
  memset(w.dk, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
  memset(w.dv, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
  /* The queries that see a key of this tile stand at positions [key, key + keys - 1 + window). */
  const int64_t low = max64(0, key - at.offset(s)) / at.block_q * at.block_q;
  const int64_t high = at.args.window > 0 ? min64(queries, key + keys - 1 + at.args.window - at.offset(s)) : queries;
  for (int64_t begin = low; begin < high; begin += at.block_q) {
    const int64_t end = min64(queries, begin + at.block_q), count = (end - begin) * at.group;
    const int64_t columns = at.columns(s, end, key, keys), seen = min64(keys, columns);
    at.pack_rows(at.args.q, s, begin, kv_head, count, at.args.scale, w.q);
    at.pack_rows(at.args.dout, s, begin, kv_head, count, 1.0f, w.dout);
    attention_grad_tile(at, s, begin, kv_head, count, key, columns, delta, w);
    tile_product(seen, at.ld, count, w.ds, 1, kTileKeys, w.q, at.ld, w.dk, at.ld, true);
    tile_product(seen, at.ld, count, w.s, 1, kTileKeys, w.dout, at.ld, w.dv, at.ld, true);
    tile_product(count, at.ld, seen, w.ds, kTileKeys, 1, w.k, at.ld, dq + begin * at.group * at.ld, at.ld, true);
  }
  for (int64_t j = 0; j < keys; j++) {
    const int64_t to = ((at.cu_k[s] + key + j) * at.kv_heads + kv_head) * at.d;
    memcpy((float*)at.args.dk.data + to, w.dk + j * at.ld, (size_t)at.d * sizeof(float));
    memcpy((float*)at.args.dv.data + to, w.dv + j * at.ld, (size_t)at.d * sizeof(float));
  }
}

/* Parts of the tiles of each sequence: enough tasks for many cores, but no more than 128 MB of dQ. */
LR_INLINE int64_t attention_grad_parts(const Attention& at) {
  const int64_t wanted = ceil_div(32, max64(1, at.kv_heads)), tiles = ceil_div(at.args.k.shape[0], kTileKeys);
  const int64_t room = (int64_t)(32 << 20) / max64(1, times(times(at.tokens, at.heads), at.ld));
  return max64(1, min64(min64(wanted, tiles), room));
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
  const int64_t parts = attention_grad_parts(at), dq_size = at.tokens * at.group * at.ld; /* of one part and kv head */
  float* delta = scratch.take<float>(at.tokens * at.heads);
  float* dq = scratch.take<float>(times(times(parts, at.kv_heads), dq_size));
  const int64_t q_size = at.rows * at.ld, s_size = at.rows * kTileKeys, kt_size = at.ld * kTileKeys;
  const int64_t thread_size = 2 * q_size + 2 * s_size + 5 * kt_size;
  float* all = scratch.take<float>(queue->threads * thread_size);
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;
  attention_delta(queue, at, delta);
  parallel_for(queue, at.sequences * at.kv_heads * parts, [&](int64_t task, int32_t thread) {
    const int64_t part = task % parts, kv_head = task / parts % at.kv_heads, s = task / parts / at.kv_heads;
    float *q = all + thread * thread_size, *dout = q + q_size, *scores = dout + q_size, *ds = scores + s_size, *kt = ds + s_size;
    const AttentionGradScratch w = {q, dout, scores, ds, kt, kt + kt_size, kt + 2 * kt_size, kt + 3 * kt_size, kt + 4 * kt_size};
    float* mine = dq + (part * at.kv_heads + kv_head) * dq_size + at.cu_q[s] * at.group * at.ld;
    memset(mine, 0, (size_t)(at.query_count(s) * at.group * at.ld) * sizeof(float));
    for (int64_t tile = part; tile * kTileKeys < at.key_count(s); tile += parts) attention_grad_keys(at, s, tile, kv_head, delta, mine, w);
  });
  parallel_ranges(queue, at.tokens * at.heads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const int64_t token = r / at.heads, head = r % at.heads;
      const float* from = dq + head / at.group * dq_size + (token * at.group + head % at.group) * at.ld;
      for_vectors(0, at.d, [&](int64_t i, int64_t lanes) {
        VF sum = VF::load(from + i);
        for (int64_t part = 1; part < parts; part++) sum = sum + VF::load(from + part * at.kv_heads * dq_size + i);
        store_lanes(sum * VF::set(at.args.scale), (float*)at.args.dq.data + r * at.d + i, lanes);
      });
    }
  }, max64(1, kRange / at.d));
  return success();
}

}}  // namespace LR_ISA
#endif
