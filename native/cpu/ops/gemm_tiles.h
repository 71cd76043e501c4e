/* gemm.h's products in bf16 on AMX: 32 x 32 of C at a time, two panels of A by one of B. A panel of A is 16 rows, so that the shape of the tiles changes
 * only for the last: telling the processor a new one takes 50 ns, and was a fifth of a product.
 */
#ifndef LOWRANK_CPU_OPS_GEMM_TILES_H
#define LOWRANK_CPU_OPS_GEMM_TILES_H
#include "operands.h"
#include "ranges.h"

namespace LR_ISA { namespace {

/* What leaves goes from here past the caches, by whole lines: waiting for those of y took a quarter of a product with K = 576. */
struct LeavingTiles {
  alignas(64) float rows[2 * kTileHeight * kPanel];
  void store(int64_t count, int64_t columns, float* to, int64_t stride) const {
    for (int64_t i = 0; i < count; i++)
      for_vectors(0, columns, [&](int64_t j, int64_t lanes) { store_far_lanes(VF::load(rows + i * kPanel + j), to + i * stride + j, lanes); });
  }
};

/* multiply_block in bf16, two panels of A at a time: whole steps of the reduction first, then what is left of it. */
void multiply_block_tiles(const PackedA& a, int64_t first, int64_t last, int64_t block, const float* b, const Target& target, int64_t columns) {
  const int64_t pairs = (a.depth.size(block) + 1) / 2, whole = pairs / kTilePairs, rest = pairs % kTilePairs;
  const int64_t left = min64(kTileColumns, columns), right = columns - left;
  LeavingTiles leaving;
  auto pass = [&](int64_t steps, int64_t begin, int64_t width, const Target& c) {
    int64_t rows[2] = {0, 0};
    for (int64_t i = first; i < last; i += 2) {
      const bool below = i + 1 < last;
      const int64_t size[2] = {a.rows.size(i), below ? a.rows.size(i + 1) : 0};
      if (size[0] != rows[0] || size[1] != rows[1]) begin_tiles(rows[0] = size[0], rows[1] = size[1], left, right, width);
      const float *from[2], *base[2];
      float* to[2];
      int64_t step[2];
      for (int j = 0; j < 2; j++) {
        const int64_t panel = j && !below ? i : i + j;
        const Target mine = c.at(a.rows.begin(panel), 0);
        from[j] = a.panel(block, panel) + begin * size[j];
        to[j] = mine.to;
        base[j] = mine.base;
        step[j] = kTilePairs * size[j];
      }
      auto* multiply = multiplier(below, right);
      if (c.leaves) {
        float* here[2] = {leaving.rows, leaving.rows + size[0] * kPanel};
        multiply(steps, from, width, step, b + begin * kPanel, kPanel, here, kPanel, base, c.base_stride);
        leaving.store(size[0] + size[1], columns, to[0], c.stride);
      } else {
        multiply(steps, from, width, step, b + begin * kPanel, kPanel, to, c.stride, base, c.base_stride);
      }
    }
  };
  Target between = target; /* of both */
  between.leaves = false;
  if (whole) pass(whole, 0, kTilePairs, rest ? between : target);
  if (rest) pass(1, whole * kTilePairs, rest, whole ? Target{target.to, target.stride, target.to, target.stride, target.leaves} : target);
  if (target.leaves) end_far_stores();
  end_tiles();
}

}}  // namespace LR_ISA
#endif
