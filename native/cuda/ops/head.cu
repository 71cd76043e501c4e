// token_logprob and its gradient: the output head fused with log-probabilities, one chunk of logits [rows, V] at a time.
//
//   l = softcap(logit_scale * x Wᵀ);  value = (1 - e) log p[label] + e mean log p - z lse²;  entropy = lse - sum p l
//   d value / d l[v]   = (1 - e) [v = label] + e / V - p[v] (1 + 2 z lse)
//   d entropy / d l[v] = -p[v] (log p[v] + entropy);   d l / d (x Wᵀ) = logit_scale (1 - (l / c)²)
//
// Rows labelled -100 are dropped first: one block lists the others, the host reads how many there are. Then by chunk of kept rows: gather x;
// l = x Wᵀ (gemm); a block a row turns its products into logits, what is asked of them, and their gradient g in place; dx = g W and
// dW += gᵀ x (gemm). So a chunk's logits are written once and read from L2 where they fit. With math bf16 x and g are bf16 in memory, rows of
// whole 16 bytes, for the tensor cores; dx, of few tiles and great depth, comes in parts, which are summed as they are scattered. Where x holds the products themselves it is gathered as the logits, and g is scattered as dx. Scratch a
// row of a chunk: 4 V bytes and 4 k a part, 2 V + 2 k more with bf16.
// Tolerance: sums over V are float32 by 64 values, then double. The same bits every time: no atomics, chunks in order.
// hot: head_rows_kernel: 256 threads, 64 bytes shared, 5 blocks
// hot: gather_rows_kernel: 256 threads, 0 bytes shared, 6 blocks
// hot: scatter_rows_kernel: 256 threads, 0 bytes shared, 6 blocks
#include "../../abi/head.h"
#include "../device/gemm.cuh"
#include "../device/indices.cuh"
#include "../device/reduce.cuh"
#include "../table.cuh"

namespace lr {
namespace {

// Floats of a chunk of logits: 128 MB; the depth of a part of dx, in steps of any product. Little on the emulated device, so that its tests see several.
#if defined(__CUDACC__)
constexpr int64_t kChunkLogits = 32 << 20;
constexpr int kPartVocabulary = 32768;
#else
constexpr int64_t kChunkLogits = 1 << 10;
constexpr int kPartVocabulary = 64;
#endif
// Whole tiles of the products, where there are any.
constexpr int64_t kRowTile = 128;
int64_t chunk_rows(int64_t tokens, int64_t vocabulary) {
  if (tokens == 0) return 0;
  int64_t most = max64(8, min64(1024, kChunkLogits / vocabulary));
  if (most > kRowTile) most = most / kRowTile * kRowTile;
  return ceil_div(tokens, ceil_div(tokens, most));
}

constexpr size_t kListShared = (kThreads / kWarpSize + 1) * sizeof(unsigned long long);

// Lists the rows whose label is not -100, in order, and leaves their number as at[0]; a label outside of [0, n) is a finding. One block.
__global__ void keep_rows_kernel(Finding* found, int32_t* kept, const int32_t* labels, int64_t tokens, int64_t n) {
  LR_SHARED_MEMORY(memory);
  unsigned long long* shared = (unsigned long long*)memory;
  const int64_t wrong = first_where(tokens, shared, [&](int64_t i) { return labels[i] != kIgnored && (labels[i] < 0 || labels[i] >= n); });
  if (wrong < tokens) return leave(found, kLabelOutside, labels[wrong], wrong, n);
  int* counts = (int*)memory; // of each warp
  const int lane = (int)threadIdx.x % kWarpSize, warp = (int)threadIdx.x / kWarpSize;
  int64_t total = 0;
  for (int64_t first = 0; first < tokens; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    const bool keep = i < tokens && labels[i] != kIgnored;
    const unsigned mask = __ballot_sync(kAllLanes, keep);
    if (lane == 0) counts[warp] = __popc(mask);
    __syncthreads();
    int64_t at = total + __popc(mask & ((1u << lane) - 1));
    for (int w = 0; w < (int)blockDim.x / kWarpSize; w++) {
      if (w < warp) at += counts[w];
      total += counts[w];
    }
    if (keep) kept[at] = (int32_t)i;
    __syncthreads();
  }
  leave(found, kFine, total);
}

struct Outputs {
  float *value, *entropy, *dx; // dx [T, k]: of the loss, or of value
  int32_t* argmax;
};

// What rows without a label get. A block a row.
__global__ void ignored_rows_kernel(Outputs out, const int32_t* labels, int64_t tokens, int64_t k) {
  for (int64_t row = blockIdx.x; row < tokens; row += gridDim.x) {
    if (labels[row] != kIgnored) continue;
    if (threadIdx.x == 0) {
      if (out.value) out.value[row] = 0.0f;
      if (out.entropy) out.entropy[row] = 0.0f;
      if (out.argmax) out.argmax[row] = -1;
    }
    if (out.dx)
      for (int64_t i = threadIdx.x; i < k; i += blockDim.x) out.dx[row * k + i] = 0.0f;
  }
}

// Rows of x that are kept, to rows `pitch` apart, zeros between.
template <class T> __global__ void gather_rows_kernel(T* to, const float* x, const int32_t* kept, int64_t rows, int64_t k, int64_t pitch) {
  LR_FOR_EACH(at, rows * pitch) {
    const int64_t row = at / pitch, column = at % pitch;
    to[at] = from_float<T>(column < k ? x[kept[row] * k + column] : 0.0f);
  }
}

__global__ void scatter_rows_kernel(float* to, const float* parts, int64_t count, const int32_t* kept, int64_t rows, int64_t k) {
  LR_FOR_EACH(at, rows * k) {
    float sum = parts[at];
#pragma unroll 1 // unrolled, it takes 64 registers
    for (int64_t part = 1; part < count; part++) sum += parts[part * rows * k + at];
    to[kept[at / k] * k + at % k] = sum;
  }
}

// A logit and its index as one number that orders by value, then by lower index; NaN lies below everything.
__device__ __forceinline__ unsigned long long rank_of(float v, int64_t index) {
  const uint32_t bits = __float_as_uint(v + 0.0f), ordered = v != v ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (unsigned long long)ordered << 32 | (uint32_t)~(uint32_t)index;
}
__device__ __forceinline__ float value_of(unsigned long long rank) {
  const uint32_t ordered = (uint32_t)(rank >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

struct Rows {
  float* logits; // [rows, n]: products in, logits or their gradient out
  void* g;       // the gradient as the products take it, rows `pitch` apart; NULL: none is wanted
  int64_t n, pitch;
  const int32_t *kept, *labels;
  const float *dvalue, *dentropy; // [T]; NULL: 1 and 0
  float softcap, logit_scale, smoothing, z_loss;
};

constexpr int kRun = 64; // values summed in float32 before double takes over

// A block a row: logits, statistics, gradient. G: float (in place) or bf16.
template <class G> __global__ void head_rows_kernel(Rows h, Outputs out) {
  LR_SHARED_MEMORY(memory);
  float* l = h.logits + blockIdx.x * h.n;
  const int64_t row = h.kept[blockIdx.x], label = h.labels[row];
  unsigned long long best = rank_of(-INFINITY, 0);
  for (int64_t i = threadIdx.x; i < h.n; i += blockDim.x) {
    float v = l[i] * h.logit_scale;
    if (h.softcap > 0.0f) v = h.softcap * tanhf(v / h.softcap);
    l[i] = v;
    const unsigned long long mine = rank_of(v, i);
    if (best < mine) best = mine;
  }
  best = block_reduce(best, Max(), (unsigned long long*)memory); // its barriers also show the logits to all
  const float top = value_of(best);
  double total = 0.0, weighted = 0.0, plain = 0.0;
  for (int64_t i = threadIdx.x; i < h.n;) {
    float a = 0.0f, b = 0.0f, c = 0.0f;
    for (int run = 0; run < kRun && i < h.n; run++, i += blockDim.x) {
      const float d = l[i] - top, p = expf(d);
      a += p;
      b = fmaf(p, d, b);
      c += d;
    }
    total += a;
    weighted += b;
    plain += c;
  }
  total = block_reduce(total, Add(), (double*)memory);
  weighted = block_reduce(weighted, Add(), (double*)memory);
  plain = block_reduce(plain, Add(), (double*)memory);
  const double log_sum = logf((float)total), entropy = log_sum - weighted / total, lse = top + log_sum;
  if (threadIdx.x == 0) {
    const double own = (double)l[label] - top - log_sum, all = plain / (double)h.n - log_sum;
    if (out.value) out.value[row] = (float)((1.0 - h.smoothing) * own + (h.smoothing > 0.0f ? h.smoothing * all : 0.0) - h.z_loss * lse * lse);
    if (out.entropy) out.entropy[row] = (float)entropy;
    if (out.argmax) out.argmax[row] = (int32_t)~(uint32_t)best;
  }
  if (!h.g) return;
  __syncthreads(); // the label's logit was read
  const float dvalue = h.dvalue ? h.dvalue[row] : 1.0f, dentropy = h.dentropy ? h.dentropy[row] : 0.0f;
  const float each = dvalue * h.smoothing / (float)h.n, target = dvalue * (1.0f - h.smoothing), p_scale = dvalue * (float)(1.0 + 2.0 * h.z_loss * lse);
  const float log_total = (float)log_sum, entropy_of_row = (float)entropy;
  G* g = (G*)h.g + blockIdx.x * h.pitch;
  for (int64_t i = threadIdx.x; i < h.pitch; i += blockDim.x) {
    float d = 0.0f;
    if (i < h.n) {
      const float log_p = (l[i] - top) - log_total, p = expf(log_p);
      d = each - p * (p_scale + dentropy * (log_p + entropy_of_row));
      if (i == label) d += target;
      if (h.softcap > 0.0f) {
        const float t = l[i] / h.softcap;
        d *= 1.0f - t * t;
      }
      d *= h.logit_scale;
    }
    g[i] = from_float<G>(d);
  }
}

// The chunks of one call, and their scratch.
struct Head {
  const lr_head_args& a;
  const bool products, round;
  const int64_t t, k, n, most, parts, pitch_x, pitch_g;
  int32_t* kept;
  void *x, *g;
  float *logits, *dx;
  void* table;

  Head(const lr_head_args& args, Scratch& scratch, bool gradient_to_x, bool gradient)
      : a(args), products(gives_products(args)), round(!products && args.math == LR_MATH_BF16), t(args.x.shape[0]), k(args.x.shape[1]),
        n(products ? k : args.weight.n), most(chunk_rows(t, n)),
        parts(products ? 1 : ceil_div(n, kPartVocabulary)), pitch_x(round ? round_up(k, 8) : k), pitch_g(round ? round_up(n, 8) : n) {
    kept = scratch.take<int32_t>(t);
    logits = scratch.take<float>(most * n);
    x = scratch.take<uint8_t>(products ? 0 : most * pitch_x * (round ? 2 : 4));
    g = gradient && round ? (void*)scratch.take<uint8_t>(most * pitch_g * 2) : logits;
    dx = scratch.take<float>(gradient_to_x && !products ? parts * most * k : 0);
    table = scratch.take<uint8_t>(ProductList::bytes(1, 1));
  }

  // c (+)= the product of two operands, or its parts one behind the other; `depth` is their common length.
  void multiply(Side side, float* c, int64_t rows, int64_t columns, bool accumulate, const void* left, int64_t left_stride, int64_t depth, const lr_weight& right, int64_t count = 1) const {
    ProductList list;
    list.table = table;
    Product p = {};
    p.c = c;
    p.stride = p.columns = columns;
    p.rows = rows;
    p.accumulate = accumulate;
    p.parts = count;
    p.part_depth = count > 1 ? kPartVocabulary : 0;
    Term term = {};
    term.a = left;
    term.a_stride = left_stride;
    term.depth = depth;
    term.row_end = rows;
    term.b = right;
    list.add(p, {term});
    enqueue_products(list, side, a.math, Dropout{});
  }

  void chunk(int64_t first, int64_t rows, const Outputs& out, bool gradient, const float* dvalue, const float* dentropy, float* to_x, float* to_weight) const {
    const float* from = (const float*)a.x.data;
    const unsigned blocks = blocks_for(rows * pitch_x, kThreads);
    if (round) LR_LAUNCH(gather_rows_kernel<bf16>, blocks, kThreads, 0, (bf16*)x, from, kept + first, rows, k, pitch_x);
    else LR_LAUNCH(gather_rows_kernel<float>, blocks, kThreads, 0, products ? logits : (float*)x, from, kept + first, rows, k, pitch_x);
    if (!products) multiply(kForward, logits, rows, n, false, x, pitch_x, k, a.weight);
    const Rows h = {logits, gradient ? g : nullptr, n, pitch_g, kept + first, (const int32_t*)a.labels.data, dvalue, dentropy, a.softcap, a.logit_scale, a.smoothing, a.z_loss};
    const size_t shared = kThreads / kWarpSize * sizeof(double);
    if (round) LR_LAUNCH(head_rows_kernel<bf16>, (unsigned)rows, kThreads, shared, h, out);
    else LR_LAUNCH(head_rows_kernel<float>, (unsigned)rows, kThreads, shared, h, out);
    if (to_x) {
      if (!products) multiply(kBackward, dx, rows, k, false, g, pitch_g, n, a.weight, parts);
      LR_LAUNCH(scatter_rows_kernel, blocks_for(rows * k, kThreads), kThreads, 0, to_x, products ? (const float*)g : dx, parts, kept + first, rows, k);
    }
    if (to_weight) {
      lr_weight right = {};
      right.kind = LR_WEIGHT_DENSE;
      right.dtype = round ? LR_BF16 : LR_F32;
      right.data = x;
      right.n = rows;
      right.k = pitch_x;
      multiply(kOuter, to_weight, n, k, true, g, pitch_g, rows, right);
    }
  }

  // Every kept row, chunk after chunk. `out.dx` is what rows without a label get zeros in.
  lr_error run(lr_queue* queue, const char* op, const Outputs& out, bool gradient, const float* dvalue, const float* dentropy, float* to_weight) const {
    if (t == 0) return success();
    const int32_t* labels = (const int32_t*)a.labels.data;
    LR_LAUNCH(keep_rows_kernel, 1, kThreads, kListShared, next_finding(queue, op), kept, labels, t, n);
    Finding found = {};
    const lr_error error = read_finding(&found);
    if (error.code != LR_OK) return error;
    LR_LAUNCH(ignored_rows_kernel, blocks_for(t, 1), kThreads, 0, out, labels, t, k);
    for (int64_t first = 0, rows; first < found.at[0]; first += rows) {
      rows = min64(most, found.at[0] - first);
      chunk(first, rows, out, gradient, dvalue, dentropy, out.dx, to_weight);
    }
    return finish(op);
  }
};

}  // namespace

lr_error token_logprob(lr_queue* queue, const lr_head_args* args) {
  const lr_head_args& a = *args;
  const lr_error e = check_token_logprob(a);
  if (e.code) return e;
  Scratch scratch(queue);
  const bool gradient = a.dx_unit.data != nullptr;
  const Head head(a, scratch, gradient, gradient);
  if (scratch.sizing()) return success();
  const Outputs out = {(float*)a.value.data, (float*)a.entropy.data, (float*)a.dx_unit.data, (int32_t*)a.argmax.data};
  return head.run(queue, "token_logprob", out, gradient, nullptr, nullptr, nullptr);
}

lr_error token_logprob_grad(lr_queue* queue, const lr_head_args* args) {
  const lr_head_args& a = *args;
  const lr_error e = check_token_logprob_grad(a);
  if (e.code) return e;
  Scratch scratch(queue);
  const Head head(a, scratch, a.dx.data != nullptr, true);
  if (scratch.sizing()) return success();
  const Outputs out = {nullptr, nullptr, (float*)a.dx.data, nullptr};
  return head.run(queue, "token_logprob_grad", out, true, (const float*)a.dvalue.data, (const float*)a.dentropy.data, (float*)a.dweight.data);
}

}  // namespace lr
