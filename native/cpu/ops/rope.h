/* Rotary position embedding (Su et al. 2021), halves paired as in Llama: element i with i + h.
 * The angle is the float32 product position * inv_freq; its sine and cosine are computed in float64. */
#ifndef LOWRANK_CPU_OPS_ROPE_H
#define LOWRANK_CPU_OPS_ROPE_H
#include "../simd/math.h"
#include "common.h"
#include "ranges.h"

namespace LR_ISA { namespace {

lr_error rope_table(lr_queue* queue, lr_tensor table, lr_tensor positions, lr_tensor inv_freq, float scaling) {
  Check check("rope_table");
  check.tensor("positions", positions, LR_I32);
  check.tensor("inv_freq", inv_freq, LR_F32);
  const int64_t tokens = elements(positions), h = elements(inv_freq);
  check.tensor("table", table, LR_F32, times(tokens, 2 * h));
  if (check.failed || h == 0) return check.error;
  parallel_ranges(queue, tokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* row = (float*)table.data + t * 2 * h;
      const float position = (float)((const int32_t*)positions.data)[t];
      for (int64_t i = 0; i < h; i++) {
        double sine, cosine;
        sin_cos((double)(position * ((const float*)inv_freq.data)[i]), &sine, &cosine);
        row[i] = (float)(cosine * (double)scaling);
        row[h + i] = (float)(sine * (double)scaling);
      }
    }
  }, max64(1, 512 / h));
  return success();
}

lr_error rope(lr_queue* queue, lr_tensor y, lr_tensor x, lr_tensor table, int32_t inverse) {
  Check check("rope");
  check.tensor("x", x, LR_F32);
  check.tensor("y", y, LR_F32, elements(x));
  check.tensor("table", table, LR_F32);
  check.rank("x", x, 3);
  check.rank("table", table, 2);
  if (check.failed) return check.error;
  const int64_t tokens = x.shape[0], heads = x.shape[1], d = x.shape[2], h = table.shape[1] / 2;
  check.require(table.shape[0] == tokens, "table must have %lld rows, one a token, but has %lld", (long long)tokens, (long long)table.shape[0]);
  check.require(table.shape[1] % 2 == 0 && 2 * h <= d, "table has %lld columns, which is not an even number up to the head size %lld",
                (long long)table.shape[1], (long long)d);
  if (check.failed || elements(x) == 0) return check.error;
  parallel_ranges(queue, tokens, [&](int64_t begin, int64_t end) {
    const FarStores to(elements(x), y.data == x.data);
    for (int64_t t = begin; t < end; t++) {
      const float *cosine = (const float*)table.data + t * 2 * h, *sine = cosine + h;
      for (int64_t head = 0; head < heads; head++) {
        const float* in = (const float*)x.data + (t * heads + head) * d;
        float* out = (float*)y.data + (t * heads + head) * d;
        for_vectors(0, h, [&](int64_t i, int64_t lanes) {
          const VF a = load_lanes(in + i, lanes), b = load_lanes(in + h + i, lanes), c = load_lanes(cosine + i, lanes);
          VF s = load_lanes(sine + i, lanes);
          if (inverse) s = -s;
          to.store(a * c - b * s, out + i, lanes);
          to.store(b * c + a * s, out + h + i, lanes);
        });
        if (out != in) memmove(out + 2 * h, in + 2 * h, (size_t)(d - 2 * h) * sizeof(float));
      }
    }
  }, max64(1, kRange / (heads * d)));
  return success();
}

}}  // namespace LR_ISA
#endif
