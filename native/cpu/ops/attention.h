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
/* So few queries of a long sequence are shared out by their keys too: this many tiles are one task. A function of the position alone, so
 * that a token's bits depend neither on the threads nor on what else is in the batch. */
constexpr int64_t kPartTiles = 2;

/* Rows of a block for one kv head, while its tiles pass: Σ p V, the largest score and Σ p of each. */
struct AttentionSums {
  float *out, *maximum, *total;
};
struct AttentionScratch {
  float *q, *s, *kt, *v;
};

LR_INLINE void attention_tiles(const Attention& at, QueryBlock block, int64_t kv_head, int64_t first, int64_t last, const AttentionScratch& w,
                               const AttentionSums& sums) {
  const int64_t s = block.sequence, begin = block.begin, end = at.block_end(block);
  const int64_t count = (end - begin) * at.group, keys_total = at.key_count(s);
  at.pack_rows(at.args.q, s, begin, kv_head, count, at.args.scale, w.q);
  memset(sums.out, 0, (size_t)(count * at.ld) * sizeof(float));
  for (int64_t r = 0; r < count; r++) {
    sums.maximum[r] = kLowest;
    sums.total[r] = 0.0f;
  }
  for (int64_t tile = first; tile < last; tile++) {
    const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, keys_total - key);
    const int64_t columns = at.columns(s, end, key, keys);
    const float* k = at.key_tile(at.args.k, s, tile, kv_head);
    const float* v = at.key_tile(at.args.v, s, tile, kv_head);
    if (at.paged && count <= kFewQueries) {
      fetch_rows(v, at.kv_stride(), keys, at.d);
      for (int64_t r = 0; r < count; r++)
        row_products(w.q + r * at.ld, at.ld, k, at.kv_stride(), min64(keys, columns), at.d, w.s + r * kTileKeys);
      at.cap(count, columns, w.s);
      if (tile + 1 < last) fetch_rows(at.key_tile(at.args.k, s, tile + 1, kv_head), at.kv_stride(), kTileKeys, at.d);
    } else {
      transpose(k, at.kv_stride(), keys, at.d, w.kt, kTileKeys, kTileKeys);
      at.scores(w.q, count, w.kt, columns, w.s);
    }
    for (int64_t r = 0; r < count; r++) {
      int64_t from, to;
      at.visible_columns(at.offset(s) + begin + r / at.group, key, keys, &from, &to);
      mask_row(w.s + r * kTileKeys, columns, from, to, -__builtin_inff());
      const float factor = online_softmax_row(w.s + r * kTileKeys, columns, sums.maximum + r, sums.total + r);
      if (factor != 1.0f) scale_row(sums.out + r * at.ld, at.ld, factor);
    }
    int64_t ldv = at.kv_stride();
    if (at.ld != at.d) {
      for (int64_t j = 0; j < keys; j++) pack_row(v + j * ldv, at.d, w.v + j * at.ld, at.ld, VF::set(1.0f));
      v = w.v;
      ldv = at.ld;
    }
    tile_product(count, at.ld, min64(keys, columns), w.s, kTileKeys, 1, v, ldv, sums.out, at.ld, true);
  }
}

/* Writes the rows of a block from the sums of its parts, kFewQueries rows after each other. */
LR_INLINE void attention_write(const Attention& at, QueryBlock block, int64_t kv_head, const AttentionSums& sums, int64_t parts) {
  const int64_t s = block.sequence, count = (at.block_end(block) - block.begin) * at.group;
  for (int64_t r = 0; r < count; r++) {
    float maximum = sums.maximum[r], total = sums.total[r];
    float* out = sums.out + r * at.ld;
    for (int64_t part = 1; part < parts; part++) {
      const int64_t other = part * kFewQueries + r;
      const float now = sums.maximum[other] > maximum ? sums.maximum[other] : maximum;
      const float ours = exp_scalar(maximum - now), theirs = exp_scalar(sums.maximum[other] - now);
      for (int64_t i = 0; i < at.ld; i += kLanes)
        (VF::load(out + i) * VF::set(ours) + VF::load(sums.out + other * at.ld + i) * VF::set(theirs)).store(out + i);
      total = total * ours + sums.total[other] * theirs;
      maximum = now;
    }
    const int64_t to = at.row_offset(s, block.begin, kv_head, r);
    scale_row(out, at.ld, total == 0.0f ? 0.0f : 1.0f / total); /* 0: a query that sees no key */
    memcpy((float*)at.args.out.data + to, out, (size_t)at.d * sizeof(float));
    if (present(at.args.lse)) ((float*)at.args.lse.data)[to / at.d] = maximum + log_scalar(total);
  }
}

LR_INLINE int32_t attention_parts(const Attention& at, QueryBlock block) {
  const int64_t queries = at.query_count(block.sequence);
  if (!at.paged || queries > at.block_q || queries * at.group > kFewQueries) return 1;
  int64_t first, last;
  at.visible_tiles(block.sequence, block.begin, at.block_end(block), &first, &last);
  return (int32_t)max64(1, ceil_div(last - first, kPartTiles));
}

/* The tiles of one part of a block. Sums of split blocks lie in `shared`, parts of one kv head after each other; `slot` parts lie before the block's. */
struct AttentionTask {
  QueryBlock block;
  int32_t part, parts;
  int64_t slot;
};

LR_INLINE AttentionSums sums_from(const Attention& at, const AttentionSums& sums, int64_t row) {
  return {sums.out + row * at.ld, sums.maximum + row, sums.total + row};
}
LR_INLINE AttentionSums sums_of_part(const Attention& at, const AttentionSums& shared, const AttentionTask& task, int64_t kv_head, int64_t part) {
  return sums_from(at, shared, (task.slot * at.kv_heads + kv_head * task.parts + part) * kFewQueries);
}

lr_error attention(lr_queue* queue, const lr_attention_args* args) {
  const Attention at(*args);
  Check check("attention");
  check_attention(check, *args);
  if (check.failed) return check.error;
  Scratch scratch(queue);
  const int64_t threads = queue->threads, max_parts = at.paged ? at.sequences * ceil_div(args->block_table.shape[1], kPartTiles) : 0;
  QueryBlock* blocks = scratch.take<QueryBlock>(at.max_blocks());
  AttentionTask* tasks = scratch.take<AttentionTask>(at.max_blocks() + max_parts);
  const int64_t q_size = at.rows * at.ld, s_size = at.rows * kTileKeys, kt_size = at.ld * kTileKeys;
  float *q = scratch.take<float>(threads * q_size), *s = scratch.take<float>(threads * s_size);
  float *kt = scratch.take<float>(threads * kt_size), *v = scratch.take<float>(at.ld != at.d ? threads * kt_size : 0);
  const auto take_sums = [&](int64_t rows) -> AttentionSums { return {scratch.take<float>(rows * at.ld), scratch.take<float>(rows), scratch.take<float>(rows)}; };
  const AttentionSums whole = take_sums(threads * at.rows), shared = take_sums(max_parts * at.kv_heads * kFewQueries);
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;

  const int64_t block_count = at.list_blocks(blocks);
  int64_t count = 0, slots = 0;
  for (int64_t b = 0; b < block_count; b++) {
    const int32_t parts = attention_parts(at, blocks[b]);
    for (int32_t part = 0; part < parts; part++) tasks[count++] = {blocks[b], part, parts, slots};
    if (parts > 1) slots += parts;
  }
  parallel_for(queue, count * at.kv_heads, [&](int64_t i, int32_t thread) {
    const AttentionTask& task = tasks[i / at.kv_heads];
    const int64_t kv_head = i % at.kv_heads;
    const AttentionScratch w = {q + thread * q_size, s + thread * s_size, kt + thread * kt_size, at.ld != at.d ? v + thread * kt_size : nullptr};
    const AttentionSums sums = task.parts == 1 ? sums_from(at, whole, thread * at.rows) : sums_of_part(at, shared, task, kv_head, task.part);
    int64_t first, last;
    at.visible_tiles(task.block.sequence, task.block.begin, at.block_end(task.block), &first, &last);
    if (task.parts > 1) {
      first += task.part * kPartTiles;
      last = min64(last, first + kPartTiles);
    }
    attention_tiles(at, task.block, kv_head, first, last, w, sums);
    if (task.parts == 1) attention_write(at, task.block, kv_head, sums, 1);
  });
  if (slots == 0) return success();
  parallel_for(queue, count * at.kv_heads, [&](int64_t i, int32_t) {
    const AttentionTask& task = tasks[i / at.kv_heads];
    const int64_t kv_head = i % at.kv_heads;
    if (task.parts > 1 && task.part == 0) attention_write(at, task.block, kv_head, sums_of_part(at, shared, task, kv_head, 0), task.parts);
  });
  return success();
}

}}  // namespace LR_ISA
#endif
