// Rotary position embedding (Su et al. 2021), halves paired as in Llama: element i with i + h. The angle is the float32 product
// position * inv_freq; its sine and cosine are computed in float64. A thread a pair, or a copied element behind the pairs.
// hot: rope_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../table.cuh"

namespace lr {
namespace {

__global__ void rope_table_kernel(float* table, const int32_t* positions, const float* inv_freq, int64_t tokens, int64_t h, double scaling) {
  LR_FOR_EACH(at, tokens * h) {
    const int64_t t = at / h, i = at % h;
    double sine, cosine;
    sincos((double)((float)positions[t] * inv_freq[i]), &sine, &cosine);
    table[t * 2 * h + i] = (float)(cosine * scaling);
    table[t * 2 * h + h + i] = (float)(sine * scaling);
  }
}

// x and y may be the same memory: a pair is read before it is written.
__global__ void rope_kernel(float* y, const float* x, const float* table, int64_t tokens, int64_t heads, int64_t d, int64_t h, float sign) {
  const int64_t width = d - h;
  LR_FOR_EACH(at, tokens * heads * width) {
    const int64_t row = at / width, i = at % width, t = row / heads;
    const float* in = x + row * d;
    float* out = y + row * d;
    if (i < h) {
      const float a = in[i], b = in[h + i], c = table[t * 2 * h + i], s = sign * table[t * 2 * h + h + i];
      out[i] = a * c - b * s;
      out[h + i] = b * c + a * s;
    } else {
      out[h + i] = in[h + i];
    }
  }
}

}  // namespace

lr_error rope_table(lr_queue*, lr_tensor table, lr_tensor positions, lr_tensor inv_freq, float scaling) {
  Check check("rope_table");
  check.tensor("positions", positions, LR_I32);
  check.tensor("inv_freq", inv_freq, LR_F32);
  const int64_t tokens = elements(positions), h = elements(inv_freq);
  check.tensor("table", table, LR_F32, tokens * 2 * h);
  if (check.failed || tokens * h == 0) return check.error;
  LR_LAUNCH(rope_table_kernel, blocks_for(tokens * h, kThreads), kThreads, 0, (float*)table.data, (const int32_t*)positions.data, (const float*)inv_freq.data,
            tokens, h, (double)scaling);
  return finish("rope_table");
}

lr_error rope(lr_queue*, lr_tensor y, lr_tensor x, lr_tensor table, int32_t inverse) {
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
  LR_LAUNCH(rope_kernel, blocks_for(tokens * heads * (d - h), kThreads), kThreads, 0, (float*)y.data, (const float*)x.data, (const float*)table.data, tokens,
            heads, d, h, inverse ? -1.0f : 1.0f);
  return finish("rope");
}

}  // namespace lr
