/* Reading a weight, and packing the operands of a GEMM.
 *
 * Layouts: A panels hold R rows, a[p * R + i]; B panels hold up to kPanel columns, b[p * kPanel + j], zero behind the last one, panel after
 * panel with room for kDepth rows each; p runs over the reduction. Packing a 4-bit weight decodes it: nibble -> table -> times absmax, in f32 (element 2i in the high
 * nibble, blocks over the flat matrix, so a row may begin inside a block). With math = bf16 both packs round;
 * where the machine multiplies bf16, pack_pairs.h packs for it.
 */
#ifndef LOWRANK_CPU_OPS_PACK_H
#define LOWRANK_CPU_OPS_PACK_H
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

constexpr int kPanel = 2 * kLanes; /* columns of a micro-tile: two vectors */
constexpr int kDepth = 256;        /* steps of the reduction in one packed block: a B panel of it fits L1 */
constexpr int kPairDepth = kDepth / 2; /* its words where a word holds two steps */
constexpr int kMostPanels = 4;     /* panels of columns packed at a time */

LR_INLINE lr_weight dense_f32(const void* data, int64_t n, int64_t k) {
  lr_weight w = {};
  w.kind = LR_WEIGHT_DENSE;
  w.dtype = LR_F32;
  w.data = data;
  w.n = n;
  w.k = k;
  return w;
}

/* Division by a size that is nearly always a power of two: a span of 32 weights should not pay for the processor's. */
struct Divisor {
  int64_t size;
  int shift;
  LR_INLINE explicit Divisor(int64_t n) : size(n), shift(n & (n - 1) ? -1 : __builtin_ctzll((uint64_t)n)) {}
  LR_INLINE int64_t floor(int64_t x) const { return shift >= 0 ? x >> shift : x / size; }
};

LR_INLINE float absmax_of(const lr_weight& w, int64_t block) {
  if (!w.nested_absmax) return static_cast<const float*>(w.absmax)[block];
  return w.nested_code[static_cast<const uint8_t*>(w.absmax)[block]] * w.nested_absmax[Divisor(w.nested_blocksize).floor(block)] + *w.nested_offset;
}

/* absmax_of for `count` blocks from the first. */
LR_INLINE void read_absmax(const lr_weight& w, int64_t first, int64_t count, float* out) {
  if (!w.nested_absmax) {
    memcpy(out, static_cast<const float*>(w.absmax) + first, (size_t)count * sizeof(float));
    return;
  }
  const uint8_t* codes = static_cast<const uint8_t*>(w.absmax) + first;
  const Divisor nested(w.nested_blocksize);
  const Table256 table(w.nested_code);
  for (int64_t i = 0; i < count;) {
    const int64_t of = nested.floor(first + i), end = min64(count, (of + 1) * nested.size - first);
    const float *code = w.nested_code, scale = w.nested_absmax[of], offset = *w.nested_offset;
    for (; i + kLanes <= end; i += kLanes) (table(codes + i) * VF::set(scale) + VF::set(offset)).store(out + i);
    for (; i < end; i++) out[i] = code[codes[i]] * scale + offset;
  }
}

/* The values that the codes of a block with this absmax stand for; rounding 16 of them rounds all of its weights. */
LR_INLINE Table16 block_table(const Table16& code, float scale, bool round) {
  return code.map([=](VF v) { return round ? round_bf16(v * VF::set(scale)) : v * VF::set(scale); });
}

/* Calls sink(i, v, n) for the values W[row][column + i ...]: v holds n of them (kLanes but at ends), i ascending from 0 to count. */
template <typename Sink> LR_INLINE void read_dense(const lr_weight& w, int64_t at, int64_t count, const Sink& sink) {
  auto spans = [&](auto load_full, auto load_one) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) sink(i, load_full(at + i), kLanes);
    if (i < count) {
      VF v = VF::zero();
      for (int64_t j = 0; j < count - i; j++) v.v[j] = load_one(at + i + j);
      sink(i, v, (int)(count - i));
    }
  };
  const float* f = static_cast<const float*>(w.data);
  const uint16_t* h = static_cast<const uint16_t*>(w.data);
  if (w.dtype == LR_F32) spans([=](int64_t i) { return VF::load(f + i); }, [=](int64_t i) { return f[i]; });
  else if (w.dtype == LR_BF16) spans([=](int64_t i) { return load_bf16(h + i); }, [=](int64_t i) { return bf16_to_f32(h[i]); });
  else spans([=](int64_t i) { return load_f16(h + i); }, [=](int64_t i) { return f16_to_f32(h[i]); });
}

template <typename Sink> LR_INLINE void read_4bit(const lr_weight& w, int64_t at, int64_t count, bool round, const Sink& sink) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.data);
  const Table16 code = Table16::load(w.code);
  int64_t block = Divisor(w.blocksize).floor(at);
  for (int64_t i = 0; i < count; block++) { /* one block, or the part of it in this span */
    const int64_t end = min64(count, (block + 1) * w.blocksize - at);
    const Table16 table = block_table(code, absmax_of(w, block), round || w.round);
    auto few = [&](int n) {
      VI index = VI::zero();
      for (int j = 0; j < n; j++) {
        int64_t e = at + i + j;
        index.v[j] = e & 1 ? codes[e / 2] & 15 : codes[e / 2] >> 4;
      }
      sink(i, table(index), n);
      i += n;
    };
    if ((at + i) & 1) few(1);
    for (; i + kLanes <= end; i += kLanes) sink(i, table(load_nibbles(codes + (at + i) / 2)), kLanes);
    if (i < end) few((int)(end - i));
  }
}

template <typename Sink> LR_INLINE void read_weight(const lr_weight& w, int64_t row, int64_t column, int64_t count, bool round, const Sink& sink) {
  if (w.kind == LR_WEIGHT_4BIT) read_4bit(w, row * w.k + column, count, round, sink);
  else read_dense(w, row * w.k + column, count, [&](int64_t i, VF v, int n) { sink(i, round ? round_bf16(v) : v, n); });
}

/* Asks for W[row][column, column + count) and its absmax ahead of their use: rows lie apart, where the processor does not read ahead. */
LR_INLINE void fetch_span(const lr_weight& w, int64_t row, int64_t column, int64_t count) {
  const int64_t at = row * w.k + column;
  const bool coded = w.kind == LR_WEIGHT_4BIT;
  const char* data = static_cast<const char*>(w.data);
  auto bytes = [&](int64_t i) { return coded ? i / 2 : i * (w.dtype == LR_F32 ? 4 : 2); };
  for (int64_t i = bytes(at) & ~63; i < bytes(at + count); i += 64) __builtin_prefetch(data + i);
  if (coded) __builtin_prefetch(static_cast<const char*>(w.absmax) + Divisor(w.blocksize).floor(at) * (w.nested_absmax ? 1 : 4));
}

/* W[row][column, column + count) as floats, rounded to bf16 when `round`; writes nothing behind them. */
void decode_row(const lr_weight& w, int64_t row, int64_t column, int64_t count, bool round, float* out) {
  read_weight(w, row, column, count, round, [&](int64_t i, VF v, int n) {
    if (n == kLanes) v.store(out + i);
    else store_n(v, out + i, n);
  });
}

/* The columns of C are rows [row, row + count) of W; the reduction runs over W's columns [k0, k0 + depth). */
void pack_b_rows(const lr_weight& w, int64_t row, int64_t count, int64_t k0, int64_t depth, bool round, float* b) {
  alignas(64) float tile[kLanes * kDepth];
  for (int64_t j = 0; j < count; j += kLanes) { /* a tile of one vector never reads the second half of its panel */
    int64_t rows = min64(kLanes, count - j);
    float* panel = b + j / kPanel * kPanel * kDepth + j % kPanel;
    for (int64_t r = 0; r < kLanes; r++) {
      if (r < rows) decode_row(w, row + j + r, k0, depth, round, tile + r * kDepth);
      else memset(tile + r * kDepth, 0, (size_t)depth * sizeof(float));
    }
    for (int64_t p = 0; p < depth; p += kLanes) {
      VF v[kLanes];
      for (int r = 0; r < kLanes; r++) v[r] = VF::load(tile + r * kDepth + p); /* kDepth is a multiple of kLanes: stays inside */
      transpose(v);
      int64_t n = min64(kLanes, depth - p);
      for (int64_t q = 0; q < n; q++) v[q].store(panel + (p + q) * kPanel);
    }
  }
}

/* The columns of C are columns [column, column + count) of W, in panels kDepth rows apart; the reduction runs over W's rows [k0, k0 + depth). */
void pack_b_columns(const lr_weight& w, int64_t column, int64_t count, int64_t k0, int64_t depth, bool round, float* b) {
  alignas(64) float line[kMostPanels * kPanel] = {};
  for (int64_t p = 0; p < depth; p++) {
    decode_row(w, k0 + p, column, count, round, line);
    for (int64_t j = 0; j < count; j += kPanel) memcpy(b + j * kDepth + p * kPanel, line + j, sizeof(float) * kPanel);
  }
}

/* R rows of a row-major matrix, columns [0, depth) from `from`, scaled; each row p of the panel is R floats. The panel needs
 * kLanes floats of room behind it. */
void pack_a_rows(const float* from, int64_t stride, int rows, int64_t depth, float scale, bool round, float* a) {
  for (int64_t p = 0; p < depth; p += kLanes) {
    int64_t n = min64(kLanes, depth - p);
    VF v[kLanes];
    for (int i = 0; i < kLanes; i++) {
      v[i] = i >= rows ? VF::zero() : n == kLanes ? VF::load(from + i * stride + p) : load_n<VF>(from + i * stride + p, n);
      if (scale != 1.0f) v[i] = v[i] * VF::set(scale);
      if (round) v[i] = round_bf16(v[i]);
    }
    transpose(v);
    for (int64_t q = 0; q < n; q++) v[q].store(a + (p + q) * rows); /* the spill is overwritten by the next row */
  }
}

/* The same of a transposed matrix: panel row i is column i of `from`, the reduction runs over its rows. */
void pack_a_columns(const float* from, int64_t stride, int rows, int64_t depth, float scale, bool round, float* a) {
  for (int64_t p = 0; p < depth; p++)
    for (int i = 0; i < rows; i += kLanes) {
      VF v = load_n<VF>(from + p * stride + i, min64(kLanes, rows - i)) * VF::set(scale);
      if (round) v = round_bf16(v);
      store_n(v, a + p * rows + i, min64(kLanes, rows - i));
    }
}

/* Multiplies elements [first, first + n) of x by their dropout mask. */
void dropout_span(const lr_dropout& dropout, uint64_t first, int64_t n, float* x) {
  const float scale = 1.0f / (1.0f - dropout.p);
  const double limit = (double)dropout.p * 4294967296.0; /* below 2^32, for p < 1 is a float */
  const uint32_t least = (uint32_t)limit + ((double)(uint32_t)limit < limit);
  int64_t i = 0;
  while (i < n) {
    uint32_t words[64];
    uint64_t element = first + (uint64_t)i;
    int skip = (int)(element & 3);
    int blocks = (int)min64(16, ceil_div(n - i + skip, 4));
    philox(dropout.key, element / 4, blocks, words);
    int64_t m = min64(n - i, 4 * blocks - skip);
    for (int64_t j = 0; j < m; j++) x[i + j] = words[skip + j] >= least ? x[i + j] * scale : 0.0f;
    i += m;
  }
}

}}  // namespace LR_ISA
#endif
