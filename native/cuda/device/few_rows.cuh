// linear for a handful of rows (decoding): see ops/few_rows.cu and ops/few_rows_bf16.cu.
#ifndef LOWRANK_CUDA_DEVICE_FEW_ROWS_CUH
#define LOWRANK_CUDA_DEVICE_FEW_ROWS_CUH
#include "lora.cuh"

namespace lr {

constexpr int64_t kFewRows = 16; // with more, tiles pay

struct RowSegment {
  int64_t row_begin, row_end, rank;
  const float* b; // [n, rank]
};

// y [rows, stride] = x Wᵀ (+ bias + adapters + residual). Covers the blocks of its outputs; of a gate and the job of up behind it, which covers none, a
// block has half as many outputs of each.
struct FewRows {
  const float* x; // [rows, k]
  int64_t rows;
  lr_weight w;
  const void* bias;
  int32_t bias_dtype, drop;
  const float* residual; // lies as y, or NULL
  float* y; // may be NULL
  float* gated; // of a gate: activation(y) * y of up, lies as y; else NULL
  int32_t activation;
  int64_t stride;
  float* scaled; // y * scale, rounded as an operand; or NULL
  int64_t scaled_stride;
  float scale;
  int64_t first_element; // of x in the tensor whose dropout it is
  const float* thin;     // scaled u [rows, thin_stride]
  int64_t thin_stride;
  const RowSegment* segments;
  int32_t segment_count;
  int64_t first;
};

template <bool Round> __device__ __forceinline__ float rounded(float v) { return Round ? round_bf16(v) : v; }

// Bias and adapters of one output, and where it goes.
template <bool Round> __device__ __forceinline__ float finish_output(const FewRows& job, int row, int64_t output, float y) {
  if (job.bias) y += load_any(job.bias, job.bias_dtype, output);
  for (int s = 0; s < job.segment_count; s++) {
    const RowSegment& segment = job.segments[s];
    if (row < segment.row_begin || row >= segment.row_end) continue;
    float adapter = 0.0f;
    for (int64_t r = 0; r < segment.rank; r++) adapter = fmaf(job.thin[row * job.thin_stride + r], rounded<Round>(segment.b[output * segment.rank + r]), adapter);
    y += adapter;
  }
  if (job.residual) y += job.residual[row * job.stride + output];
  if (job.y) job.y[row * job.stride + output] = y;
  if (job.scaled) job.scaled[row * job.scaled_stride + output] = rounded<Round>(y * job.scale);
  return y;
}
// The same of an output of a gate and of up.
template <bool Round> __device__ __forceinline__ void finish_gated(const FewRows& gate, const FewRows& up, int row, int64_t output, float g, float u) {
  g = finish_output<Round>(gate, row, output, g);
  gate.gated[row * gate.stride + output] = gated(gate.activation, g, finish_output<Round>(up, row, output, u));
}

// The whole entry, for a checked group of up to kFewRows rows.
lr_error linear_few_rows(lr_queue* queue, const lr_linear_group& group);

// By tensor cores, where all jobs can: bf16 products, coded or bf16 weights in whole 16 bytes. The list counts blocks of kOutputsBf16 outputs.
constexpr int kOutputsBf16 = 32;
bool takes_bf16(const std::vector<FewRows>& jobs);
void enqueue_few_rows_bf16(const List<FewRows>& list, int64_t rows);

}  // namespace lr
#endif
