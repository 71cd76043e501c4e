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

/* For ops/few_rows_tiles.h: spans of 64 4-bit weights of two rows at a time, whose blocks share the making of a table. A bit matrix makes one nibble of
 * each byte an index into it, with bit 4 set for the second row (GFNI, which all processors with AMX have). */
struct TileTable {
  static constexpr int kSpan = 64, kFloats = 32;
  __m512 code;
  __m512i nibbles;
  LR_INLINE explicit TileTable(const float* values)
      : code(_mm512_loadu_ps(values)), nibbles(_mm512_inserti64x4(_mm512_set1_epi64(0x1020408000000000), _mm256_set1_epi64x(0x0102040800000000), 1)) {}
  LR_INLINE __m512i blocks(float first, float second) const {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(code, _mm512_set1_ps(second)), _mm512_mul_ps(code, _mm512_set1_ps(first)));
  }
  /* Words of weights 4 i and 4 i + 1 to `to`, of 4 i + 2 and 4 i + 3 to `then`. */
  template <bool Second> LR_INLINE void span(__m512i table, const uint8_t* codes, float* to, float* then) const {
    const __m512i bytes = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)codes));
    const __m512i index = _mm512_gf2p8affine_epi64_epi8(bytes, nibbles, Second ? 16 : 0);
    VF{(__m512)_mm512_permutexvar_epi16(index, table)}.store(to);
    VF{(__m512)_mm512_permutexvar_epi16(_mm512_srli_epi16(index, 8), table)}.store(then);
  }
  /* The elements of x in that order. */
  static LR_INLINE void arrange(const float* x, float* to) {
    uint16_t* words = reinterpret_cast<uint16_t*>(to);
    const VF a = VF::load(x), b = VF::load(x + 16), c = VF::load(x + 32), d = VF::load(x + 48);
    const VF even[2] = {evens(a, b), evens(c, d)}, odd[2] = {odds(a, b), odds(c, d)};
    store_bf16(evens(even[0], even[1]), words);
    store_bf16(evens(odd[0], odd[1]), words + 16);
    store_bf16(odds(even[0], even[1]), words + 32);
    store_bf16(odds(odd[0], odd[1]), words + 48);
  }
};

/* Products of 16 rows with a few columns (0: none), for which this thread's tiles have room while it lives. C is four sums, as a step waits for the one
 * before on the same. */
struct ColumnTiles {
  static constexpr int kSums = 4;
  const int64_t columns;
  explicit ColumnTiles(int64_t n) : columns(n) { if (n) begin_tiles(kTileHeight, kTileHeight, n, n, kTilePairs); }
  ~ColumnTiles() { if (columns) end_tiles(); }
  LR_INLINE void clear() const {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  /* A: for each step rows `a_row` bytes apart, `a_step` bytes from step to step; B: rows of pairs without gaps. fetch() goes before each step. */
  template <typename Fetch> LR_INLINE void add(int64_t steps, const char* a, int64_t a_row, int64_t a_step, const float* b, const Fetch& fetch) const {
    const int64_t b_row = 4 * columns, b_step = kTilePairs * columns;
    __asm__ volatile("" : : : "memory"); /* as in multiply_tiles */
    int64_t s = 0;
    for (; s + 4 <= steps; s += 4, a += 4 * a_step, b += 4 * b_step) {
      fetch();
      _tile_loadd(4, a, a_row);
      _tile_loadd(6, b, b_row);
      _tile_dpbf16ps(0, 4, 6);
      fetch();
      _tile_loadd(5, a + a_step, a_row);
      _tile_loadd(7, b + b_step, b_row);
      _tile_dpbf16ps(1, 5, 7);
      fetch();
      _tile_loadd(4, a + 2 * a_step, a_row);
      _tile_loadd(6, b + 2 * b_step, b_row);
      _tile_dpbf16ps(2, 4, 6);
      fetch();
      _tile_loadd(5, a + 3 * a_step, a_row);
      _tile_loadd(7, b + 3 * b_step, b_row);
      _tile_dpbf16ps(3, 5, 7);
    }
    for (; s < steps; s++, a += a_step, b += b_step) {
      fetch();
      _tile_loadd(4, a, a_row);
      _tile_loadd(6, b, b_row);
      _tile_dpbf16ps(0, 4, 6);
    }
  }
  /* [kSums, 16, columns]. */
  LR_INLINE void store(float* to) const {
    const int64_t row = 4 * columns, sum = kTileHeight * columns;
    _tile_stored(0, to, row);
    _tile_stored(1, to + sum, row);
    _tile_stored(2, to + 2 * sum, row);
    _tile_stored(3, to + 3 * sum, row);
    __asm__ volatile("" : : : "memory");
  }
};

}}  // namespace LR_ISA
#endif
