/* Gradient of attention in one pass over the tiles of keys, without atomics. With P = exp(score - lse) and delta = rowsum(dO ∘ O):
 * dV = Pᵀ dO,  dS = P ∘ (dO Vᵀ - delta) ∘ (1 - (score / softcap)²),  dQ = scale dS K,  dK = dSᵀ (scale Q).
 * Every part of the tiles (tile t is in part t % parts) sums a dQ of its own, in ascending order; then these are added in order. How many
 * parts there are follows from the shapes alone. */
#ifndef LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#define LOWRANK_CPU_OPS_ATTENTION_GRAD_H
#include "attention_block.h"

namespace LR_ISA { namespace {

/* What a thread needs for a tile of keys: scores and their gradients; k and v as right operands of reductions over d, k as that of one over keys;
 * sums [kTileKeys, ld]. */
struct AttentionGradScratch {
  float *s, *ds, *keys, *values, *k, *dk, *dv;
};

/* q and dO of all blocks of queries, as left operands of reductions over d and as right ones of those over queries. */
template <typename Operands> struct LaidQueries {
  float* data;
  int64_t rows_size, size; /* size: of q, or dO, of a block for one kv head */
  explicit LaidQueries(const Attention& at)
      : data(nullptr), rows_size(at.rows * Operands::width(at.d)), size(Operands::kPairs ? rows_size + Operands::steps(at.rows) * at.ld : rows_size) {}
  int64_t total(const Attention& at) const { return times(at.max_blocks() * at.kv_heads, 2 * size); }
  float* of(const Attention& at, QueryBlock block, int64_t kv_head, int which) const { return data + ((at.slot(block) * at.kv_heads + kv_head) * 2 + which) * size; }
  void lay(const Attention& at, QueryBlock block, int64_t kv_head) const {
    const int64_t count = (at.block_end(block) - block.begin) * at.group;
    for (int which = 0; which < 2; which++) {
      const auto rows = at.block_rows(which ? at.args.dout : at.args.q, block.sequence, block.begin, kv_head);
      float* out = of(at, block, kv_head, which);
      Operands::rows(count, at.d, rows, out);
      if (Operands::kPairs) Operands::stacked(count, at.d, rows, out + rows_size);
    }
  }
  /* In float32 both are the same rows. */
  const float* rows(const float* of) const { return of; }
  const float* stacked(const float* of) const { return Operands::kPairs ? of + rows_size : of; }
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

/* P and dS of a block of queries with `columns` of the tile of keys in w.keys and w.values. */
template <typename Operands>
LR_INLINE void attention_grad_tile(const Attention& at, QueryBlock block, int64_t kv_head, int64_t key, int64_t columns, const float* q, const float* dout,
                                   const float* delta, const AttentionGradScratch& w) {
  const int64_t s = block.sequence, count = (at.block_end(block) - block.begin) * at.group;
  at.scores<Operands>(q, count, w.keys, columns, w.s);
  tile_product<Operands::kPairs>(count, columns, Operands::steps(at.d), dout, Operands::width(at.d), 1, w.values, kTileKeys, w.ds, kTileKeys, false);
  at.each_row(block, key, min64(kTileKeys, at.key_count(s) - key), [&](int64_t query, int64_t r, int64_t from, int64_t to) {
    const int64_t head_row = (at.cu_q[s] + query) * at.heads + kv_head * at.group + r - (query - block.begin) * at.group;
    float *p = w.s + r * kTileKeys, *ds = w.ds + r * kTileKeys;
    softmax_grad_row(p, ds, columns, from, to, ((const float*)at.args.lse.data)[head_row], delta[head_row], at.args.softcap);
    /* With one visible key P is 1 and dS exactly 0: what rounding leaves of it, Adam would scale up to a full step. */
    if (at.offset(s) + query == 0 || at.args.window == 1) memset(ds, 0, (size_t)columns * sizeof(float));
  });
}

/* The first query, of the first block, that sees a key of a tile. */
LR_INLINE int64_t first_query(const Attention& at, int64_t s, int64_t tile) { return max64(0, tile * kTileKeys - at.offset(s)) / at.block_q * at.block_q; }

/* dK and dV of one tile of keys, and what it adds to dQ, [queries of the sequence * group, ld], whose rows from query `fresh` on hold nothing yet.
 * Returns the first query that it did not reach. */
template <typename Operands>
LR_INLINE int64_t attention_grad_keys(const Attention& at, int64_t s, int64_t tile, int64_t kv_head, const LaidQueries<Operands>& laid, const float* delta, float* dq,
                                      int64_t fresh, const AttentionGradScratch& w) {
  constexpr bool kPairs = Operands::kPairs;
  const int64_t key = tile * kTileKeys, keys = min64(kTileKeys, at.key_count(s) - key), queries = at.query_count(s);
  Operands::columns(at.key_tile(at.args.k, s, tile, kv_head), at.kv_stride(), keys, at.d, w.keys);
  Operands::columns(at.key_tile(at.args.v, s, tile, kv_head), at.kv_stride(), keys, at.d, w.values);
  Operands::stacked(keys, at.d, at.tile_rows(at.args.k, s, tile, kv_head), w.k);
  memset(w.dk, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
  memset(w.dv, 0, (size_t)(kTileKeys * at.ld) * sizeof(float));
  /* The queries that see a key of this tile stand at positions [key, key + keys - 1 + window). */
  const int64_t high = at.args.window > 0 ? min64(queries, key + keys - 1 + at.args.window - at.offset(s)) : queries;
  int64_t begin = first_query(at, s, tile);
  if (begin > fresh) memset(dq + fresh * at.group * at.ld, 0, (size_t)((begin - fresh) * at.group * at.ld) * sizeof(float));
  for (; begin < high; begin += at.block_q) {
    const QueryBlock block = {(int32_t)s, (int32_t)begin};
    const int64_t end = at.block_end(block), count = (end - begin) * at.group;
    const int64_t columns = at.columns(s, end, key, keys), seen = min64(keys, columns);
    const float *q = laid.of(at, block, kv_head, 0), *dout = laid.of(at, block, kv_head, 1);
    attention_grad_tile<Operands>(at, block, kv_head, key, columns, laid.rows(q), laid.rows(dout), delta, w);
    const TransposedScores t = Operands::both_ways(count, columns, w.s, w.ds);
    tile_product<kPairs>(seen, at.ld, Operands::steps(count), t.ds, 1, t.stride, laid.stacked(q), at.ld, w.dk, at.ld, true);
    tile_product<kPairs>(seen, at.ld, Operands::steps(count), t.p, 1, t.stride, laid.stacked(dout), at.ld, w.dv, at.ld, true);
    tile_product<kPairs>(count, at.ld, Operands::steps(seen), w.ds, kTileKeys, 1, w.k, at.ld, dq + begin * at.group * at.ld, at.ld, begin < fresh);
  }
  const VF scale = VF::set(at.args.scale);
  for (int64_t j = 0; j < keys; j++) {
    const int64_t to = ((at.cu_k[s] + key + j) * at.kv_heads + kv_head) * at.d;
    for_vectors(0, at.d, [&](int64_t i, int64_t lanes) { store_lanes(VF::load(w.dk + j * at.ld + i) * scale, (float*)at.args.dk.data + to + i, lanes); });
    memcpy((float*)at.args.dv.data + to, w.dv + j * at.ld, (size_t)at.d * sizeof(float));
  }
  return max64(fresh, begin);
}

/* Parts of the tiles of each sequence: enough tasks for many cores, but no more than 128 MB of dQ. */
LR_INLINE int64_t attention_grad_parts(const Attention& at) {
  const int64_t wanted = ceil_div(32, max64(1, at.kv_heads)), tiles = ceil_div(at.args.k.shape[0], kTileKeys);
  const int64_t room = (int64_t)(32 << 20) / max64(1, times(times(at.tokens, at.heads), at.ld));
  return max64(1, min64(min64(wanted, tiles), room));
}

/* out · dO of the rows of a block. */
LR_INLINE void attention_delta(const Attention& at, QueryBlock block, int64_t kv_head, float* delta) {
  for (int64_t r = 0; r < (at.block_end(block) - block.begin) * at.group; r++) {
    const int64_t from = at.row_offset(block.sequence, block.begin, kv_head, r);
    const float *out = (const float*)at.args.out.data + from, *dout = (const float*)at.args.dout.data + from;
    VF sums = VF::zero();
    for_vectors(0, at.d, [&](int64_t i, int64_t lanes) { sums = fma(load_lanes(out + i, lanes), load_lanes(dout + i, lanes), sums); });
    delta[from / at.d] = sum(sums);
  }
}

template <typename Operands> LR_INLINE lr_error attention_grad_with(lr_queue* queue, const Attention& at, Check& check) {
  Scratch scratch(queue);
  const int64_t parts = attention_grad_parts(at), dq_size = at.tokens * at.group * at.ld; /* of one part and kv head */
  QueryBlock* blocks = scratch.take<QueryBlock>(at.max_blocks());
  float* delta = scratch.take<float>(at.tokens * at.heads);
  float* dq = scratch.take<float>(times(times(parts, at.kv_heads), dq_size));
  LaidQueries<Operands> laid(at);
  laid.data = scratch.take<float>(laid.total(at));
  const int64_t s_size = round_up(at.rows, 2) * kTileKeys, tile_size = at.ld * kTileKeys;
  const int64_t thread_size = 2 * s_size + 5 * tile_size;
  float* all = scratch.take<float>(queue->threads * thread_size);
  if (scratch.sizing()) return success();
  at.check_indices(check);
  if (check.failed) return check.error;
  const int64_t block_count = at.list_blocks(blocks);
  parallel_for(queue, block_count * at.kv_heads, [&](int64_t i, int32_t) {
    laid.lay(at, blocks[i / at.kv_heads], i % at.kv_heads);
    attention_delta(at, blocks[i / at.kv_heads], i % at.kv_heads, delta);
  });
  parallel_for(queue, parts * at.sequences * at.kv_heads, [&](int64_t task, int32_t thread) {
    const int64_t kv_head = task % at.kv_heads, s = task / at.kv_heads % at.sequences, part = task / at.kv_heads / at.sequences; /* the longest come first */
    float *scores = all + thread * thread_size, *ds = scores + s_size, *tiles = ds + s_size;
    const AttentionGradScratch w = {scores, ds, tiles, tiles + tile_size, tiles + 2 * tile_size, tiles + 3 * tile_size, tiles + 4 * tile_size};
    float* mine = dq + (part * at.kv_heads + kv_head) * dq_size + at.cu_q[s] * at.group * at.ld;
    int64_t fresh = first_query(at, s, part);
    for (int64_t tile = part; tile * kTileKeys < at.key_count(s); tile += parts) fresh = attention_grad_keys(at, s, tile, kv_head, laid, delta, mine, fresh, w);
    const int64_t left = at.query_count(s) - fresh;
    if (left > 0) memset(mine + fresh * at.group * at.ld, 0, (size_t)(left * at.group * at.ld) * sizeof(float));
  });
  parallel_for(queue, block_count * at.kv_heads, [&](int64_t i, int32_t) {
    const QueryBlock block = blocks[i / at.kv_heads];
    const int64_t s = block.sequence, kv_head = i % at.kv_heads;
    int64_t reached = 0; /* parts that have these queries */
    while (reached < parts && first_query(at, s, reached) <= block.begin) reached++;
    for (int64_t r = 0; r < (at.block_end(block) - block.begin) * at.group; r++) {
      const float* from = dq + kv_head * dq_size + ((at.cu_q[s] + block.begin) * at.group + r) * at.ld;
      float* to = (float*)at.args.dq.data + at.row_offset(s, block.begin, kv_head, r);
      for_vectors(0, at.d, [&](int64_t c, int64_t lanes) {
        VF sum = VF::zero();
        for (int64_t part = 0; part < reached; part++) sum = sum + VF::load(from + part * at.kv_heads * dq_size + c);
        store_lanes(sum * VF::set(at.args.scale), to + c, lanes);
      });
    }
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
