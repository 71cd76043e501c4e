/* Causal attention with an online softmax (Dao 2023, FlashAttention-2): per block of queries the tiles of keys are visited in ascending
 * order with a running maximum and sum; S x S never exists. lse = log Σ exp(score) is kept for the gradient. Packed keys are laid out once for all
 * blocks, in float32 or pairs of bf16; those of the cache a tile at a time, in pairs where the cache is in bf16 too. */
#ifndef LOWRANK_CPU_OPS_ATTENTION_H
#define LOWRANK_CPU_OPS_ATTENTION_H
#include "attention_block.h"

namespace LR_ISA { namespace {

LR_INLINE void scale_row(float* x, int64_t n, float factor) {
  const VF f = VF::set(factor);
  for (int64_t i = 0; i < n; i += kLanes) (VF::load(x + i) * f).store(x + i);
}

/* Rows of a block for one kv head, while its tiles pass: Σ p V, what is subtracted from each score, and Σ p, lane by lane. */
struct AttentionSums {
  float *out, *shift, *total;
};
/* A row's shift follows its largest score only by steps above this: p may reach 2^12, and few rows are brought to new shifts (as in FlashAttention-4). */
constexpr float kShiftStep = 12.0f;

/* Rows [first, last) of a tile: products from s become probabilities of the columns that each row sees, a left operand, in their place. */
template <typename Operands>
LR_INLINE void online_softmax(const Attention& at, const RowsSeen& seen, int64_t first, int64_t last, int64_t columns, float* s, const AttentionSums& sums) {
  constexpr int kVectors = kTileKeys / kLanes;
  const Score score(at.args);
  const VF none = VF::set(-__builtin_inff());
  const int vectors = (int)(columns / kLanes);
  for (int64_t r = first; r < last; r++) {
    float *row = s + (r - first) * kTileKeys, *total = sums.total + r * kLanes;
    const ColumnsSeen of = seen(r);
    VF x[kVectors];
    const auto shifted = [&](float shift) {
      const VF by = VF::set(shift);
      VF largest = none;
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; v++) {
        x[v] = v < vectors ? only(score.above(score.bounded(VF::load(row + v * kLanes)), by), v * kLanes, of, -__builtin_inff()) : none;
        largest = max(x[v], largest);
      }
      return largest;
    };
    const float old = sums.shift[r];
    const bool begins = old == kLowest;
    VF largest = shifted(begins ? 0.0f : old);
    if (begins || any(VF::set(kShiftStep) < largest)) {
      if (!begins) largest = shifted(0.0f);
      const float now = hmax(max(largest, VF::set(kLowest)));
      for (VF& each : x) each = each - VF::set(now);
      sums.shift[r] = now;
      if (!begins) {
        const float factor = exp2_scalar(old - now);
        scale_row(sums.out + r * at.ld, at.ld, factor);
        scale_row(total, kLanes, factor);
      }
    }
    VF added = VF::load(total);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; v += 2)
      if (v < vectors) {
        const VF low = exp2(x[v]), high = exp2(x[v + 1]);
        added = added + low + high;
        Operands::store_left(low, high, row, v * kLanes);
      }
    added.store(total);
  }
}

/* With more keys of the cache are transposed. Packed keys always are, once for all blocks: the gradient asks for the same bits. */
constexpr int64_t kFewQueries = 8;
/* So few queries of a long sequence are shared out by their keys too: this many tiles are one task. A function of the position alone, so
 * that a token's bits depend neither on the threads nor on what else is in the batch. */
constexpr int64_t kPartTiles = 2;

/* Rows that pass through products, softmax and values while they are in the first cache. */
constexpr int64_t kRowsAtOnce = kProductRows > 1 ? 2 * kProductRows : 2 * kTileRows;
static_assert(kFewQueries <= kRowsAtOnce && kFewQueries <= kVectorRows, "few queries pass at once, by vectors");

struct AttentionScratch {
  float *q, *s, *keys, *values; /* s: of kRowsAtOnce rows; the last two for a tile of the cache */
};

/* A tile of keys and values as right operands: `keys` of a reduction over d, or as they lie, `key_stride` words apart; `values` of one over keys, in
 * rows of `ld` words. */
struct TileOperands {
  const float *keys, *values;
  int64_t ld, key_stride = 0;
};
/* Those of all tiles of packed keys. */
template <typename Operands> struct LaidKeys {
  float* data;
  int64_t keys_size, values_size;
  explicit LaidKeys(const Attention& at) : data(nullptr), keys_size(Operands::steps(at.d) * kTileKeys), values_size(Operands::steps(kTileKeys) * at.ld) {}
  int64_t size(const Attention& at) const { return at.paged ? 0 : at.max_tiles() * at.kv_heads * (keys_size + values_size); }
  float* of(const Attention& at, KeyTile tile, int64_t kv_head) const { return data + (at.slot(tile) * at.kv_heads + kv_head) * (keys_size + values_size); }
  void lay(const Attention& at, KeyTile tile, int64_t kv_head) const {
    const int64_t s = tile.sequence, keys = min64(kTileKeys, at.key_count(s) - tile.tile * kTileKeys);
    float* out = of(at, tile, kv_head);
    Operands::columns(at.key_tile(at.args.k, s, tile.tile, kv_head), at.kv_stride(), keys, at.d, out);
    Operands::stacked(keys, at.d, at.tile_rows(at.args.v, s, tile.tile, kv_head), out + keys_size);
  }
  TileOperands operator()(const Attention& at, KeyTile tile, int64_t kv_head) const {
    const float* mine = of(at, tile, kv_head);
    return {mine, mine + keys_size, at.ld};
  }
};

/* Tiles of the cache, as rows of words: values of float32 or pairs of bf16. */
template <typename Operands> struct CachedKeys {
  const Attention& at;
  int64_t d, stride; /* in words */
  bool widened;      /* from bf16, as this way has no pairs */
  explicit CachedKeys(const Attention& a) : at(a), d(Operands::words(a.d)), stride(a.kv_stride() / (Operands::kPairs ? 2 : 1)), widened(!Operands::kPairs && a.args.k.dtype == LR_BF16) {}
  int64_t keys_size() const { return at.ld * kTileKeys * (widened ? 2 : 1); }

  const float* rows(const lr_tensor& kv, int64_t s, int64_t tile, int64_t kv_head) const {
    return (const float*)((const char*)kv.data + at.tile_offset(s, tile, kv_head) * (int64_t)dtype_size(kv.dtype));
  }
  void fetch(const lr_tensor& kv, int64_t s, int64_t tile, int64_t keys, int64_t kv_head) const {
    if (!widened) fetch_rows(rows(kv, s, tile, kv_head), stride, keys, d);
  }
  /* A tile, its keys transposed unless `as_they_lie`. */
  TileOperands operator()(int64_t s, int64_t tile, int64_t keys, int64_t kv_head, bool as_they_lie, const AttentionScratch& w) const {
    const float *k = rows(at.args.k, s, tile, kv_head), *v = rows(at.args.v, s, tile, kv_head);
    int64_t k_stride = stride;
    if (widened) {
      widen(k, keys, w.keys + at.ld * kTileKeys);
      widen(v, keys, w.values);
      k = w.keys + at.ld * kTileKeys;
      k_stride = at.ld;
    }
    if (!as_they_lie) {
      transpose(k, k_stride, keys, d, w.keys, kTileKeys, kTileKeys);
      Operands::end_stack(at.d, kTileKeys, w.keys);
    }
    const float* mine = as_they_lie ? k : w.keys;
    if (widened) return {mine, w.values, at.ld, k_stride};
    if (as_they_lie) fetch_rows(v, stride, keys, d);
    if constexpr (Operands::kPairs) Operands::stacked_words(keys, at.d, v, stride, w.values);
    else if (at.ld == at.d) return {mine, v, stride, k_stride};
    else Operands::stacked(keys, at.d, at.tile_rows(at.args.v, s, tile, kv_head), w.values);
    return {mine, w.values, at.ld, k_stride};
  }
  /* bf16 rows become float32 rows of at.ld. */
  void widen(const void* from, int64_t keys, float* out) const {
    const uint16_t* row = (const uint16_t*)from;
    for (int64_t j = 0; j < keys; j++, row += at.kv_stride())
      for_vectors(0, at.d, [&](int64_t i, int64_t lanes) { load_any_lanes(row, LR_BF16, i, lanes).store(out + j * at.ld + i); });
  }
};

template <typename Operands>
LR_INLINE void attention_tiles(const Attention& at, QueryBlock block, int64_t kv_head, int64_t first, int64_t last, const LaidKeys<Operands>& laid,
                               const AttentionScratch& w, const AttentionSums& sums) {
  const int64_t s = block.sequence, begin = block.begin, end = at.block_end(block);
  const int64_t count = (end - begin) * at.group, keys_total = at.key_count(s);
  const bool few = at.paged && count <= kFewQueries;
  const CachedKeys<Operands> cached(at);
  const int64_t q_width = Operands::width(at.d);
  Operands::rows(count, at.d, at.block_rows(at.args.q, s, begin, kv_head), w.q);
  memset(sums.out, 0, (size_t)(count * at.ld) * sizeof(float));
  memset(sums.total, 0, (size_t)(count * kLanes) * sizeof(float));
  for (int64_t r = 0; r < count; r++) sums.shift[r] = kLowest;
  for (int64_t tile = first; tile < last; tile++) {
    const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, keys_total - key);
    const int64_t columns = at.columns(s, end, key, keys);
    const TileOperands operands = at.paged ? cached(s, tile, keys, kv_head, few, w) : laid(at, {(int32_t)s, (int32_t)tile}, kv_head);
    if (few) {
      for (int64_t r = 0; r < count; r++)
        row_products<Operands::kPairs>(w.q + r * q_width, q_width, operands.keys, operands.key_stride, min64(keys, columns), cached.d, w.s + r * kTileKeys);
      if (tile + 1 < last) cached.fetch(at.args.k, s, tile + 1, kTileKeys, kv_head);
    }
    const RowsSeen seen(at, block, key, keys);
    for (int64_t from = 0; from < count; from += kRowsAtOnce) {
      const int64_t to = min64(count, from + kRowsAtOnce);
      if (!few) at.products<Operands>(w.q + from * q_width, to - from, operands.keys, columns, w.s);
      online_softmax<Operands>(at, seen, from, to, columns, w.s, sums);
      tile_product<Operands::kPairs>(to - from, at.ld, Operands::steps(min64(keys, columns)), w.s, kTileKeys, 1, operands.values, operands.ld, sums.out + from * at.ld, at.ld, true);
    }
  }
}

/* Writes the rows of a block from the sums of its parts, kFewQueries rows after each other. */
LR_INLINE void attention_write(const Attention& at, QueryBlock block, int64_t kv_head, const AttentionSums& sums, int64_t parts) {
  const int64_t s = block.sequence, count = (at.block_end(block) - block.begin) * at.group;
  for (int64_t r = 0; r < count; r++) {
    float shift = sums.shift[r], total = sum(VF::load(sums.total + r * kLanes));
    float* out = sums.out + r * at.ld;
    for (int64_t part = 1; part < parts; part++) {
      const int64_t other = part * kFewQueries + r;
      const float now = sums.shift[other] > shift ? sums.shift[other] : shift;
      const float ours = exp2_scalar(shift - now), theirs = exp2_scalar(sums.shift[other] - now);
      for (int64_t i = 0; i < at.ld; i += kLanes)
        (VF::load(out + i) * VF::set(ours) + VF::load(sums.out + other * at.ld + i) * VF::set(theirs)).store(out + i);
      total = total * ours + sum(VF::load(sums.total + other * kLanes)) * theirs;
      shift = now;
    }
    const int64_t head_row = at.head_row(s, block.begin, kv_head, r);
    scale_row(out, at.ld, total == 0.0f ? 0.0f : 1.0f / total); /* 0: a query that sees no key */
    memcpy((float*)at.args.out.data + head_row * at.d, out, (size_t)at.d * sizeof(float));
    if (present(at.args.lse)) ((float*)at.args.lse.data)[head_row] = shift * kLn2 + log_scalar(total);
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
  return {sums.out + row * at.ld, sums.shift + row, sums.total + row * kLanes};
}
LR_INLINE AttentionSums sums_of_part(const Attention& at, const AttentionSums& shared, const AttentionTask& task, int64_t kv_head, int64_t part) {
  return sums_from(at, shared, (task.slot * at.kv_heads + kv_head * task.parts + part) * kFewQueries);
}

template <typename Operands> LR_INLINE lr_error attention_with(lr_queue* queue, const Attention& at, Check& check) {
  Scratch scratch(queue);
  const int64_t threads = queue->threads, max_parts = at.paged ? at.sequences * ceil_div(at.args.block_table.shape[1], kPartTiles) : 0;
  QueryBlock* blocks = scratch.take<QueryBlock>(at.max_blocks());
  KeyTile* tiles = scratch.take<KeyTile>(at.paged ? 0 : at.max_tiles());
  AttentionTask* tasks = scratch.take<AttentionTask>(at.max_blocks() + max_parts);
  const int64_t q_size = at.rows * at.ld, s_size = kRowsAtOnce * kTileKeys;
  float *q = scratch.take<float>(threads * q_size), *s = scratch.take<float>(threads * s_size);
  const int64_t keys_size = at.paged ? CachedKeys<Operands>(at).keys_size() : 0, values_size = at.paged ? at.ld * kTileKeys : 0;
  float *keys = scratch.take<float>(threads * keys_size), *values = scratch.take<float>(threads * values_size);
  const auto take_sums = [&](int64_t rows) -> AttentionSums { return {scratch.take<float>(rows * at.ld), scratch.take<float>(rows), scratch.take<float>(rows * kLanes)}; };
  const AttentionSums whole = take_sums(threads * at.rows), shared = take_sums(max_parts * at.kv_heads * kFewQueries);
  LaidKeys<Operands> laid(at);
  laid.data = scratch.take<float>(laid.size(at));
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;

  if (!at.paged)
    parallel_for(queue, at.list_tiles(tiles) * at.kv_heads, [&](int64_t i, int32_t) { laid.lay(at, tiles[i / at.kv_heads], i % at.kv_heads); });
  const int64_t block_count = at.list_blocks(blocks);
  int64_t count = 0, slots = 0;
  for (int64_t b = 0; b < block_count; b++) {
    const int32_t parts = attention_parts(at, blocks[b]);
    for (int32_t part = 0; part < parts; part++) tasks[count++] = {blocks[b], part, parts, slots};
    if (parts > 1) slots += parts;
  }
  parallel_for(queue, count * at.kv_heads, [&](int64_t i, int32_t thread) {
    [[maybe_unused]] const typename Operands::Products products;
    const AttentionTask& task = tasks[count - 1 - i / at.kv_heads]; /* the last queries see most keys: they come first */
    const int64_t kv_head = i % at.kv_heads;
    const AttentionScratch w = {q + thread * q_size, s + thread * s_size, keys + thread * keys_size, values + thread * values_size};
    const AttentionSums sums = task.parts == 1 ? sums_from(at, whole, thread * at.rows) : sums_of_part(at, shared, task, kv_head, task.part);
    int64_t first, last;
    at.visible_tiles(task.block.sequence, task.block.begin, at.block_end(task.block), &first, &last);
    if (task.parts > 1) {
      first += task.part * kPartTiles;
      last = min64(last, first + kPartTiles);
    }
    attention_tiles(at, task.block, kv_head, first, last, laid, w, sums);
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

lr_error attention(lr_queue* queue, const lr_attention_args* args) {
  const Attention at(*args);
  Check check("attention");
  check_attention(check, *args);
  if (check.failed) return check.error;
  /* A cache in float32 is taken as it is; words of its bf16 hold two values of one key. */
  const bool narrows = !at.paged || (args->k.dtype == LR_BF16 && at.d % 2 == 0);
  return with_operands(narrows ? args->math : LR_MATH_F32, [&](auto operands) { return attention_with<decltype(operands)>(queue, at, check); });
}

}}  // namespace LR_ISA
#endif
