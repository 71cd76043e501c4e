// Adafactor as described in cpu/ops/adafactor.h. Kernels over all segments, gridDim.y of them side by side: means of squares of rows and of columns,
// their factors, sums of squares of the update (and of the parameters) in fixed parts, then the step itself.
#include "../device/reduce.cuh"
#include "arena.cuh"

namespace lr {
namespace {

constexpr int kMaxParts = 64; // of a segment's sums; how many there are depends on the longest segment alone

struct Adafactor {
  float* p;
  const float* g;
  float *exp_avg, *vector, *row, *col; // exp_avg NULL: none
  float *row_factor, *col_factor;
  double* parts;                       // [segments, 2, kMaxParts]: squares of the update, of the parameters
  int part_count;
  const lr_optim_header* state;
  const lr_optim_segment* segments;
  const lr_optim_shape* shapes;
  int64_t count;
  double lr, eps1, eps2, clip_threshold, decay_rate, beta1, max_grad_norm;
  int scale_parameter, relative_step, warmup_init;

  __device__ double step() const { return state->step > 1 ? (double)state->step : 1.0; }
  __device__ float beta2() const { return (float)(1.0 - pow(step(), decay_rate)); }
  __device__ float clip() const { return clip_factor(state, max_grad_norm); }
};

// A warp a row; a vector's second moment, element by element.
__global__ void adafactor_rows_kernel(Adafactor a) {
  if (!a.state->finite) return;
  const float beta2 = a.beta2(), clip = a.clip(), eps1 = (float)a.eps1;
  const int lane = (int)threadIdx.x % kWarpSize, warps = (int)blockDim.x / kWarpSize;
  for (int64_t s = blockIdx.y; s < a.count; s += gridDim.y) {
    const lr_optim_shape shape = a.shapes[s];
    const int64_t begin = a.segments[s].begin, size = a.segments[s].end - begin;
    if (shape.cols == 0) {
      LR_FOR_EACH(i, size) {
        const float g = a.g[begin + i] * clip;
        a.vector[shape.row + i] = fmaf(beta2, a.vector[shape.row + i], (1.0f - beta2) * fmaf(g, g, eps1));
      }
      continue;
    }
    for (int64_t r = (int64_t)blockIdx.x * warps + threadIdx.x / kWarpSize; r < size / shape.cols; r += (int64_t)gridDim.x * warps) {
      double total = 0.0;
      for (int64_t c = lane; c < shape.cols; c += kWarpSize) {
        const double g = (double)(a.g[begin + r * shape.cols + c] * clip);
        total += g * g;
      }
      total = warp_reduce(total, Add());
      if (lane == 0) a.row[shape.row + r] = beta2 * a.row[shape.row + r] + (1.0f - beta2) * ((float)(total / (double)shape.cols) + eps1);
    }
  }
}

// A thread a column.
__global__ void adafactor_cols_kernel(Adafactor a) {
  if (!a.state->finite) return;
  const float beta2 = a.beta2(), clip = a.clip(), eps1 = (float)a.eps1;
  for (int64_t s = blockIdx.y; s < a.count; s += gridDim.y) {
    const lr_optim_shape shape = a.shapes[s];
    if (shape.cols == 0) continue;
    const int64_t begin = a.segments[s].begin, size = a.segments[s].end - begin;
    LR_FOR_EACH(i, size / shape.rows) {
      const float* g = a.g + begin + i / shape.cols * shape.rows * shape.cols + i % shape.cols;
      double total = 0.0;
      for (int64_t r = 0; r < shape.rows; r++) {
        const double x = (double)(g[r * shape.cols] * clip);
        total += x * x;
      }
      const float now = fmaf(beta2, a.col[shape.col + i], (1.0f - beta2) * ((float)(total / (double)shape.rows) + eps1));
      a.col[shape.col + i] = now;
      a.col_factor[shape.col + i] = 1.0f / sqrtf(now);
    }
  }
}

// A block a matrix: rows relative to their mean.
__global__ void adafactor_factors_kernel(Adafactor a) {
  LR_SHARED_MEMORY(memory);
  if (!a.state->finite) return;
  for (int64_t s = blockIdx.y; s < a.count; s += gridDim.y) {
    const lr_optim_shape shape = a.shapes[s];
    if (shape.cols == 0) continue;
    const int64_t matrices = (a.segments[s].end - a.segments[s].begin) / shape.cols / shape.rows;
    for (int64_t m = blockIdx.x; m < matrices; m += gridDim.x) {
      const float* row = a.row + shape.row + m * shape.rows;
      double total = 0.0;
      for (int64_t r = threadIdx.x; r < shape.rows; r += blockDim.x) total += (double)row[r];
      const float mean = (float)(block_reduce(total, Add(), (double*)memory) / (double)shape.rows);
      for (int64_t r = threadIdx.x; r < shape.rows; r += blockDim.x) a.row_factor[shape.row + m * shape.rows + r] = 1.0f / sqrtf(row[r] / mean);
    }
  }
}

// g / sqrt(second moment) of element i of a segment.
__device__ __forceinline__ float update_of(const Adafactor& a, const lr_optim_shape& shape, float g, int64_t i) {
  if (shape.cols == 0) return g / sqrtf(a.vector[shape.row + i]);
  const int64_t r = i / shape.cols;
  return a.row_factor[shape.row + r] * a.col_factor[shape.col + r / shape.rows * shape.cols + i % shape.cols] * g;
}

// gridDim.x is part_count.
__global__ void adafactor_sums_kernel(Adafactor a) {
  LR_SHARED_MEMORY(memory);
  if (!a.state->finite) return;
  const float clip = a.clip();
  for (int64_t s = blockIdx.y; s < a.count; s += gridDim.y) {
    const lr_optim_shape shape = a.shapes[s];
    const int64_t begin = a.segments[s].begin, size = a.segments[s].end - begin;
    double update = 0.0, parameter = 0.0;
    LR_FOR_EACH(i, size) {
      const double u = (double)update_of(a, shape, a.g[begin + i] * clip, i);
      update += u * u;
      if (!a.scale_parameter) continue;
      const double p = (double)a.p[begin + i];
      parameter += p * p;
    }
    update = block_reduce(update, Add(), (double*)memory);
    if (a.scale_parameter) parameter = block_reduce(parameter, Add(), (double*)memory);
    if (threadIdx.x == 0) {
      a.parts[2 * s * kMaxParts + blockIdx.x] = update;
      a.parts[(2 * s + 1) * kMaxParts + blockIdx.x] = parameter;
    }
  }
}

__device__ __forceinline__ double rms_of(const double* parts, int count, int64_t size) {
  double total = 0.0;
  for (int i = 0; i < count; i++) total += parts[i];
  return sqrt(total / (double)size);
}

__global__ void adafactor_step_kernel(Adafactor a) {
  LR_SHARED_MEMORY(memory);
  if (!a.state->finite) return;
  double* shared = (double*)memory; // learning rate of the segment, and divided by the update's excess
  const float clip = a.clip(), old = (float)a.beta1, fresh = (float)(1.0 - a.beta1);
  for (int64_t s = blockIdx.y; s < a.count; s += gridDim.y) {
    const lr_optim_shape shape = a.shapes[s];
    const lr_optim_segment segment = a.segments[s];
    const int64_t size = segment.end - segment.begin;
    if (threadIdx.x == 0) {
      const double limit = a.warmup_init ? 1e-6 * a.step() : 1e-2, slow = 1.0 / sqrt(a.step());
      double rate = a.relative_step ? (limit < slow ? limit : slow) : a.lr * (double)segment.lr_scale;
      if (a.scale_parameter) {
        const double rms = rms_of(a.parts + (2 * s + 1) * kMaxParts, a.part_count, size);
        rate *= rms > a.eps2 ? rms : a.eps2;
      }
      const float excess = (float)rms_of(a.parts + 2 * s * kMaxParts, a.part_count, size) / (float)a.clip_threshold;
      shared[0] = rate;
      shared[1] = rate / (double)(excess > 1.0f ? excess : 1.0f);
    }
    __syncthreads();
    const float decay = (float)(-(double)segment.weight_decay * shared[0]), scale = (float)shared[1];
    LR_FOR_EACH(i, size) {
      float move = update_of(a, shape, a.g[segment.begin + i] * clip, i) * scale;
      if (a.exp_avg) {
        float* mean = a.exp_avg + segment.block * kMomentBlock + i;
        move = fmaf(old, *mean, fresh * move);
        *mean = move;
      }
      const float p = a.p[segment.begin + i];
      a.p[segment.begin + i] = fmaf(decay, p, p) - move;
    }
    __syncthreads();
  }
}

}  // namespace

lr_error adafactor(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor exp_avg_sq_row,
                   lr_tensor exp_avg_sq_col, lr_tensor header, lr_tensor segments, lr_tensor shapes, double lr, double eps1, double eps2,
                   double clip_threshold, double decay_rate, double beta1, int32_t scale_parameter, int32_t relative_step, int32_t warmup_init,
                   double max_grad_norm) {
  Check check("adafactor");
  Scratch scratch(queue);
  float* row_factor = scratch.take<float>(present(exp_avg_sq_row) ? elements(exp_avg_sq_row) : 0);
  float* col_factor = scratch.take<float>(present(exp_avg_sq_col) ? elements(exp_avg_sq_col) : 0);
  double* parts = scratch.take<double>(present(segments) ? elements(segments) / (int64_t)sizeof(lr_optim_segment) * 2 * kMaxParts : 0);
  if (scratch.sizing()) return success();
  const std::vector<lr_optim_segment> s = read_segments(check, param, grad, header, segments);
  const Segments all = check_segments(check, segments, s.data(), param);
  check_adafactor(check, all, header, param, exp_avg, exp_avg_sq, exp_avg_sq_row, exp_avg_sq_col, shapes, clip_threshold, decay_rate, beta1);
  if (check.failed) return check.error;
  const std::vector<lr_optim_shape> shape = read_back<lr_optim_shape>(check, shapes);
  if (check.failed) return check.error;
  check_shapes(check, all, s.data(), shape.data(), exp_avg_sq, exp_avg_sq_row, exp_avg_sq_col);
  if (check.failed) return check.error;
  const int64_t wanted = ceil_div(all.longest, 4 * kThreads);
  const int part_count = (int)(wanted < 1 ? 1 : wanted < kMaxParts ? wanted : kMaxParts);
  const Adafactor a = {(float*)param.data, (const float*)grad.data, (float*)exp_avg.data, (float*)exp_avg_sq.data, (float*)exp_avg_sq_row.data,
                       (float*)exp_avg_sq_col.data, row_factor, col_factor, parts, part_count, (const lr_optim_header*)header.data, (const lr_optim_segment*)segments.data,
                       (const lr_optim_shape*)shapes.data, all.count, lr, eps1, eps2, clip_threshold, decay_rate, beta1, max_grad_norm, scale_parameter,
                       relative_step, warmup_init};
  const dim3 grid = grid_of(all);
  constexpr size_t kSums = kThreads / kWarpSize * sizeof(double);
  LR_LAUNCH(adafactor_rows_kernel, grid, kThreads, 0, a);
  LR_LAUNCH(adafactor_cols_kernel, grid, kThreads, 0, a);
  LR_LAUNCH(adafactor_factors_kernel, dim3(1, grid.y), kThreads, kSums, a);
  LR_LAUNCH(adafactor_sums_kernel, dim3((unsigned)part_count, grid.y), kThreads, kSums, a);
  LR_LAUNCH(adafactor_step_kernel, grid, kThreads, 2 * sizeof(double), a);
  return finish("adafactor");
}

}  // namespace lr
