// What every optimizer does around its own kernels: reads the header, and the tables that came from the host.
#ifndef LOWRANK_CUDA_OPS_ARENA_CUH
#define LOWRANK_CUDA_OPS_ARENA_CUH
#include <vector>

#include "../../abi/optim.h"
#include "../table.cuh"

namespace lr {
namespace {

__device__ __forceinline__ double power(double base, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2) result *= base;
  return result;
}

__device__ __forceinline__ float clip_factor(const lr_optim_header* state, double max_grad_norm) {
  const double ratio = max_grad_norm / (sqrt(state->grad_norm_sq) + 1e-6);
  return max_grad_norm > 0 && ratio < 1.0 ? (float)ratio : 1.0f;
}

// A table of structures that came from the host, read back.
template <class Row>
std::vector<Row> read_back(Check& check, const lr_tensor& table) {
  std::vector<Row> rows((size_t)elements(table) / sizeof(Row));
  if (!rows.empty()) cudaMemcpyAsync(rows.data(), table.data, rows.size() * sizeof(Row), cudaMemcpyDeviceToHost, stream());
  const lr_error error = wait_for_stream(check.op);
  if (error.code != LR_OK) {
    check.failed = true;
    check.error = error;
  }
  return rows;
}

// The segments are few and come from the host: they are read back and checked there.
std::vector<lr_optim_segment> read_segments(Check& check, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& header, const lr_tensor& segments) {
  check_arena(check, param, grad, header, segments);
  return check.failed ? std::vector<lr_optim_segment>() : read_back<lr_optim_segment>(check, segments);
}

// Blocks along the longest segment, segments side by side.
dim3 grid_of(const Segments& all) {
  return dim3(blocks_for(all.longest, kThreads), (unsigned)(all.count < 1 ? 1 : all.count < 65535 ? all.count : 65535));
}

}  // namespace
}  // namespace lr
#endif
