/* token_logprob and its gradient: the output head fused with log-probabilities, one chunk of logits [rows, V] at a time.
 *
 *   l = softcap(logit_scale * x Wᵀ);  value = (1 - e) log p[label] + e mean log p - z lse²;  entropy = lse - sum p l
 *   d value / d l[v]   = (1 - e) [v = label] + e / V - p[v] (1 + 2 z lse)
 *   d entropy / d l[v] = -p[v] (log p[v] + entropy);   d l / d (x Wᵀ) = logit_scale (1 - (l / c)²)
 *
 * Rows labelled -100 are dropped first: what remains is gathered. A chunk lies in slabs of kSlab columns, each within the second cache:
 * its statistics are taken right after its product, its gradient right before the products that need it. Sums over a slab are in f32 by
 * lanes, over slabs in double; the gradient of x is summed over a fixed number of parts of the slabs, whatever the threads.
 * Without a weight x holds the products already, and dx is their gradient.
 */
#ifndef LOWRANK_CPU_OPS_HEAD_H
#define LOWRANK_CPU_OPS_HEAD_H
#include "../../abi/head.h"
#include "../simd/math.h"
#include "common.h"
#include "lora.h"

namespace LR_ISA { namespace {

constexpr int64_t kChunkLogits = 12 << 20; /* floats of a chunk of logits: 48 MB */
constexpr int64_t kSlab = kDepth;          /* columns of a slab: one block of the reduction of dx */
constexpr int64_t kSlabRow = kSlab + kLanes; /* rows of a slab apart by no power of two, which would meet in the same lines of a cache */
constexpr int64_t kHeadParts = 16;

LR_INLINE Split head_chunks(int64_t rows, int64_t vocabulary) { return Split(rows, max64(8, min64(1024, kChunkLogits / vocabulary))); }

/* Of one row in one slab: sums over l - base of p = exp(l - base), p (l - base) and l - base. */
struct SlabStats {
  float top; /* -inf when nothing in it is above */
  double total, weighted, plain;
  LR_INLINE float base() const { return top == -__builtin_inff() ? 0.0f : top; }
};

/* What the softmax of one row gives. `log_sum` is log sum exp(l - top). */
struct RowStats {
  float top;
  double log_sum, mean, entropy; /* mean: of l - top over V */
  LR_INLINE double lse() const { return top + log_sum; }
};

/* Turns products into logits in place and sums them up. */
SlabStats softmax_slab(float* l, int64_t n, float logit_scale, float softcap) {
  VF highest = VF::set(-__builtin_inff());
  auto transform = [&](VF v) {
    v = v * VF::set(logit_scale);
    return softcap > 0 ? VF::set(softcap) * tanh(v / VF::set(softcap)) : v;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    VF v = transform(VF::load(l + i));
    v.store(l + i);
    highest = max(v, highest);
  }
  SlabStats s = {hmax(highest), 0, 0, 0};
  for (; i < n; i++) {
    l[i] = transform(VF::set(l[i]))[0];
    if (l[i] > s.top) s.top = l[i];
  }
  const float base = s.base();
  VF a = VF::zero(), b = VF::zero(), c = VF::zero();
  for (i = 0; i + kLanes <= n; i += kLanes) {
    VF d = VF::load(l + i) - VF::set(base), p = exp(d);
    a = a + p;
    b = fma(p, d, b);
    c = c + d;
  }
  s.total = sum(a);
  s.weighted = sum(b);
  s.plain = sum(c);
  for (; i < n; i++) {
    float d = l[i] - base, p = exp_scalar(d);
    s.total += p;
    s.weighted += p * d;
    s.plain += d;
  }
  return s;
}

/* Of a row whose slab s has its statistics at slabs[s * stride]. */
RowStats softmax_row(const SlabStats* slabs, int64_t count, int64_t stride, int64_t n) {
  RowStats r = {-__builtin_inff(), 0, 0, 0};
  for (int64_t s = 0; s < count; s++)
    if (slabs[s * stride].top > r.top) r.top = slabs[s * stride].top;
  double total = 0, weighted = 0, plain = 0;
  for (int64_t s = 0; s < count; s++) {
    const SlabStats& slab = slabs[s * stride];
    const double below = (double)slab.base() - r.top, factor = slab.top == -__builtin_inff() ? 0.0 : exp_scalar((float)below);
    total += factor * slab.total;
    weighted += factor * (slab.weighted + below * slab.total);
    plain += slab.plain + below * (double)min64(kSlab, n - s * kSlab);
  }
  r.log_sum = log_scalar((float)total);
  r.mean = plain / (double)n;
  r.entropy = r.log_sum - weighted / total;
  return r;
}

/* Logits become d (dvalue value + dentropy entropy) / d products, in place, for `n` of the `vocabulary`; label: its place among them, if it is. */
void logits_grad(float* l, int64_t n, int64_t vocabulary, const RowStats& s, int64_t label, const lr_head_args& args, float dvalue, float dentropy) {
  float each = dvalue * args.smoothing / (float)vocabulary, p_scale = dvalue * (float)(1.0 + 2.0 * args.z_loss * s.lse());
  float entropy = (float)s.entropy, log_sum = (float)s.log_sum, inverse = args.softcap > 0 ? 1.0f / args.softcap : 0;
  auto grad = [&](VF v) {
    VF log_p = (v - VF::set(s.top)) - VF::set(log_sum), p = exp(log_p);
    VF g = VF::set(each) - p * (VF::set(p_scale) + VF::set(dentropy) * (log_p + VF::set(entropy)));
    if (inverse > 0) {
      VF t = v * VF::set(inverse);
      g = g * (VF::set(1.0f) - t * t);
    }
    return g * VF::set(args.logit_scale);
  };
  const bool holds = label >= 0 && label < n;
  float t = holds ? l[label] * inverse : 0, target = dvalue * (1.0f - args.smoothing) * (1.0f - t * t) * args.logit_scale;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) grad(VF::load(l + i)).store(l + i);
  if (i < n) store_n(grad(load_n<VF>(l + i, n - i)), l + i, n - i);
  if (holds) l[label] += target;
}

/* Factors of a row's value and entropy. */
struct Weights { float dvalue, dentropy; };

/* One chunk after the other of the kept rows. */
struct Head {
  lr_queue* queue;
  const lr_head_args& args;
  bool products; /* x holds them */
  int64_t t, k, n, kept = 0, most, slabs;
  Split parts; /* of the slabs */
  int64_t* index; /* kept rows */
  float *x, *packed_x, *logits, *packed, *dx, *buffers;
  SlabStats* slab_stats;
  RowStats* stats;

  /* `gradient`: to x; `outer`: to W. */
  Head(lr_queue* q, const lr_head_args& a, Scratch& scratch, bool gradient, bool outer)
      : queue(q), args(a), products(gives_products(a)), t(a.x.shape[0]), k(a.x.shape[1]), n(products ? k : a.weight.n), slabs(ceil_div(n, kSlab)), parts(slabs, ceil_div(slabs, kHeadParts)) {
    most = t ? ceil_div(t, head_chunks(t, n).parts) : 0;
    index = scratch.take<int64_t>(t);
    x = scratch.take<float>(products ? 0 : most * k);
    packed_x = scratch.take<float>(products ? 0 : most * k);
    logits = scratch.take<float>(slabs * most * kSlabRow);
    packed = scratch.take<float>((gradient || outer) && !products ? queue->threads * most * kSlab : 0);
    dx = scratch.take<float>(gradient && !products ? parts.parts * most * dx_row() : 0);
    slab_stats = scratch.take<SlabStats>(slabs * most);
    stats = scratch.take<RowStats>(most);
    buffers = scratch.take<float>(queue->threads * kPanelBuffer);
  }

  LR_INLINE int32_t label(int64_t row) const { return static_cast<const int32_t*>(args.labels.data)[row]; }
  LR_INLINE float* slab_row(int64_t slab, int64_t i) const { return logits + (slab * most + i) * kSlabRow; }
  LR_INLINE int64_t columns_of(int64_t slab) const { return min64(kSlab, n - slab * kSlab); }
  LR_INLINE float logit(int64_t i, int64_t v) const { return slab_row(v / kSlab, i)[v % kSlab]; }
  LR_INLINE int64_t dx_row() const { return k + kLanes; }
  LR_INLINE bool round() const { return args.math == LR_MATH_BF16; }

  lr_error keep(const char* op) {
    for (int64_t i = 0; i < t; i++) {
      if (label(i) == kIgnored) continue;
      if (label(i) < 0 || label(i) >= n) return invalid(op, "label %d of row %lld is outside [0, %lld) and is not %d", label(i), (long long)i, (long long)n, kIgnored);
      index[kept++] = i;
    }
    return success();
  }

  /* The logits of kept rows [first, first + rows), and each row's statistics. */
  void forward(int64_t first, int64_t rows) {
    PackedA a(packed_x, rows, k, round());
    if (!products)
      parallel_for(queue, a.rows.parts, [&](int64_t panel, int32_t) {
        for (int64_t i = a.rows.begin(panel); i < a.rows.begin(panel + 1); i++) memcpy(x + i * k, given(first + i), (size_t)k * sizeof(float));
        pack_a(a, panel, panel + 1, x, k, false, 1.0f, round());
      });
    const OperandB w = {args.weight, true, round()};
    parallel_for(queue, slabs, [&](int64_t slab, int32_t thread) {
      const int64_t columns = columns_of(slab);
      if (products)
        for (int64_t i = 0; i < rows; i++) memcpy(slab_row(slab, i), given(first + i) + slab * kSlab, (size_t)columns * sizeof(float));
      else
        for (int64_t j = 0; j < columns; j += kPanel) multiply_panel(a, 0, a.rows.parts, w, slab * kSlab + j, slab_row(slab, 0) + j, kSlabRow, false, buffers + thread * kPanelBuffer);
      for (int64_t i = 0; i < rows; i++) slab_stats[slab * most + i] = softmax_slab(slab_row(slab, i), columns, args.logit_scale, args.softcap);
    });
    parallel_for(queue, rows, [&](int64_t i, int32_t) { stats[i] = softmax_row(slab_stats + i, slabs, most, n); });
  }
  LR_INLINE const float* given(int64_t row) const { return f32(args.x) + index[row] * k; }

  /* The first of the highest logits of a row; 0 where all are NaN. */
  int64_t argmax(int64_t i) const {
    for (int64_t slab = 0; slab < slabs; slab++)
      if (slab_stats[slab * most + i].top == stats[i].top)
        for (int64_t j = 0; j < columns_of(slab); j++)
          if (slab_row(slab, i)[j] == stats[i].top) return slab * kSlab + j;
    return 0;
  }

  /* The gradients of the logits, weights_of(i) = {dvalue, dentropy} of a row; their products go to `to` [T, k] and are added to dweight, where asked for. */
  template <typename WeightsOf> void backward(int64_t first, int64_t rows, const WeightsOf& weights_of, float* to, float* dweight) {
    const OperandB w = {args.weight, false, round()}, by_rows = {dense_f32(x, rows, k), false, round()};
    parallel_for(queue, parts.parts, [&](int64_t part, int32_t thread) {
      float *buffer = buffers + thread * kPanelBuffer, *mine = packed + thread * most * kSlab, *sum = dx + part * most * dx_row();
      for (int64_t slab = parts.begin(part); slab < parts.begin(part + 1); slab++) {
        const int64_t begin = slab * kSlab, columns = columns_of(slab);
        for (int64_t i = 0; i < rows; i++) {
          if (to && !products) { /* the rows of W that the slab needs next, as many at a time */
            const int64_t from = columns * i / rows;
            w.fetch(0, k, begin + from, columns * (i + 1) / rows - from);
          }
          const auto [dvalue, dentropy] = weights_of(i);
          logits_grad(slab_row(slab, i), columns, n, stats[i], label(index[first + i]) - begin, args, dvalue, dentropy);
          if (products && to) memcpy(to + index[first + i] * k + begin, slab_row(slab, i), (size_t)columns * sizeof(float));
        }
        if (products) continue;
        if (dweight) {
          PackedA a(mine, columns, rows, round());
          pack_a(a, 0, a.rows.parts, slab_row(slab, 0), kSlabRow, true, 1.0f, round());
          for (int64_t j = 0; j < k; j += kPanel) multiply_panel(a, 0, a.rows.parts, by_rows, j, dweight + begin * k + j, k, true, buffer);
        }
        if (to) {
          PackedA a(mine, rows, columns, round());
          pack_a(a, 0, a.rows.parts, slab_row(slab, 0), kSlabRow, false, 1.0f, round());
          for (int64_t j = 0; j < k; j += kPanel) {
            const int64_t width = min64(kPanel, k - j);
            w.pack(j, width, begin, columns, buffer);
            multiply_block(a, 0, a.rows.parts, 0, buffer, round(), {sum + j, dx_row(), slab > parts.begin(part) ? sum + j : nullptr, dx_row()}, width);
          }
        }
      }
    });
    if (to && !products)
      parallel_for(queue, rows, [&](int64_t i, int32_t) {
        float* out = to + index[first + i] * k;
        memcpy(out, dx + i * dx_row(), (size_t)k * sizeof(float));
        for (int64_t part = 1; part < parts.parts; part++)
          for (int64_t j = 0; j < k; j++) out[j] += dx[(part * most + i) * dx_row() + j];
      });
  }
};

lr_error token_logprob(lr_queue* queue, const lr_head_args* arguments) {
  const lr_head_args& a = *arguments;
  lr_error e = check_token_logprob(a);
  if (e.code) return e;
  int64_t t = a.x.shape[0];
  Scratch scratch(queue);
  Head head(queue, a, scratch, a.dx_unit.data != nullptr, false);
  if (scratch.sizing()) return success();
  e = head.keep("token_logprob");
  if (e.code) return e;

  float *value = f32_out(a.value), *entropy = f32_out(a.entropy);
  int32_t* argmax = static_cast<int32_t*>(a.argmax.data);
  for (int64_t i = 0; i < t; i++) {
    if (head.label(i) != kIgnored) continue;
    value[i] = 0;
    if (entropy) entropy[i] = 0;
    if (argmax) argmax[i] = -1;
    if (a.dx_unit.data) memset(f32_out(a.dx_unit) + i * head.k, 0, (size_t)head.k * sizeof(float));
  }
  for (int64_t first = 0; first < head.kept; first += head.most) {
    int64_t rows = min64(head.most, head.kept - first);
    head.forward(first, rows);
    parallel_for(queue, rows, [&](int64_t i, int32_t) {
      const RowStats& s = head.stats[i];
      int64_t row = head.index[first + i];
      double own = (double)head.logit(i, head.label(row)) - s.top - s.log_sum, all = s.mean - s.log_sum, lse = s.lse();
      value[row] = (float)((1.0 - a.smoothing) * own + (a.smoothing > 0 ? a.smoothing * all : 0.0) - a.z_loss * lse * lse);
      if (entropy) entropy[row] = (float)s.entropy;
      if (argmax) argmax[row] = (int32_t)head.argmax(i);
    });
    if (a.dx_unit.data) head.backward(first, rows, [](int64_t) { return Weights{1.0f, 0.0f}; }, f32_out(a.dx_unit), nullptr);
  }
  return success();
}

lr_error token_logprob_grad(lr_queue* queue, const lr_head_args* arguments) {
  const lr_head_args& a = *arguments;
  lr_error e = check_token_logprob_grad(a);
  if (e.code) return e;
  int64_t t = a.x.shape[0];
  Scratch scratch(queue);
  Head head(queue, a, scratch, a.dx.data != nullptr, a.dweight.data != nullptr);
  if (scratch.sizing()) return success();
  e = head.keep("token_logprob_grad");
  if (e.code) return e;

  for (int64_t i = 0; a.dx.data && i < t; i++)
    if (head.label(i) == kIgnored) memset(f32_out(a.dx) + i * head.k, 0, (size_t)head.k * sizeof(float));
  for (int64_t first = 0; first < head.kept; first += head.most) {
    int64_t rows = min64(head.most, head.kept - first);
    head.forward(first, rows);
    auto weights_of = [&](int64_t i) {
      const int64_t row = head.index[first + i];
      return Weights{f32(a.dvalue)[row], a.dentropy.data ? f32(a.dentropy)[row] : 0.0f};
    };
    head.backward(first, rows, weights_of, f32_out(a.dx), f32_out(a.dweight));
  }
  return success();
}

}}  // namespace LR_ISA
#endif
