/* The instruction of this variant's products and nothing else: what a benchmark calls the peak. More independent sums than the instruction's latency
 * asks for, or the four tiles of C, and operands that stay in registers. Every multiply-add adds one, so the sums count what was done.
 */
#ifndef LOWRANK_CPU_OPS_MULTIPLY_ADDS_H
#define LOWRANK_CPU_OPS_MULTIPLY_ADDS_H
#include "gemm.h"

namespace LR_ISA { namespace {

constexpr int kSums = kRows < 6 ? 12 : 2 * kRows;

/* A float32 one, or a pair of them in bf16; volatile, so that the compiler cannot reckon with it. */
template <bool Pairs> LR_INLINE VF ones() {
  volatile int32_t word = Pairs ? 0x3f803f80 : 0x3f800000;
  return from_bits(VI::set(word));
}

template <bool Pairs> __attribute__((noinline)) double count_in_registers(int64_t multiply_adds) {
  const VF a = ones<Pairs>(), b = ones<Pairs>();
  VF sums[kSums];
  for (VF& s : sums) s = VF::zero();
  for (int64_t i = ceil_div(multiply_adds, kSums * kLanes * (Pairs ? 2 : 1)); i > 0; i--)
#pragma GCC unroll 32
    for (VF& s : sums) s = Pairs ? dot_pairs(s, a, b) : fma(s, a, b); /* s first: a * b would leave the loop */
  double done = 0;
  for (const VF& s : sums)
    for (int i = 0; i < kLanes; i++) done += (double)s[i];
  return done;
}

#ifdef LR_AMX
double count_in_tiles(int64_t multiply_adds) {
  alignas(64) float tile[16 * kLanes];
  for (int i = 0; i < 16; i++) ones<true>().store(tile + i * kLanes);
  begin_tiles(16, 16, 16, 16, kTilePairs);
  __asm__ volatile("" : : : "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  _tile_loadd(4, tile, 64); _tile_loadd(5, tile, 64); _tile_loadd(6, tile, 64); _tile_loadd(7, tile, 64);
  for (int64_t i = ceil_div(multiply_adds, 4 * 16 * 16 * 2 * kTilePairs); i > 0; i--) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, 64); /* the four are alike */
  end_tiles();
  __asm__ volatile("" : : : "memory");
  double done = 0;
  for (float s : tile) done += 4 * (double)s;
  return done;
}
#endif

lr_error multiply_adds(lr_queue* queue, lr_tensor y, int32_t math, int32_t millions) {
  Check check("multiply_adds");
  check.tensor("y", y, LR_F32);
  check.require(elements(y) <= queue->threads, "y must have at most %d elements, one a thread, but has %lld", (int)queue->threads, (long long)elements(y));
  check.require(millions > 0 && millions <= 500, "millions must be 1 to 500 but is %d", (int)millions); /* sums of ones stay exact */
  if (check.failed) return check.error;
  parallel_for(queue, elements(y), [&](int64_t task, int32_t) {
    const int64_t n = (int64_t)millions * 1000000;
#ifdef LR_AMX
    const double done = math == LR_MATH_BF16 ? count_in_tiles(n) : count_in_registers<false>(n);
#else
    const double done = kNativeBf16 && math == LR_MATH_BF16 ? count_in_registers<kNativeBf16>(n) : count_in_registers<false>(n);
#endif
    static_cast<float*>(y.data)[task] = (float)(done / 1e6);
  });
  return success();
}

}}  // namespace LR_ISA
#endif
