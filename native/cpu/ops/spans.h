/* Decoding whole blocks of 4-bit weights in spans, for few_rows.h, and x in the order in which a span comes out.
 *
 *   PairTable    AVX512-BF16, products of bf16: a byte a word, two lookups in the block's 16 values, two dot products of pairs
 *   PlaneTable   AVX2, products of f32: the four bytes of a value are looked up each in a table of 16 and interleaved; the block's sum is scaled
 *   TileTable    AMX, the same of two rows at once, for few_rows_tiles.h
 *   ScaledTable  else: a byte a lane, two lookups in the block's 16 values, already scaled and rounded
 *
 * The decode limit, in vector instructions on a block of 64 weights and one row of x: PairTable 2 for the table and 6 for the span,
 * ScaledTable on AVX-512 2 (10 where it rounds) and 12, PlaneTable 2 and 35, of which 24 are shuffles. A processor that starts two of them a
 * clock decodes 16, 9 and 3.5 weights a clock and core, or 8.3, 4.7 and 1.8 GB/s a GHz of 0.516 bytes each; one that starts four up to twice
 * that. A core reads 6 to 11 bytes a clock: pairs wait for memory as much as for their instructions, byte planes for shuffles.
 * The whole op from a cache, 576 to 4096 inputs, on one core of a Zen 5 at 4.2 GHz: 14 to 18, 11 to 12 and 4.3 to 5 weights a clock, so that two cores
 * wait for memory (from it: docs/performance.md); PairTable on a Zen 4, which starts one, 8.6. On an Intel with AMX a dot product of pairs is four
 * instructions, a conversion too and a lookup of words two, on two ports: 19 for a block, 6.7 weights a clock, of which the op reaches 5.4 from a cache.
 */
#ifndef LOWRANK_CPU_OPS_SPANS_H
#define LOWRANK_CPU_OPS_SPANS_H
#include "pack.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* `block` makes what a block of that absmax is decoded with; `span` hands on the vectors of kSpan weights, of which vector v meets x in the kLanes
 * floats from v * kLanes of what `arrange` made of its elements. A block's products are added from `begin` on, `end` puts them to the sum. */
struct ScaledTable {
  static constexpr int kSpan = 2 * kLanes, kFloats = kSpan;
  typedef Table16 Block;
  Table16 code;
  bool round;
  LR_INLINE ScaledTable(const float* values, bool rounded) : code(Table16::load(values)), round(rounded) {}
  LR_INLINE Block block(float scale) const { return block_table(code, scale, round); }
  template <typename Sink> LR_INLINE void span(const Block& table, const uint8_t* codes, const Sink& sink) const {
    const VI pairs = load_bytes(codes);
    sink(0, table(pairs >> 4));
    sink(1, table(pairs));
  }
  static LR_INLINE void arrange(const float* x, float* to) {
    const VF a = VF::load(x), b = VF::load(x + kLanes);
    evens(a, b).store(to);
    odds(a, b).store(to + kLanes);
  }
  static LR_INLINE VF multiply(VF w, VF x, VF sum) { return fma(w, x, sum); }
  LR_INLINE VF begin(VF sum) const { return sum; }
  LR_INLINE VF end(const Block&, VF part, VF) const { return part; }
};

/* How a kernel wants x: as it is; arranged for one of the tables; in bf16 as it is. In bf16 from kPairs on; in tiles a row of x is a column, pair by pair of
 * all rows. */
enum Form { kPlain, kScaled, kPlanes, kPairs, kPairRow, kTileTable, kTileRow, kForms };
struct Forms {
  bool has[kForms] = {};
};

/* Fewer rows of x are not worth a product of tiles. */
constexpr int64_t kFewestInTiles = 4;

LR_INLINE Form form_of(const lr_weight& w, bool round, int64_t m) {
  const bool tiles = kTiles && m >= kFewestInTiles;
  if (w.kind != LR_WEIGHT_4BIT) return !kNativeBf16 || !round || w.dtype != LR_BF16 ? kPlain : tiles ? kTileRow : kPairRow;
  if (w.k % w.blocksize) return kPlain;
  if (kNativeBf16 && round && w.blocksize % 64 == 0) return tiles ? kTileTable : kPairs;
  if (kBytePlanes && !round && !w.round && w.blocksize % 64 == 0) return kPlanes;
  return w.blocksize % ScaledTable::kSpan == 0 ? kScaled : kPlain;
}
LR_INLINE bool in_tiles(Form form) { return form == kTileTable || form == kTileRow; }
LR_INLINE bool by_block(Form form) { return form == kScaled || form == kPlanes || form == kPairs || form == kTileTable; }

/* Rows of x in every form that is wanted. */
struct FewRows {
  const Forms wanted;
  int64_t stride, words; /* floats of a row, and of one in bf16: whole vectors */
  float *rows[kForms], *line;
  LR_INLINE FewRows(Scratch& scratch, int64_t m, int64_t k, const Forms& forms) : wanted(forms), stride(k), words(round_up(ceil_div(k, 2), kLanes)) {
    for (int f = 0; f < kForms; f++) rows[f] = scratch.take<float>(f == kPlain || wanted.has[f] ? m * row_size(f) : 0);
    line = scratch.take<float>(wanted.has[kTileTable] || wanted.has[kTileRow] ? words : 0);
  }
  LR_INLINE int64_t row_size(int form) const { return form >= kPairs ? words : stride; }
  LR_INLINE float* row(Form form, int64_t i) const { return rows[form] + i * row_size(form); }

  template <typename Table> LR_INLINE void arrange_row(int64_t i, float* to) const {
    for (int64_t s = 0; s < stride / Table::kSpan; s++) Table::arrange(row(kPlain, i) + s * Table::kSpan, to + s * Table::kFloats);
  }
  template <typename Table> void arrange(Form form, int64_t m) const {
    for (int64_t i = 0; wanted.has[form] && i < m; i++) arrange_row<Table>(i, row(form, i));
  }
  LR_INLINE void narrow_row(int64_t i, float* words_to) const {
    uint16_t* to = reinterpret_cast<uint16_t*>(words_to);
    for_vectors(0, stride, [&](int64_t p, int64_t lanes) { store_bf16_lanes(load_lanes(row(kPlain, i) + p, lanes), to + p, lanes); });
    memset(to + stride, 0, (size_t)(2 * words - stride) * sizeof(uint16_t));
  }
  /* A row that make(i, to) makes becomes a column. */
  template <typename Make> void as_columns(Form form, int64_t m, const Make& make) const {
    for (int64_t i = 0; wanted.has[form] && i < m; i++) {
      make(i, line);
      for (int64_t p = 0; p < words; p++) rows[form][p * m + i] = line[p];
    }
  }
  /* From m rows of f32, which may be the plain ones. A template, so that nothing is compiled for tables that an ISA lacks. */
  template <int = 0> void fill(const float* x, int64_t m, bool round) const {
    for_vectors(0, m * stride, [&](int64_t i, int64_t lanes) {
      const VF v = load_lanes(x + i, lanes);
      store_lanes(round ? round_bf16(v) : v, rows[kPlain] + i, lanes);
    });
    arrange<ScaledTable>(kScaled, m);
    if constexpr (kBytePlanes) arrange<PlaneTable>(kPlanes, m);
    if constexpr (kNativeBf16) {
      arrange<PairTable>(kPairs, m);
      for (int64_t i = 0; wanted.has[kPairRow] && i < m; i++) narrow_row(i, row(kPairRow, i));
    }
    if constexpr (kTiles) {
      as_columns(kTileTable, m, [&](int64_t i, float* to) { arrange_row<TileTable>(i, to); });
      as_columns(kTileRow, m, [&](int64_t i, float* to) { narrow_row(i, to); });
    }
  }
};

}}  // namespace LR_ISA
#endif
