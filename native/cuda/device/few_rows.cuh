// linear for a handful of rows (decoding): see ops/few_rows.cu.
#ifndef LOWRANK_CUDA_DEVICE_FEW_ROWS_CUH
#define LOWRANK_CUDA_DEVICE_FEW_ROWS_CUH
#include "launch.cuh"

namespace lr {

constexpr int64_t kFewRows = 16; // with more, tiles pay

// The whole entry, for a checked group of up to kFewRows rows.
lr_error linear_few_rows(lr_queue* queue, const lr_linear_group& group);

}  // namespace lr
#endif
