/* Gradient of attention in one pass over the tiles of keys, without atomics. With P = exp(score - lse) and delta = rowsum(dO ∘ O):
 * dV = Pᵀ dO,  dS = P ∘ (dO Vᵀ - delta) ∘ (1 - (score / softcap)²),  dQ = scale dS K,  dK = dSᵀ (scale Q).
 * Every part of the blocks of queries (block b is in part b % parts) has its dQ to itself, in cache while the tiles pass in ascending order, and sums a dK
 * and a dV of its own; then these are added in order: with grouped heads they are less than partial sums of dQ would be. How many parts there are
 * follows from the shapes alone. */
#ifndef LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#define LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#include "attention_block.h"

namespace LR_ISA { namespace {

/* What a thread needs: scores of a tile and their gradients; sums of a tile [kTileKeys, ld]; of the queries of a part, block after block, the sums, the
 * operands and delta, a row each. */
struct AttentionGradScratch {
  float *s, *ds, *dk, *dv, *dq, *laid, *delta;
};

/* k and v of a tile as right operands of reductions over d, k as that of one over keys. */
struct GradTile {
  float *keys, *values, *k;
};
template <typename Operands> struct LaidTiles {
  float* data;
  int64_t columns_size, size;
  explicit LaidTiles(const Attention& at) : data(nullptr), columns_size(Operands::steps(at.d) * kTileKeys), size(2 * columns_size + Operands::steps(kTileKeys) * at.ld) {}
  int64_t total(const Attention& at) const { return times(at.max_tiles() * at.kv_heads, size); }
  GradTile of(const Attention& at, KeyTile tile, int64_t kv_head) const {
    float* keys = data + (at.slot(tile) * at.kv_heads + kv_head) * size;
    return {keys, keys + columns_size, keys + 2 * columns_size};
  }
  void lay(const Attention& at, KeyTile tile, int64_t kv_head) const {
    const int64_t s = tile.sequence, keys = min64(kTileKeys, at.key_count(s) - tile.tile * kTileKeys);
    const GradTile out = of(at, tile, kv_head);
    Operands::columns(at.key_tile(at.args.k, s, tile.tile, kv_head), at.kv_stride(), keys, at.d, out.keys);
    Operands::columns(at.key_tile(at.args.v, s, tile.tile, kv_head), at.kv_stride(), keys, at.d, out.values);
    Operands::stacked(keys, at.d, at.tile_rows(at.args.k, s, tile.tile, kv_head), out.k);
  }
};

/* q, then dO, of a block of queries, as left operands of reductions over d and as right ones of those over queries. */
template <typename Operands> struct LaidQueries {
  int64_t rows_size, size; /* size: of q, or dO */
  explicit LaidQueries(const Attention& at)
      : rows_size(at.rows * Operands::width(at.d)), size(Operands::kPairs ? rows_size + Operands::steps(at.rows) * at.ld : rows_size) {}
  void lay(const Attention& at, QueryBlock block, int64_t kv_head, float* out) const {
    const int64_t count = (at.block_end(block) - block.begin) * at.group;
    for (int which = 0; which < 2; which++, out += size) {
      const auto rows = at.block_rows(which ? at.args.dout : at.args.q, block.sequence, block.begin, kv_head);
      Operands::rows(count, at.d, rows, out);
      if (Operands::kPairs) Operands::stacked(count, at.d, rows, out + rows_size);
    }
  }
  /* In float32 both are the same rows. */
  const float* rows(const float* of) const { return of; }
  const float* stacked(const float* of) const { return Operands::kPairs ? of + rows_size : of; }
};

/* What turns a row's products into P and dS, and the columns that it sees and those of them that have a gradient. */
struct GradRow {
  VF shift, delta;
  ColumnsSeen seen, moved;
};

/* s: products -> P; ds: dO Vᵀ -> dS, as operands of the gradient's products. Masked columns are zero. */
template <typename Operands>
LR_INLINE void softmax_grad(const Attention& at, QueryBlock block, int64_t kv_head, int64_t key, int64_t count, int64_t columns, const float* delta, float* s, float* ds) {
  constexpr int kRows = Operands::kTogether;
  const int64_t sequence = block.sequence;
  const RowsSeen seen(at, block, key, min64(kTileKeys, at.key_count(sequence) - key));
  const Score score(at.args);
  const VF one = VF::set(1.0f);
  const auto row_of = [&](int64_t r) -> GradRow {
    if (r >= count) return {VF::zero(), VF::zero(), {0, 0}, {0, 0}};
    const int64_t query = block.begin + r / at.group, head_row = at.head_row(sequence, block.begin, kv_head, r);
    /* With one visible key P is 1 and dS exactly 0: what rounding leaves of it, Adam would scale up to a full step. */
    const bool single = at.offset(sequence) + query == 0 || at.args.window == 1;
    const ColumnsSeen mine = seen(r);
    return {VF::set(((const float*)at.args.lse.data)[head_row] * kLog2e), VF::set(delta[r]), mine, single ? ColumnsSeen{0, 0} : mine};
  };
  for (int64_t r = 0; r < kRows * Operands::steps(count); r += kRows) {
    GradRow rows[kRows];
    for (int i = 0; i < kRows; i++) rows[i] = row_of(r + i);
    float *p_row = s + r * kTileKeys, *ds_row = ds + r * kTileKeys;
    for (int64_t j = 0; j < columns; j += 2 * kLanes) {
      VF p[kRows][2], moved[kRows][2];
      for (int i = 0; i < kRows; i++)
        for (int v = 0; v < 2; v++) {
          const int64_t column = j + v * kLanes, place = i * kTileKeys + column;
          const VF product = score.bounded(VF::load(p_row + place)), probability = exp2(min(VF::zero(), score.above(product, rows[i].shift))); /* none above one, however a large lse is rounded */
          const VF slope = probability * (VF::load(ds_row + place) - rows[i].delta);
          p[i][v] = only(probability, column, rows[i].seen, 0.0f);
          moved[i][v] = only(score.capped ? slope * (one - product * product) : slope, column, rows[i].moved, 0.0f);
        }
      Operands::store_both_ways(p, moved, p_row, ds_row, j);
    }
  }
}

/* out · dO of the rows of a block. */
LR_INLINE void attention_delta(const Attention& at, QueryBlock block, int64_t kv_head, float* delta) {
  for (int64_t r = 0; r < (at.block_end(block) - block.begin) * at.group; r++) {
    const int64_t from = at.row_offset(block.sequence, block.begin, kv_head, r);
    const float *out = (const float*)at.args.out.data + from, *dout = (const float*)at.args.dout.data + from;
    VF sums = VF::zero();
    for_vectors(0, at.d, [&](int64_t i, int64_t lanes) { sums = fma(load_lanes(out + i, lanes), load_lanes(dout + i, lanes), sums); });
    delta[r] = sum(sums);
  }
}

/* dQ of one part of the blocks of a sequence, and what it adds to the sequence's keys in dk and dv, [keys, Hkv, D] of all sequences. */
template <typename Operands>
LR_INLINE void attention_grad_part(const Attention& at, int64_t s, int64_t part, int64_t parts, int64_t kv_head, const LaidQueries<Operands>& laid,
                                   const LaidTiles<Operands>& laid_tiles, float* dk, float* dv, const AttentionGradScratch& w) {
  constexpr bool kPairs = Operands::kPairs;
  const VF scale = VF::set(at.args.scale);
  const int64_t block_size = at.rows * at.ld;
  /* body(block, its number in the part, its first and last tiles) */
  const auto each_block = [&](const auto& body) {
    for (int64_t begin = part * at.block_q, i = 0; begin < at.query_count(s); begin += parts * at.block_q, i++) {
      const QueryBlock block = {(int32_t)s, (int32_t)begin};
      int64_t first, last;
      at.visible_tiles(s, begin, at.block_end(block), &first, &last);
      body(block, i, first, last);
    }
  };
  each_block([&](QueryBlock block, int64_t i, int64_t, int64_t) {
    laid.lay(at, block, kv_head, w.laid + i * 2 * laid.size);
    attention_delta(at, block, kv_head, w.delta + i * at.rows);
  });
  for (int64_t tile = 0; tile * kTileKeys < at.key_count(s); tile++) {
    const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, at.key_count(s) - key);
    const GradTile t = laid_tiles.of(at, {(int32_t)s, (int32_t)tile}, kv_head);
    memset(w.dk, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
    memset(w.dv, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
    each_block([&](QueryBlock block, int64_t i, int64_t first, int64_t last) {
      if (tile < first || tile >= last) return;
      const int64_t end = at.block_end(block), count = (end - block.begin) * at.group;
      const int64_t columns = at.columns(s, end, key, keys), seen = min64(keys, columns);
      const float *q = w.laid + i * 2 * laid.size, *dout = q + laid.size;
      float* dq = w.dq + i * block_size;
      at.products<Operands>(laid.rows(q), count, t.keys, columns, w.s);
      at.products<Operands>(laid.rows(dout), count, t.values, columns, w.ds);
      softmax_grad<Operands>(at, block, kv_head, key, count, columns, w.delta + i * at.rows, w.s, w.ds);
      const TransposedScores scores = Operands::transposed(w.s, w.ds);
      tile_product<kPairs>(seen, at.ld, Operands::steps(count), scores.ds, 1, scores.stride, laid.stacked(q), at.ld, w.dk, at.ld, true);
      tile_product<kPairs>(seen, at.ld, Operands::steps(count), scores.p, 1, scores.stride, laid.stacked(dout), at.ld, w.dv, at.ld, true);
      tile_product<kPairs>(count, at.ld, Operands::steps(seen), w.ds, kTileKeys, 1, t.k, at.ld, dq, at.ld, tile > first);
    });
    for (int64_t j = 0; j < keys; j++) {
      const int64_t to = ((at.cu_k[s] + key + j) * at.kv_heads + kv_head) * at.d;
      for_vectors(0, at.d, [&](int64_t i, int64_t lanes) {
        store_lanes(VF::load(w.dk + j * at.ld + i) * scale, dk + to + i, lanes);
        store_lanes(VF::load(w.dv + j * at.ld + i), dv + to + i, lanes);
      });
    }
  }
  each_block([&](QueryBlock block, int64_t number, int64_t first, int64_t last) {
    const int64_t count = (at.block_end(block) - block.begin) * at.group;
    float* dq = w.dq + number * block_size;
    if (first == last) memset(dq, 0, (size_t)(count * at.ld) * sizeof(float));
    for (int64_t r = 0; r < count; r++) {
      float* to = (float*)at.args.dq.data + at.row_offset(s, block.begin, kv_head, r);
      for_vectors(0, at.d, [&](int64_t i, int64_t lanes) { store_lanes(VF::load(dq + r * at.ld + i) * scale, to + i, lanes); });
    }
  });
}

/* Parts of the blocks of each sequence: enough tasks for many cores, but some blocks for each and no more than 128 MB of dK and dV. */
LR_INLINE int64_t attention_grad_parts(const Attention& at) {
  const int64_t wanted = ceil_div(16, max64(1, at.kv_heads)), blocks = ceil_div(at.tokens, at.block_q);
  const int64_t room = (int64_t)(16 << 20) / max64(1, elements(at.args.k));
  return max64(1, min64(min64(wanted, ceil_div(blocks, 8)), room));
}

template <typename Operands> LR_INLINE lr_error attention_grad_with(lr_queue* queue, const Attention& at, Check& check) {
  Scratch scratch(queue);
  const int64_t parts = attention_grad_parts(at), kv_size = elements(at.args.k);
  KeyTile* tiles = scratch.take<KeyTile>(at.max_tiles());
  float* partial = scratch.take<float>(parts > 1 ? times(parts, 2 * kv_size) : 0); /* dK, then dV of each part */
  const LaidQueries<Operands> laid(at);
  LaidTiles<Operands> laid_tiles(at);
  laid_tiles.data = scratch.take<float>(laid_tiles.total(at));
  const int64_t s_size = Operands::kTogether * Operands::steps(at.rows) * kTileKeys, tile_size = at.ld * kTileKeys;
  const int64_t blocks = ceil_div(ceil_div(at.tokens, at.block_q), parts), dq_size = times(blocks, at.rows * at.ld), laid_size = times(blocks, 2 * laid.size);
  const int64_t thread_size = 2 * s_size + 2 * tile_size + dq_size + laid_size + round_up(blocks * at.rows, kLanes);
  float* all = scratch.take<float>(times(queue->threads, thread_size));
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;
  parallel_for(queue, at.list_tiles(tiles) * at.kv_heads, [&](int64_t i, int32_t) { laid_tiles.lay(at, tiles[i / at.kv_heads], i % at.kv_heads); });
  parallel_for(queue, parts * at.sequences * at.kv_heads, [&](int64_t task, int32_t thread) {
    [[maybe_unused]] const typename Operands::Products products;
    const int64_t kv_head = task % at.kv_heads, s = task / at.kv_heads % at.sequences, part = task / at.kv_heads / at.sequences;
    float *scores = all + thread * thread_size, *dk = scores + 2 * s_size, *dq = dk + 2 * tile_size;
    const AttentionGradScratch w = {scores, scores + s_size, dk, dk + tile_size, dq, dq + dq_size, dq + dq_size + laid_size};
    float *to_dk = (float*)at.args.dk.data, *to_dv = (float*)at.args.dv.data;
    if (parts > 1) {
      to_dk = partial + part * 2 * kv_size;
      to_dv = to_dk + kv_size;
    }
    attention_grad_part(at, s, part, parts, kv_head, laid, laid_tiles, to_dk, to_dv, w);
  });
  if (parts == 1) return success();
  parallel_ranges(queue, kv_size, [&](int64_t begin, int64_t end) {
    for (int which = 0; which < 2; which++)
      for_vectors(begin, end, [&](int64_t i, int64_t lanes) {
        VF sum = VF::zero();
        for (int64_t part = 0; part < parts; part++) sum = sum + load_lanes(partial + (part * 2 + which) * kv_size + i, lanes);
        store_lanes(sum, (float*)(which ? at.args.dv : at.args.dk).data + i, lanes);
      });
  });
  return success();
}

lr_error attention_grad(lr_queue* queue, const lr_attention_args* args) {
  const Attention at(*args);
  Check check("attention_grad");
  check_attention(check, *args);
  check_attention_grad(check, *args);
  if (check.failed) return check.error;
  return with_operands(args->math, [&](auto operands) { return attention_grad_with<decltype(operands)>(queue, at, check); });
}

}}  // namespace LR_ISA
#endif
