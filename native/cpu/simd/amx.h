/* AMX-BF16: registers of 16 rows of 64 bytes, and C (16 x 16 f32) += A (16 rows of 32 bf16) B (16 rows of pairs) in one instruction,
 * sixteen cycles long; it needs about four independent ones in flight. Subnormal operands count as zero, as with AVX512-BF16.
 * Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3.
 */
#ifndef LOWRANK_CPU_SIMD_AMX_H
#define LOWRANK_CPU_SIMD_AMX_H
#include "avx512.h"

namespace LR_ISA { namespace {

constexpr int kTilePairs = kLanes; /* pairs of the reduction in one instruction */
constexpr int64_t kTileColumns = 16, kTileHeight = 16;

/* Layout of tiles, as LDTILECFG reads it. Tiles 0 to 3 are C, (above, below) x (left, right); 4 and 5 are A, 6 and 7 are B. */
struct TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
  void set(int tile, int64_t r, int64_t words) {
    rows[tile] = words ? (uint8_t)r : 0;
    row_bytes[tile] = r ? (uint16_t)(4 * words) : 0;
  }
};

/* Until end_tiles this thread's tiles have room for `above` and `below` rows of A and C, `left` and `right` columns of B and C. */
LR_INLINE void begin_tiles(int64_t above, int64_t below, int64_t left, int64_t right, int64_t pairs) {
  TileShapes shapes;
  const int64_t rows[2] = {above, below}, columns[2] = {left, right};
  for (int i = 0; i < 2; i++) {
    shapes.set(2 * i, rows[i], columns[0]);
    shapes.set(2 * i + 1, rows[i], columns[1]);
    shapes.set(4 + i, rows[i], pairs);
    shapes.set(6 + i, pairs, columns[i]);
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
}
LR_INLINE void end_tiles() { __asm__ volatile("tilerelease" : : : "memory"); }
/* This thread's tiles have all their room while it lives. */
struct WholeTiles {
  WholeTiles() { begin_tiles(kTileHeight, kTileHeight, kTileColumns, kTileColumns, kTilePairs); }
  ~WholeTiles() { end_tiles(); }
};

/* C = base + A B over `steps` steps of the shapes' pairs, no base being zero. A: for each step the rows, `a_words` words apart, `a_step` words from
 * step to step; B: rows of pairs, `b_words` apart. `c`, `base` and `a` are those of the tiles above and below; strides count 4-byte words. */
template <bool Below, bool Right>
__attribute__((noinline)) void multiply_tiles(int64_t steps, const float* const (&a)[2], int64_t a_words, const int64_t (&a_step)[2], const float* b, int64_t b_words, float* const (&c)[2], int64_t ldc, const float* const (&base)[2], int64_t base_words) {
  const int64_t row = 4 * ldc, base_row = 4 * base_words, a_row = 4 * a_words, b_row = 4 * b_words;
  /* The intrinsics do not tell the compiler that they read memory; everything is stored before this function is called. */
  __asm__ volatile("" : : : "memory");
  if (base[0]) {
    _tile_loadd(0, base[0], base_row);
    if (Right) _tile_loadd(1, base[0] + kTileColumns, base_row);
    if (Below) _tile_loadd(2, base[1], base_row);
    if (Below && Right) _tile_loadd(3, base[1] + kTileColumns, base_row);
  } else {
    _tile_zero(0);
    if (Right) _tile_zero(1);
    if (Below) _tile_zero(2);
    if (Below && Right) _tile_zero(3);
  }
  const float *above = a[0], *below = a[1];
  for (int64_t s = 0; s < steps; s++) {
    _tile_loadd(4, above, a_row);
    _tile_loadd(6, b, b_row);
    _tile_dpbf16ps(0, 4, 6);
    if (Right) {
      _tile_loadd(7, b + kTileColumns, b_row);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (Below) {
      _tile_loadd(5, below, a_row);
      _tile_dpbf16ps(2, 5, 6);
      if (Right) _tile_dpbf16ps(3, 5, 7);
    }
    above += a_step[0];
    below += a_step[1];
    b += kTilePairs * b_words;
  }
  _tile_stored(0, c[0], row);
  if (Right) _tile_stored(1, c[0] + kTileColumns, row);
  if (Below) _tile_stored(2, c[1], row);
  if (Below && Right) _tile_stored(3, c[1] + kTileColumns, row);
}
/* The one for the tiles that are there. */
LR_INLINE auto* multiplier(bool below, bool right) {
  return below ? right ? multiply_tiles<true, true> : multiply_tiles<true, false> : right ? multiply_tiles<false, true> : multiply_tiles<false, false>;
}

}}  // namespace LR_ISA
#endif
