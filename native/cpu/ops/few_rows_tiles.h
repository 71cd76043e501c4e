/* few_rows.h's products in bf16 on AMX: 16 rows of W are A, the rows of x are columns of B, so that W is decoded once for all of them. 4-bit weights are
 * decoded part by part to a buffer in the first cache; weights in bf16 are multiplied as they lie.
 *
 * The decode limit: 64 weights take 9 vector instructions on two ports and a product of tiles, which leaves neither free, two cycles, 6.6 cycles in all
 * for up to 16 rows. Dot products of pairs are four instructions each there: PairTable takes 5.5 cycles, and four for each row.
 */
#ifndef LOWRANK_CPU_OPS_FEW_ROWS_TILES_H
#define LOWRANK_CPU_OPS_FEW_ROWS_TILES_H
#include "few_rows.h"
#include "operands.h"

namespace LR_ISA { namespace {

/* Weights of a row that the buffer holds, and a tile; words of a tile; bytes of a span. */
constexpr int64_t kStaged = 512, kStepWeights = 2 * kTilePairs, kTileWords = kTileHeight * kTilePairs, kSpanBytes = TileTable::kSpan / 2;

/* Spans [begin, end) of two rows of 4-bit weights as rows of tiles; a block has kSpans of them (0: `spans`). `codes` and `scales` are the rows' own. */
template <int kSpans>
LR_INLINE void stage_rows(const TileTable& table, const uint8_t* const (&codes)[2], const float* const (&scales)[2], int64_t spans, int64_t begin, int64_t end, float* to) {
  const uint8_t *first = codes[0] + begin * kSpanBytes, *second = codes[1] + begin * kSpanBytes;
  if (kSpans) spans = kSpans;
  for (int64_t b = begin / spans, s = begin; s < end; b++) {
    const __m512i block = table.blocks(scales[0][b], scales[1][b]);
    for (const int64_t until = min64(end, (b + 1) * spans); s < until; s++) {
      table.span<false>(block, first, to, to + kTileWords);
      table.span<true>(block, second, to + kTilePairs, to + kTileWords + kTilePairs);
      first += kSpanBytes;
      second += kSpanBytes;
      to += 2 * kTileWords;
    }
  }
}

/* Columns [begin, end) of weights in bf16, zeros behind the last. */
LR_INLINE void stage_words(const lr_weight& w, int64_t row, int64_t rows, int64_t begin, int64_t end, float* to) {
  for (int64_t i = begin; i < end; i += kStepWeights, to += kTileWords)
    for (int64_t j = 0; j < rows; j++) {
      memset(to + j * kTilePairs, 0, kStepWeights * sizeof(uint16_t));
      memcpy(to + j * kTilePairs, static_cast<const uint16_t*>(w.data) + (row + j) * w.k + i, (size_t)min64(kStepWeights, end - i) * sizeof(uint16_t));
    }
}

LR_INLINE void add_staged(const ColumnTiles& tiles, const float* buffer, int64_t weights, const float* x) {
  tiles.add(ceil_div(weights, kStepWeights), (const char*)buffer, 4 * kTilePairs, 4 * kTileWords, x, [] {});
}

template <int kSpans>
__attribute__((noinline)) void add_decoded(const ColumnTiles& tiles, const lr_weight& w, int64_t row, int64_t rows, const float* x, const float* scales, float* buffer) {
  const TileTable table(w.code);
  const int64_t blocks = w.k / w.blocksize, row_bytes = w.k / 2;
  const Split parts(w.k / TileTable::kSpan, kStaged / TileTable::kSpan);
  const uint8_t* codes = static_cast<const uint8_t*>(w.data) + row * row_bytes;
  const uint8_t* ahead = codes + kTileHeight * row_bytes;
  for (int64_t p = 0; p < parts.parts; p++) {
    const int64_t begin = parts.begin(p), end = parts.begin(p + 1), weights = (end - begin) * TileTable::kSpan;
    for (int64_t j = 0; j < rows; j += 2) {
      const int64_t last = min64(j + 1, rows - 1);
      for (const uint8_t* until = ahead + weights; ahead < until; ahead += 64) __builtin_prefetch(ahead);
      stage_rows<kSpans>(table, {codes + j * row_bytes, codes + last * row_bytes}, {scales + j * blocks, scales + last * blocks}, w.blocksize / TileTable::kSpan, begin, end, buffer + j * kTilePairs);
    }
    add_staged(tiles, buffer, weights, x + begin * (TileTable::kSpan / 2) * tiles.columns);
  }
}

void add_words(const ColumnTiles& tiles, const lr_weight& w, int64_t row, int64_t rows, const float* x, float* buffer) {
  const int64_t row_bytes = 2 * w.k, whole = rows == kTileHeight ? w.k / kStepWeights * kStepWeights : 0;
  const char* from = static_cast<const char*>(w.data) + row * row_bytes;
  const Ahead ahead(from, row_bytes, kTileHeight);
  int64_t at = 0;
  tiles.add(whole / kStepWeights, from, row_bytes, 4 * kTilePairs, x, [&] {
    ahead.fetch(at, 4 * kTilePairs);
    at += 4 * kTilePairs;
  });
  for (int64_t i = whole; i < w.k; i += kStaged) {
    const int64_t end = min64(w.k, i + kStaged);
    stage_words(w, row, rows, i, end, buffer);
    add_staged(tiles, buffer, end - i, x + i / 2 * tiles.columns);
  }
}

/* y[i][j] = W[row + j] . x[i] for `rows` <= 16 rows of W and the rows of x that `tiles` are for, x being columns. */
__attribute__((noinline)) void tile_rows(const ColumnTiles& tiles, const lr_weight& w, int64_t row, int64_t rows, const float* x, float* scales, VF* y) {
  alignas(64) float buffer[kStaged / kStepWeights * kTileWords], sums[ColumnTiles::kSums * kTileHeight * kTileColumns];
  tiles.clear();
  if (w.kind == LR_WEIGHT_4BIT) {
    const int64_t blocks = w.k / w.blocksize;
    read_absmax(w, row * blocks, rows * blocks, scales);
    if (w.blocksize == TileTable::kSpan) add_decoded<1>(tiles, w, row, rows, x, scales, buffer);
    else add_decoded<0>(tiles, w, row, rows, x, scales, buffer);
  } else {
    add_words(tiles, w, row, rows, x, buffer);
  }
  tiles.store(sums);
  const int64_t m = tiles.columns, size = kTileHeight * m;
  VF lines[kLanes];
  for (int64_t j = 0; j < kTileHeight; j++) {
    auto sum = [&](int64_t s) { return load_lanes(sums + s * size + j * m, m); };
    lines[j] = (sum(0) + sum(1)) + (sum(2) + sum(3));
  }
  transpose(lines);
  for (int64_t i = 0; i < m; i++) y[i] = lines[i];
}

}}  // namespace LR_ISA
#endif
