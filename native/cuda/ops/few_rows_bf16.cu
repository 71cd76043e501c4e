// linear for up to 16 rows on tensor cores: W is the A operand of m16n8k16, decoded into fragments in registers, x the B operand, 8 or 16 rows wide.
//
// A block of 256 threads (8 warps) has 32 rows of W; its warps take spans of 128 columns in turn and their sums are added in fixed order. In a span
// lane (g, i) reads columns 32 i .. 32 i + 31 of rows g, g + 8, g + 16, g + 24: one load of 16 bytes of codes each (four of bf16), one block of absmax.
// The depth of an mma may be permuted as long as both operands are: step s of 8 takes columns 32 i + 4 s .. + 3 as the lane's four depths, so that a
// fragment is two neighbouring bytes of codes, and x one float4.
//   A  a[0] = (g, 4 s, 4 s + 1)  a[1] = (g + 8, same)  a[2] = (g, 4 s + 2, 4 s + 3)  a[3] = (g + 8, same)      B  b[0], b[1] = the same columns of row g of x
// The codes of the next span are on their way while one is decoded. A weight costs about 4.5 issue slots (2 to find its table entry, 1 load, 1 product,
// half a rounding) whatever the rows; the table lies 32 times in shared memory, lane i reads bank i.
// hot: few_rows_bf16_kernel: 256 threads, 20480 bytes shared, 1 block
//   shared: 2 x 2 KiB of tables + 8 warps x 32 outputs x 16 rows x 4 B; in flight: 64 B a thread, 16 KiB a block
// Of a gate and up the block's first 16 rows of W are the gate's, the others the same of up, each with a table of its own.
// Rounding: bf16(table * absmax), never the table; x to bf16. Tolerance: float32 sums of exact products. Source: PTX ISA (mma.cuh), Marlin for the idea
// that fragments are what is decoded.
#include "../device/few_rows.cuh"
#include "../table.cuh"

namespace lr {
namespace {

constexpr int kBlock = 256, kWarps = kBlock / kWarpSize, kSpan = 128, kTiles = kOutputsBf16 / 16;

struct Bits {
  uint32_t word[4];
};
__device__ __forceinline__ Bits load_bits(const void* p) {
  const float4 v = load4((const float*)p);
  return {{__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)}};
}

// 32 values of one row on their way to fragments.
template <bool Coded> struct Strip;
template <> struct Strip<true> {
  Bits codes;
  float absmax; // or the nested scale, where `byte` is the nested code
  uint8_t byte;
  __device__ __forceinline__ void load(const lr_weight& w, int64_t row, int64_t column, bool inside) {
    codes = Bits{};
    absmax = 0.0f;
    byte = 0;
    if (!inside) return;
    const int64_t at = row * w.k + column, block = at >> (31 - __clz(w.blocksize));
    codes = load_bits((const unsigned char*)w.data + at / 2);
    if (w.nested_absmax) {
      byte = ((const uint8_t*)w.absmax)[block];
      absmax = w.nested_absmax[block >> (31 - __clz(w.nested_blocksize))];
    } else {
      absmax = ((const float*)w.absmax)[block];
    }
  }
  // What was loaded, ready for pair(): the scale is found only now, when the loads have had their time.
  __device__ __forceinline__ void open(const lr_weight& w, bool inside) {
    if (w.nested_absmax && inside) absmax = __fadd_rn(__fmul_rn(w.nested_code[byte], absmax), *w.nested_offset);
  }
  // Values 2 q and 2 q + 1.
  __device__ __forceinline__ uint32_t pair(int q, const float* table) const {
    const uint32_t code = codes.word[q / 4] >> (8 * (q % 4));
    return pack_bf16(table[(code >> 4 & 15) * kWarpSize] * absmax, table[(code & 15) * kWarpSize] * absmax);
  }
};
template <> struct Strip<false> {
  Bits values[4];
  __device__ __forceinline__ void load(const lr_weight& w, int64_t row, int64_t column, bool inside) {
    const bf16* from = (const bf16*)w.data + (inside ? row * w.k + column : 0);
#pragma unroll
    for (int i = 0; i < 4; i++) values[i] = inside ? load_bits(from + 8 * i) : Bits{};
  }
  __device__ __forceinline__ void open(const lr_weight&, bool) {}
  __device__ __forceinline__ uint32_t pair(int q, const float*) const { return values[q / 4].word[q % 4]; }
};

// N: tiles of 8 rows of x.
template <int N, bool Coded> __global__ void __launch_bounds__(kBlock, Coded && N == 1 ? 2 : 1) few_rows_bf16_kernel(const FewRows* jobs, int count) {
  LR_SHARED_MEMORY(memory);
  float *const table = (float*)memory, *const partial = table + 2 * 16 * kWarpSize; // [warp][output][row]
  const FewRows& job = find_item(jobs, count, (int64_t)blockIdx.x);
  const bool pair = job.gated != nullptr;
  const FewRows& second = *(&job + pair); // of tile 1
  const auto weight = [&](int t) -> const lr_weight& { return (t ? second : job).w; };
  const int lane = (int)threadIdx.x % kWarpSize, warp = (int)threadIdx.x / kWarpSize, group = lane / 4, in_group = lane % 4;
  const int64_t output0 = ((int64_t)blockIdx.x - job.first) * (pair ? kOutputsBf16 / 2 : kOutputsBf16), k = job.w.k;
  const auto output_of = [&](int t, int h) { return output0 + (pair ? 0 : 16 * t) + 8 * h + group; };
  if (Coded) {
    for (int i = (int)threadIdx.x; i < 2 * 16 * kWarpSize; i += kBlock) table[i] = weight(i / (16 * kWarpSize)).code[i / kWarpSize % 16];
    __syncthreads();
  }
  float c[kTiles][N][4] = {};
  Strip<Coded> next[kTiles][2];
  const auto load = [&](int64_t column) {
#pragma unroll
    for (int t = 0; t < kTiles; t++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int64_t output = output_of(t, h);
        next[t][h].load(weight(t), output, column, output < weight(t).n && column < k);
      }
  };
  load((int64_t)warp * kSpan + 32 * in_group);
  for (int64_t span = (int64_t)warp * kSpan; span < k; span += kWarps * kSpan) {
    const int64_t column = span + 32 * in_group;
    Strip<Coded> strip[kTiles][2];
#pragma unroll
    for (int t = 0; t < kTiles; t++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        strip[t][h] = next[t][h];
        strip[t][h].open(weight(t), output_of(t, h) < weight(t).n && column < k);
      }
    load(column + kWarps * kSpan);
#pragma unroll
    for (int s = 0; s < 8; s++) {
      uint32_t b[N][2];
#pragma unroll
      for (int n = 0; n < N; n++) {
        const int row = 8 * n + group;
        const float4 x = row < job.rows && column < k ? load4(job.x + row * k + column + 4 * s) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        b[n][0] = pack_bf16(x.x, x.y);
        b[n][1] = pack_bf16(x.z, x.w);
      }
#pragma unroll
      for (int t = 0; t < kTiles; t++) {
        const float* const codes = table + t * 16 * kWarpSize + lane;
        const uint32_t a[4] = {strip[t][0].pair(2 * s, codes), strip[t][1].pair(2 * s, codes), strip[t][0].pair(2 * s + 1, codes), strip[t][1].pair(2 * s + 1, codes)};
#pragma unroll
        for (int n = 0; n < N; n++) mma_bf16(c[t][n], a, b[n]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; t++)
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        partial[(warp * kOutputsBf16 + 16 * t + group + e / 2 * 8) * (8 * N) + 8 * n + 2 * in_group + e % 2] = c[t][n][e];
  __syncthreads();
  constexpr int kHalf = kOutputsBf16 / 2 * 8 * N;
  for (int at = (int)threadIdx.x; at < (pair ? kHalf : 2 * kHalf); at += kBlock) {
    const int row = at % (8 * N);
    const int64_t output = output0 + at / (8 * N);
    if (row >= job.rows || output >= job.w.n) continue;
    const auto total = [&](int from) {
      float y = 0.0f;
      for (int i = 0; i < kWarps; i++) y += partial[i * 2 * kHalf + from];
      return y;
    };
    if (pair) finish_gated<true>(job, second, row, output, total(at), total(at + kHalf));
    else finish_output<true>(job, row, output, total(at));
  }
}

bool is_direct(const lr_weight& w) { return w.kind == LR_WEIGHT_DENSE && w.dtype == LR_BF16 && w.k % 32 == 0 && aligned16(w.data); }

template <int N> void launch_list(const List<FewRows>& list) {
  const size_t shared = (2 * 16 * kWarpSize + kWarps * kOutputsBf16 * 8 * N) * sizeof(float);
  const int count = (int)list.items.size();
  if (is_coded(list.items[0].w)) LR_LAUNCH((few_rows_bf16_kernel<N, true>), (unsigned)list.total, kBlock, shared, list.table, count);
  else LR_LAUNCH((few_rows_bf16_kernel<N, false>), (unsigned)list.total, kBlock, shared, list.table, count);
}

}  // namespace

bool takes_bf16(const std::vector<FewRows>& jobs) {
  bool coded = true, direct = true, aligned = !jobs.empty();
  for (const FewRows& job : jobs) {
    coded = coded && is_coded(job.w);
    direct = direct && is_direct(job.w);
    aligned = aligned && aligned16(job.x);
  }
  return aligned && (coded || direct);
}

void enqueue_few_rows_bf16(const List<FewRows>& list, int64_t rows) {
  list.upload();
  if (rows <= 8) launch_list<1>(list);
  else launch_list<2>(list);
}

}  // namespace lr
