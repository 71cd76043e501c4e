// linear for up to 16 rows: every value of W is read and decoded once, and multiplied with all rows by fused multiply-adds.
//
// A block of 128 threads has four rows of W; thread t takes 8 neighbouring columns at 8 t, 8 (t + 128), ... of all four: a warp reads 128 bytes of codes
// (or 512 to 1024 of dense values) of each row at once, 16 bytes of codes a thread in flight. x comes from L1/L2. The sums of a thread, 4 x rows, are
// reduced by shuffles and then over the four warps in fixed order; the last 4 x rows threads add bias and adapters and write y.
// Two launches: u = drop(x) Aᵀ of all layers and segments, kept and scaled; then y of all layers of the group, by few_rows_bf16.cu where it can.
//   kCoded weights (gemm_bf16.cu) are read by words; the code book lies 32 times in shared memory, 2 KiB. Others by load_values.
// Of a gate and up a block has two rows of W of each, with a code book of their own.
// With math bf16 operands are rounded before the product, which float32 then holds exactly: as on tensor cores, in another order.
// Issue slots a coded weight: about 6 + rows, so arithmetic binds beyond a few rows (H100: 25 weights a clock and SM at full bandwidth).
// hot: few_rows_kernel: 128 threads, 5120 bytes shared, 2 blocks
//   shared: 2 x 2 KiB + 4 warps x 4 x rows x 4 B; the blocks are those of 16 rows, one row has 4
// Source: kernels.md ("a shuffle per nibble caps below the bandwidth"), bitsandbytes' gemv for the problem, not its code.
#include "../device/few_rows.cuh"
#include "../device/reduce.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int kBlock = 128, kOutputs = 4, kWarps = kBlock / kWarpSize;

// v = W[row, column .. column + 8) of a coded weight, which lie in one block.
__device__ __forceinline__ void load_coded(const lr_weight& w, const float* table, int64_t row, int64_t column, float (&v)[8]) {
  const int64_t at = row * w.k + column, block = at >> (31 - __clz(w.blocksize));
  const uint32_t word = ((const uint32_t*)w.data)[at / 8];
  float scale;
  if (w.nested_absmax) {
    const float nested = w.nested_absmax[block >> (31 - __clz(w.nested_blocksize))];
    scale = __fadd_rn(__fmul_rn(w.nested_code[((const uint8_t*)w.absmax)[block]], nested), *w.nested_offset);
  } else {
    scale = ((const float*)w.absmax)[block];
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    v[i] = table[(word >> (8 * (i / 2) + 4 * (1 - i % 2)) & 15) * kWarpSize] * scale;
    if (w.round) v[i] = round_bf16(v[i]);
  }
}

template <int M, bool Coded, bool Round> __global__ void __launch_bounds__(kBlock, 2) few_rows_kernel(const FewRows* jobs, int count, Dropout dropout) {
  LR_SHARED_MEMORY(memory);
  float *const table = (float*)memory, *const partial = table + 2 * 16 * kWarpSize; // [warp][output][row]
  const FewRows& job = find_item(jobs, count, (int64_t)blockIdx.x);
  const bool pair = job.gated != nullptr;
  const FewRows& second = *(&job + pair); // of outputs kOutputs / 2 and beyond
  const int lane = (int)threadIdx.x % kWarpSize, warp = (int)threadIdx.x / kWarpSize;
  const int64_t output0 = ((int64_t)blockIdx.x - job.first) * (pair ? kOutputs / 2 : kOutputs), k = job.w.k;
  if (Coded) {
    for (int i = (int)threadIdx.x; i < 2 * 16 * kWarpSize; i += kBlock) table[i] = (i < 16 * kWarpSize ? job : second).w.code[i / kWarpSize % 16];
    __syncthreads();
  }
  float sum[kOutputs][M] = {};
#pragma unroll 1
  for (int64_t column = (int64_t)threadIdx.x * 8; column < k; column += kBlock * 8) {
    const int n = k - column < 8 ? (int)(k - column) : 8;
    float w[kOutputs][8];
#pragma unroll
    for (int j = 0; j < kOutputs; j++) {
      const int half = j / (kOutputs / 2);
      const lr_weight& of = (half ? second : job).w;
      const int64_t output = output0 + (pair ? j % (kOutputs / 2) : j);
      const bool inside = output < of.n;
      if (Coded) load_coded(of, table + half * 16 * kWarpSize + lane, inside ? output : 0, column, w[j]);
      else load_values<8>(of, output, column, inside ? n : 0, w[j]);
#pragma unroll
      for (int i = 0; i < 8; i++) w[j][i] = rounded<Round>(w[j][i]);
    }
#pragma unroll
    for (int row = 0; row < M; row++) {
      if (row >= job.rows) break;
      float x[8];
      load_floats<8>(job.x + row * k + column, n, x);
      if (job.drop) {
        const uint64_t first = (uint64_t)job.first_element + (uint64_t)row * (uint64_t)k + (uint64_t)column;
        const uint64_t kept = kept_bytes(dropout, first) | (uint64_t)kept_bytes(dropout, first + 4) << 32;
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = kept >> (8 * i) & 1 ? x[i] * dropout.scale : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float v = rounded<Round>(x[i]);
#pragma unroll
        for (int j = 0; j < kOutputs; j++) sum[j][row] = fmaf(w[j][i], v, sum[j][row]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kOutputs; j++)
#pragma unroll
    for (int row = 0; row < M; row++) {
      const float total = warp_reduce(sum[j][row], Add());
      if (lane == 0) partial[(warp * kOutputs + j) * M + row] = total;
    }
  __syncthreads();
  const int row = (int)threadIdx.x % M, half = kOutputs / 2 * M;
  const int64_t output = output0 + (int)threadIdx.x / M;
  if ((int)threadIdx.x >= (pair ? half : kOutputs * M) || row >= job.rows || output >= job.w.n) return;
  const auto total = [&](int at) {
    float y = 0.0f;
    for (int i = 0; i < kWarps; i++) y += partial[i * kOutputs * M + at];
    return y;
  };
  if (pair) finish_gated<Round>(job, second, row, output, total((int)threadIdx.x), total((int)threadIdx.x + half));
  else finish_output<Round>(job, row, output, total((int)threadIdx.x));
}

template <int M, bool Coded> void launch_jobs(const List<FewRows>& list, bool round, const Dropout& dropout) {
  const size_t shared = (2 * 16 * kWarpSize + kWarps * kOutputs * M) * sizeof(float);
  const int count = (int)list.items.size();
  if (round) LR_LAUNCH((few_rows_kernel<M, Coded, true>), (unsigned)list.total, kBlock, shared, list.table, count, dropout);
  else LR_LAUNCH((few_rows_kernel<M, Coded, false>), (unsigned)list.total, kBlock, shared, list.table, count, dropout);
}
template <bool Coded> void launch_rows(const List<FewRows>& list, int64_t rows, bool round, const Dropout& dropout) {
  if (rows <= 1) launch_jobs<1, Coded>(list, round, dropout);
  else if (rows <= 2) launch_jobs<2, Coded>(list, round, dropout);
  else if (rows <= 4) launch_jobs<4, Coded>(list, round, dropout);
  else if (rows <= 8) launch_jobs<8, Coded>(list, round, dropout);
  else launch_jobs<16, Coded>(list, round, dropout);
}
void enqueue_jobs(const List<FewRows>& list, int64_t rows, bool round, const Dropout& dropout) {
  if (list.total == 0) return;
  list.upload();
  bool coded = true;
  for (const FewRows& job : list.items) coded = coded && is_coded(job.w);
  if (coded) launch_rows<true>(list, rows, round, dropout);
  else launch_rows<false>(list, rows, round, dropout);
}

}  // namespace

lr_error linear_few_rows(lr_queue* queue, const lr_linear_group& g) {
  const int64_t rows = g.x.shape[0], k = g.x.shape[1];
  const bool round = g.math == LR_MATH_BF16;
  Scratch scratch(queue);
  List<FewRows> thin, base;
  std::vector<FewRows> outputs;
  std::vector<RowSegment> segments;
  int64_t count = 0;
  for (int l = 0; l < g.count; l++) count += g.layers[l].segment_count;
  RowSegment* const table = take_scratch<RowSegment>(scratch, count);
  for (int l = 0; rows && l < g.count; l++) {
    const lr_linear& layer = g.layers[l];
    const int64_t width = max_rank(layer), n = layer.weight.n;
    float* u = take_scratch<float>(scratch, rows * width);
    FewRows y = {};
    y.x = (const float*)g.x.data;
    y.rows = rows;
    y.w = layer.weight;
    y.bias = layer.bias.data;
    y.bias_dtype = layer.bias.dtype;
    y.residual = (const float*)layer.residual.data;
    if (l == 0) y.gated = (float*)g.gated.data;
    y.activation = g.activation;
    y.y = (float*)layer.y.data;
    y.stride = n;
    y.thin = u;
    y.thin_stride = width;
    y.segments = table + segments.size();
    y.segment_count = layer.segment_count;
    outputs.push_back(y);
    for (int i = 0; i < layer.segment_count; i++) {
      const lr_segment& s = layer.segments[i];
      segments.push_back({s.row_begin, s.row_end, rank_of(s), (const float*)s.b.data});
      FewRows of_u = {};
      of_u.x = (const float*)g.x.data + s.row_begin * k;
      of_u.rows = s.row_end - s.row_begin;
      of_u.w.kind = LR_WEIGHT_DENSE;
      of_u.w.dtype = LR_F32;
      of_u.w.data = s.a.data;
      of_u.w.n = rank_of(s);
      of_u.w.k = k;
      of_u.drop = g.dropout.p > 0;
      of_u.first_element = s.row_begin * k;
      if (layer.u.data) of_u.y = (float*)layer.u.data + s.row_begin * layer.u.shape[1];
      of_u.stride = layer.u.data ? layer.u.shape[1] : 0;
      of_u.scaled = u + s.row_begin * width;
      of_u.scaled_stride = width;
      of_u.scale = s.scale;
      if (of_u.rows) thin.add(of_u, ceil_div(rank_of(s), kOutputs));
    }
  }
  const bool tensor_cores = round && takes_bf16(outputs);
  const int64_t outputs_of_block = (tensor_cores ? kOutputsBf16 : kOutputs) / (g.gated.data ? 2 : 1);
  for (const FewRows& job : outputs) base.add(job, g.gated.data && !job.gated ? 0 : ceil_div(job.w.n, outputs_of_block));
  thin.place(scratch);
  base.place(scratch);
  if (scratch.sizing()) return success();
  if (!segments.empty()) cudaMemcpyAsync(table, segments.data(), segments.size() * sizeof(RowSegment), cudaMemcpyHostToDevice, stream());
  enqueue_jobs(thin, rows, round, dropout_of(g.dropout));
  if (tensor_cores) enqueue_few_rows_bf16(base, rows);
  else enqueue_jobs(base, rows, round, Dropout{});
  return finish("linear");
}

}  // namespace lr
