/* What attention and its gradient share: validation, the split into blocks of queries and keys, scores of one tile.
 *
 * A block holds up to `block_q` queries of one sequence for all heads of one kv head (group = H / Hkv): row r of it is query
 * r / group, head r % group, so K and V are read once for the whole group. A tile holds kTileKeys keys, counted from the
 * sequence's first key, which is also one block of the paged cache. Inside a tile keys are the columns. */
#ifndef LOWRANK_CPU_OPS_ATTENTION_BLOCK_H
#define LOWRANK_CPU_OPS_ATTENTION_BLOCK_H
#include "attention_operands.h"
#include "common.h"
#include "paged.h"

namespace LR_ISA { namespace {

constexpr float kLowest = -3.0e38f;

struct QueryBlock {
  int32_t sequence, begin; /* first query, counted from the sequence's first */
};
struct KeyTile {
  int32_t sequence, tile;
};

struct Attention {
  const lr_attention_args& args;
  int64_t tokens, heads, d, kv_heads, group, ld; /* ld: d padded to whole vectors */
  int64_t sequences, block_q, rows;              /* rows of a block: block_q * group, and as many as products ask for */
  bool paged;
  const int32_t *cu_q, *cu_k;

  explicit Attention(const lr_attention_args& a) : args(a) {
    tokens = a.q.shape[0];
    heads = a.q.shape[1];
    d = a.q.shape[2];
    paged = present(a.block_table);
    kv_heads = a.k.shape[a.k.rank == 4 ? 2 : 1];
    group = kv_heads > 0 ? heads / kv_heads : 0;
    ld = round_up(d, kLanes);
    sequences = max64(0, elements(a.cu_q) - 1);
    block_q = min64(max64(1, 64 / max64(1, group)), max64(1, a.max_q));
    rows = round_up(block_q * group, kProductRows);
    cu_q = (const int32_t*)a.cu_q.data;
    cu_k = present(a.cu_k) ? (const int32_t*)a.cu_k.data : cu_q;
  }

  int64_t query_count(int64_t s) const { return cu_q[s + 1] - cu_q[s]; }
  int64_t key_count(int64_t s) const { return paged ? ((const int32_t*)args.kv_len.data)[s] : cu_k[s + 1] - cu_k[s]; }
  /* Positions of a query minus its number in the sequence: the last query stands at the last key. */
  int64_t offset(int64_t s) const { return key_count(s) - query_count(s); }
  int64_t kv_stride() const { return kv_heads * d; }
  /* Where a head of a tile's first key begins in k and v. */
  int64_t tile_offset(int64_t s, int64_t tile, int64_t kv_head) const {
    const int64_t first = paged ? ((const int32_t*)args.block_table.data)[s * args.block_table.shape[1] + tile] * kPageSize
                                : cu_k[s] + tile * kTileKeys;
    return (first * kv_heads + kv_head) * d;
  }
  const float* key_tile(const lr_tensor& kv, int64_t s, int64_t tile, int64_t kv_head) const { return (const float*)kv.data + tile_offset(s, tile, kv_head); }
  /* Row r of the block of queries from `begin`: which of a [T, H] tensor's elements it is, and where its vector lies in a [T, H, D] one. */
  int64_t head_row(int64_t s, int64_t begin, int64_t kv_head, int64_t r) const {
    return (cu_q[s] + begin + r / group) * heads + kv_head * group + r % group;
  }
  int64_t row_offset(int64_t s, int64_t begin, int64_t kv_head, int64_t r) const { return head_row(s, begin, kv_head, r) * d; }

  int64_t block_end(QueryBlock block) const { return min64(query_count(block.sequence), block.begin + block_q); }
  int64_t max_blocks() const { return ceil_div(tokens, block_q) + sequences; }
  int64_t list_blocks(QueryBlock* blocks) const {
    int64_t count = 0;
    for (int64_t s = 0; s < sequences; s++)
      for (int64_t begin = 0; begin < query_count(s); begin += block_q) blocks[count++] = {(int32_t)s, (int32_t)begin};
    return count;
  }
  /* The same of the tiles of packed keys. */
  int64_t max_tiles() const { return ceil_div(args.k.shape[0], kTileKeys) + sequences; }
  int64_t list_tiles(KeyTile* tiles) const {
    int64_t count = 0;
    for (int64_t s = 0; s < sequences; s++)
      for (int64_t tile = 0; tile * kTileKeys < key_count(s); tile++) tiles[count++] = {(int32_t)s, (int32_t)tile};
    return count;
  }
  /* A number below max_tiles, which others need not come before. */
  int64_t slot(KeyTile tile) const { return cu_k[tile.sequence] / kTileKeys + tile.sequence + tile.tile; }

  void check_indices(Check& check) const {
    check_cu(check, "cu_q", args.cu_q, tokens);
    if (paged) check_pages(check, args.cu_q, args.kv_len, args.block_table, args.k.shape[0]);
    else check_cu(check, present(args.cu_k) ? "cu_k" : "cu_q", present(args.cu_k) ? args.cu_k : args.cu_q, args.k.shape[0]);
  }

  /* Tiles that the queries [begin, end) of sequence s may see: [first, last). */
  void visible_tiles(int64_t s, int64_t begin, int64_t end, int64_t* first, int64_t* last) const {
    const int64_t oldest = args.window > 0 ? max64(0, offset(s) + begin - args.window + 1) : 0;
    *first = oldest / kTileKeys;
    *last = max64(*first, ceil_div(max64(0, min64(key_count(s), offset(s) + end)), kTileKeys));
  }
  /* Columns of the tile from `key` that any query before `end` sees, in whole vectors. */
  int64_t columns(int64_t s, int64_t end, int64_t key, int64_t keys) const { return round_up(max64(1, min64(keys, offset(s) + end - key)), kLanes); }

  /* row(r): the vector of row r of a block in a [T, H, D] tensor. */
  LR_INLINE auto block_rows(const lr_tensor& x, int64_t s, int64_t begin, int64_t kv_head) const {
    return [this, s, begin, kv_head, data = (const float*)x.data](int64_t r) { return data + row_offset(s, begin, kv_head, r); };
  }
  /* row(j): the vector of key j of a tile. */
  LR_INLINE auto tile_rows(const lr_tensor& kv, int64_t s, int64_t tile, int64_t kv_head) const {
    return [first = key_tile(kv, s, tile, kv_head), stride = kv_stride()](int64_t j) { return first + j * stride; };
  }
  /* Products of a block's rows with `columns` of a tile of keys. The gradient forms them alike: it takes 2^(score - lse). */
  template <typename Operands> void products(const float* q, int64_t count, const float* keys, int64_t columns, float* s) const {
    tile_product<Operands::kPairs>(count, columns, Operands::steps(d), q, Operands::width(d), 1, keys, kTileKeys, s, kTileKeys, false);
  }
};

/* Scores of products, times log2(e), as all of attention has them: exp(score) = 2^score. */
constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.69314718055994531f;
struct Score {
  bool capped;
  VF scale, inner; /* a score is scale * product, or scale * tanh(inner * product) */
  explicit Score(const lr_attention_args& args)
      : capped(args.softcap > 0), scale(VF::set((capped ? args.softcap : args.scale) * kLog2e)), inner(VF::set(capped ? args.scale / args.softcap : 0.0f)) {}
  LR_INLINE VF bounded(VF product) const { return capped ? tanh(product * inner) : product; }
  /* Of a bounded product. */
  LR_INLINE VF above(VF bounded, VF shift) const { return fma(bounded, scale, -shift); }
};

/* Columns [from, to) of a tile, those that a row sees. */
struct ColumnsSeen {
  int64_t from, to;
};
/* Lanes of x, which begins at column j, within `seen`; the others are `other`. */
LR_INLINE VF only(VF x, int64_t j, ColumnsSeen seen, float other) {
  if (seen.from <= j && j + kLanes <= seen.to) return x;
  VI lane;
  for (int i = 0; i < kLanes; i++) lane.v[i] = i;
  return select((VI::set((int32_t)(seen.from - j) - 1) < lane) & (lane < VI::set((int32_t)(seen.to - j))), x, VF::set(other));
}

/* What each row of a block sees of `keys` keys from `key` on. */
struct RowsSeen {
  const Attention& at;
  int64_t position, key, keys;
  bool all;
  RowsSeen(const Attention& a, QueryBlock block, int64_t first_key, int64_t count)
      : at(a), position(at.offset(block.sequence) + block.begin), key(first_key), keys(count) {
    const ColumnsSeen first = of(position), last = of(at.offset(block.sequence) + at.block_end(block) - 1);
    all = first.to == keys && last.from == 0;
  }
  LR_INLINE ColumnsSeen operator()(int64_t r) const { return all ? ColumnsSeen{0, keys} : of(position + r / at.group); }

 private:
  ColumnsSeen of(int64_t query) const {
    const int64_t to = max64(0, min64(keys, query - key + 1));
    return {at.args.window > 0 ? min64(to, max64(0, query - at.args.window + 1 - key)) : 0, to};
  }
};

}}  // namespace LR_ISA
#endif
