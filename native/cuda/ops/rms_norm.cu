// RMSNorm over the last dimension (Zhang & Sennrich 2019), with an addition behind it. A block a row.
//   rstd = 1 / sqrt(mean(x²) + eps), y = x * rstd * (unit_offset + weight) + residual
// Backward, with xhat = x * rstd and g = dy * (unit_offset + weight):
//   dx = rstd * (g - xhat * mean(g * xhat)) + residual, which may be dx itself,   dweight += Σ_rows dy * xhat
// dweight: a block sums the columns of one part of the rows, then parts are added in order: no atomics, the same bits every time.
// hot: rms_norm_kernel: 256 threads, 32 bytes shared, 5 blocks
// hot: rms_norm_dx_kernel: 256 threads, 32 bytes shared, 4 blocks
#include "../device/reduce.cuh"
#include "../table.cuh"

namespace lr {
namespace {

__global__ void rms_norm_kernel(float* y, float* rstd, const float* x, const float* residual, const float* weight, int64_t rows, int64_t d, float eps,
                                float offset) {
  LR_SHARED_MEMORY(memory);
  float* partial = (float*)memory;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    float squares = 0.0f;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) squares = fmaf(x[row * d + i], x[row * d + i], squares);
    squares = block_reduce(squares, Add(), partial);
    const float scale = 1.0f / sqrtf(squares / (float)d + eps);
    if (rstd && threadIdx.x == 0) rstd[row] = scale;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
      const int64_t at = row * d + i;
      const float result = x[at] * scale * (offset + weight[i]);
      y[at] = residual ? result + residual[at] : result;
    }
  }
}

// In a row this short g - xhat * mean(g * xhat) may cancel down to what eps leaves (all of it when d is 1), so it is formed in double.
constexpr int64_t kShortRow = 4;

__global__ void rms_norm_short_dx_kernel(float* dx, const float* dy, const float* residual, const float* x, const float* weight, int64_t rows, int d, float eps,
                                         float offset) {
  LR_FOR_EACH(row, rows) {
    double squares = 0.0, products = 0.0;
    for (int64_t i = row * d; i < (row + 1) * d; i++) {
      squares += (double)x[i] * x[i];
      products += (double)dy[i] * (offset + weight[i - row * d]) * x[i];
    }
    const double inverse = 1.0 / (squares / d + eps), factor = sqrt(inverse), mean = products / d;
    for (int64_t i = row * d; i < (row + 1) * d; i++) {
      dx[i] = (float)(factor * ((double)dy[i] * (offset + weight[i - row * d]) - x[i] * inverse * mean) + (residual ? residual[i] : 0.0f));
    }
  }
}

__global__ void rms_norm_dx_kernel(float* dx, const float* dy, const float* residual, const float* x, const float* rstd, const float* weight, int64_t rows,
                                   int64_t d, float offset) {
  LR_SHARED_MEMORY(memory);
  float* partial = (float*)memory;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float scale = rstd[row];
    float products = 0.0f;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) products = fmaf(dy[row * d + i] * (offset + weight[i]), x[row * d + i] * scale, products);
    const float mean = block_reduce(products, Add(), partial) / (float)d;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
      const int64_t at = row * d + i;
      const float result = scale * (dy[at] * (offset + weight[i]) - x[at] * scale * mean);
      dx[at] = residual ? result + residual[at] : result;
    }
  }
}

// The rows of one part, whose share of dweight is summed by itself.
constexpr int64_t kParts = 32;

__global__ void rms_norm_dweight_parts_kernel(float* parts, const float* dy, const float* x, const float* rstd, int64_t rows, int64_t d, int64_t part_rows) {
  const int64_t begin = blockIdx.y * part_rows, end = begin + part_rows < rows ? begin + part_rows : rows;
  LR_FOR_EACH(i, d) {
    float total = 0.0f;
    for (int64_t row = begin; row < end; row++) total = fmaf(dy[row * d + i], x[row * d + i] * rstd[row], total);
    parts[blockIdx.y * d + i] = total;
  }
}

__global__ void rms_norm_dweight_kernel(float* dweight, const float* parts, int64_t count, int64_t d) {
  LR_FOR_EACH(i, d) {
    float total = dweight[i];
    for (int64_t part = 0; part < count; part++) total += parts[part * d + i];
    dweight[i] = total;
  }
}

constexpr size_t kPartials = kThreads / kWarpSize * sizeof(float);

}  // namespace

lr_error rms_norm(lr_queue*, lr_tensor y, lr_tensor rstd, lr_tensor x, lr_tensor residual, lr_tensor weight, float eps, int32_t unit_offset) {
  Check check("rms_norm");
  check.tensor("x", x, LR_F32);
  check.require(x.rank >= 1, "x must have at least 1 dimension");
  if (check.failed) return check.error;
  const int64_t n = elements(x), d = x.shape[x.rank - 1], rows = d > 0 ? n / d : 0;
  check.tensor("weight", weight, LR_F32, d);
  check.tensor("y", y, LR_F32, n);
  check.optional("residual", residual, LR_F32, n);
  check.optional("rstd", rstd, LR_F32, rows);
  if (check.failed || n == 0) return check.error;
  LR_LAUNCH(rms_norm_kernel, blocks_for(rows, 1), kThreads, kPartials, (float*)y.data, (float*)rstd.data, (const float*)x.data, (const float*)residual.data,
            (const float*)weight.data, rows, d, eps, unit_offset ? 1.0f : 0.0f);
  return finish("rms_norm");
}

lr_error rms_norm_grad(lr_queue* queue, lr_tensor dx, lr_tensor dweight, lr_tensor dy, lr_tensor residual, lr_tensor x, lr_tensor rstd, lr_tensor weight,
                       float eps, int32_t unit_offset) {
  Check check("rms_norm_grad");
  check.tensor("x", x, LR_F32);
  check.require(x.rank >= 1, "x must have at least 1 dimension");
  if (check.failed) return check.error;
  const int64_t n = elements(x), d = x.shape[x.rank - 1], rows = d > 0 ? n / d : 0;
  check.tensor("weight", weight, LR_F32, d);
  check.tensor("dy", dy, LR_F32, n);
  check.tensor("rstd", rstd, LR_F32, rows);
  check.optional("dx", dx, LR_F32, n);
  check.optional("residual", residual, LR_F32, n);
  check.optional("dweight", dweight, LR_F32, d);
  if (check.failed) return check.error;
  const int64_t part_rows = rows > kParts ? (rows + kParts - 1) / kParts : 1, parts = (rows + part_rows - 1) / part_rows;
  if (queue->sizing) {
    queue->scratch_size = present(dweight) ? (size_t)(parts * d) * sizeof(float) : 0;
    return success();
  }
  if (n == 0) return success();
  const float offset = unit_offset ? 1.0f : 0.0f;
  const float *pdy = (const float*)dy.data, *px = (const float*)x.data, *prstd = (const float*)rstd.data, *pw = (const float*)weight.data;
  if (present(dweight)) {
    float* partial = (float*)queue->scratch;
    LR_LAUNCH(rms_norm_dweight_parts_kernel, dim3(blocks_for(d, kThreads), (unsigned)parts), kThreads, 0, partial, pdy, px, prstd, rows, d, part_rows);
    LR_LAUNCH(rms_norm_dweight_kernel, blocks_for(d, kThreads), kThreads, 0, (float*)dweight.data, partial, parts, d);
  }
  if (present(dx) && d <= kShortRow)
    LR_LAUNCH(rms_norm_short_dx_kernel, blocks_for(rows, kThreads), kThreads, 0, (float*)dx.data, pdy, (const float*)residual.data, px, pw, rows, (int)d, eps,
              offset);
  else if (present(dx))
    LR_LAUNCH(rms_norm_dx_kernel, blocks_for(rows, 1), kThreads, kPartials, (float*)dx.data, pdy, (const float*)residual.data, px, prstd, pw, rows, d, offset);
  return finish("rms_norm_grad");
}

}  // namespace lr
