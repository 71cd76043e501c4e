/* Causal attention with an online softmax (Dao 2023, FlashAttention-2): per block of queries the tiles of keys are visited in ascending
 * order with a running maximum and sum; S x S never exists. lse = log Σ exp(score) is kept for the gradient. */
#ifndef LOWRANK_CPU_OPS_ATTENTION_H
#define LOWRANK_CPU_OPS_ATTENTION_H
#include "attention_block.h"

namespace LR_ISA { namespace {

/* One row of a tile: probabilities in place of scores; returns the factor for what was summed before. */
LR_INLINE float online_softmax_row(float* s, int64_t columns, float* maximum, float* total) {
  VF largest = VF::load(s);
  for (int64_t j = kLanes; j < columns; j += kLanes) largest = max(largest, VF::load(s + j));
  const float old = *maximum, seen = hmax(largest), now = seen > old ? seen : old;
  const VF shift = VF::set(now);
  VF sums = VF::zero();
  for (int64_t j = 0; j < columns; j += kLanes) {
    const VF p = exp(VF::load(s + j) - shift);
    p.store(s + j);
    sums = sums + p;
  }
  const float factor = now == old ? 1.0f : exp_scalar(old - now);
  *maximum = now;
  *total = *total * factor + sum(sums);
  return factor;
}

LR_INLINE void scale_row(float* x, int64_t n, float factor) {
  const VF f = VF::set(factor);
  for (int64_t i = 0; i < n; i += kLanes) (VF::load(x + i) * f).store(x + i);
}

/* With more, transposing the keys pays. From the cache only: the gradient forms scores again, and exp(score - lse) asks for the same bits. */
constexpr int64_t kFewQueries = 8;

struct AttentionScratch {
  float *q, *out, *s, *kt, *v, *maximum, *total;
};

LR_INLINE void attention_forward_block(const Attention& at, QueryBlock block, int64_t kv_head, const AttentionScratch& w) {
  const int64_t s = block.sequence, begin = block.begin, end = min64(at.query_count(s), begin + at.block_q);
  const int64_t count = (end - begin) * at.group, keys_total = at.key_count(s);
  at.pack_rows(at.args.q, s, begin, kv_head, count, at.args.scale, w.q);
  memset(w.out, 0, (size_t)(count * at.ld) * sizeof(float));
  for (int64_t r = 0; r < count; r++) {
    w.maximum[r] = kLowest;
    w.total[r] = 0.0f;
  }
  int64_t first, last;
  at.visible_tiles(s, begin, end, &first, &last);
  for (int64_t tile = first; tile < last; tile++) {
    const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, keys_total - key);
    const int64_t columns = at.columns(s, end, key, keys);
    const float* k = at.key_tile(at.args.k, s, tile, kv_head);
    if (at.paged && count <= kFewQueries) {
      for (int64_t r = 0; r < count; r++)
        row_products(w.q + r * at.ld, at.ld, k, at.kv_stride(), min64(keys, columns), at.d, w.s + r * kTileKeys);
      at.cap(count, columns, w.s);
    } else {
      transpose(k, at.kv_stride(), keys, at.d, w.kt, kTileKeys, kTileKeys);
      at.scores(w.q, count, w.kt, columns, w.s);
    }
    for (int64_t r = 0; r < count; r++) {
      int64_t from, to;
      at.visible_columns(at.offset(s) + begin + r / at.group, key, keys, &from, &to);
      mask_row(w.s + r * kTileKeys, columns, from, to, -__builtin_inff());
      const float factor = online_softmax_row(w.s + r * kTileKeys, columns, w.maximum + r, w.total + r);
      if (factor != 1.0f) scale_row(w.out + r * at.ld, at.ld, factor);
    }
    const float* v = at.key_tile(at.args.v, s, tile, kv_head);
    int64_t ldv = at.kv_stride();
    if (at.ld != at.d) {
      for (int64_t j = 0; j < keys; j++) pack_row(v + j * ldv, at.d, w.v + j * at.ld, at.ld, VF::set(1.0f));
      v = w.v;
      ldv = at.ld;
    }
    tile_product(count, at.ld, min64(keys, columns), w.s, kTileKeys, 1, v, ldv, w.out, at.ld, true);
  }
  for (int64_t r = 0; r < count; r++) {
    const int64_t to = at.row_offset(s, begin, kv_head, r);
    const float total = w.total[r]; /* 0: a query that sees no key */
    scale_row(w.out + r * at.ld, at.ld, total == 0.0f ? 0.0f : 1.0f / total);
    memcpy((float*)at.args.out.data + to, w.out + r * at.ld, (size_t)at.d * sizeof(float));
    if (present(at.args.lse)) ((float*)at.args.lse.data)[to / at.d] = w.maximum[r] + log_scalar(total);
  }
}

lr_error attention(lr_queue* queue, const lr_attention_args* args) {
  const Attention at(*args);
  Check check("attention");
  check_attention(check, *args);
  if (check.failed) return check.error;
  Scratch scratch(queue);
  QueryBlock* blocks = scratch.take<QueryBlock>(at.max_blocks());
  const int64_t threads = queue->threads;
  const int64_t q_size = at.rows * at.ld, s_size = at.rows * kTileKeys, kt_size = at.ld * kTileKeys;
  float *q = scratch.take<float>(threads * q_size), *out = scratch.take<float>(threads * q_size), *s = scratch.take<float>(threads * s_size);
  float *kt = scratch.take<float>(threads * kt_size), *v = scratch.take<float>(at.ld != at.d ? threads * kt_size : 0);
  float *maximum = scratch.take<float>(threads * at.rows), *total = scratch.take<float>(threads * at.rows);
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;
  const int64_t count = at.list_blocks(blocks);
  parallel_for(queue, count * at.kv_heads, [&](int64_t task, int32_t thread) {
    const AttentionScratch w = {q + thread * q_size, out + thread * q_size, s + thread * s_size, kt + thread * kt_size,
                                at.ld != at.d ? v + thread * kt_size : nullptr, maximum + thread * at.rows, total + thread * at.rows};
    attention_forward_block(at, blocks[task / at.kv_heads], task % at.kv_heads, w);
  });
  return success();
}

}}  // namespace LR_ISA
#endif
