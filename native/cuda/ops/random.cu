// random: element e takes word e % 4 of philox4x32-10(key, counter = e / 4) (Salmon et al., SC11). A thread a counter.
// Uniform: a + (b - a) * (the word's upper 24 bits) / 2^24. Normal: Box-Muller on the words (0, 1) and (2, 3), in float64.
#include "../device/philox.cuh"
#include "../table.cuh"

namespace lr {
namespace {

__device__ void normal_pair(uint32_t first, uint32_t second, float mean, float deviation, float* z0, float* z1) {
  const double radius = sqrt(-2.0 * log(((double)first + 0.5) * 0x1p-32));
  double sine, cosine;
  sincos((double)second * (6.283185307179586476925 * 0x1p-32), &sine, &cosine);
  *z0 = (float)((double)mean + (double)deviation * (radius * cosine));
  *z1 = (float)((double)mean + (double)deviation * (radius * sine));
}

__global__ void random_kernel(float* y, int64_t n, int normal, float a, float b, uint64_t key) {
  LR_FOR_EACH(counter, (n + 3) / 4) {
    uint32_t words[4];
    float values[4];
    philox(key, (uint64_t)counter, words);
    if (normal) {
      normal_pair(words[0], words[1], a, b, &values[0], &values[1]);
      normal_pair(words[2], words[3], a, b, &values[2], &values[3]);
    }
    for (int w = 0; w < 4; w++) {
      if (!normal) {
        // Written out, so that no compiler fuses the product and the sum: the bits are those of the CPU. The sum may round up to b.
        const float scaled = (b - a) * ((float)(words[w] >> 8) * 0x1p-24f), v = __fadd_rn(a, scaled);
        values[w] = v < b ? v : a;
      }
      if (4 * counter + w < n) y[4 * counter + w] = values[w];
    }
  }
}

}  // namespace

lr_error random(lr_queue*, lr_tensor y, int32_t normal, float a, float b, uint64_t key) {
  Check check("random");
  check.tensor("y", y, LR_F32);
  check.require(a == a && b == b, "the parameters must be numbers");
  check.require(normal || a <= b, "the uniform interval [%g, %g) is empty", (double)a, (double)b);
  if (check.failed) return check.error;
  const int64_t n = elements(y);
  LR_LAUNCH(random_kernel, blocks_for((n + 3) / 4, kThreads), kThreads, 0, (float*)y.data, n, normal, a, b, key);
  return finish("random");
}

}  // namespace lr
