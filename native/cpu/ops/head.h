/* token_logprob and its gradient: the output head fused with log-probabilities, one chunk of logits [rows, V] at a time.
 *
 *   l = softcap(logit_scale * x Wᵀ);  value = (1 - e) log p[label] + e mean log p - z lse²;  entropy = lse - sum p l
 *   d value / d l[v]   = (1 - e) [v = label] + e / V - p[v] (1 + 2 z lse)
 *   d entropy / d l[v] = -p[v] (log p[v] + entropy);   d l / d (x Wᵀ) = logit_scale (1 - (l / c)²)
 *
 * Rows labelled -100 are dropped first: what remains is gathered. Sums over V are kept in double, by blocks of f32.
 * Without a weight x holds the products already, and dx is their gradient.
 */
#ifndef LOWRANK_CPU_OPS_HEAD_H
#define LOWRANK_CPU_OPS_HEAD_H
#include "../../abi/head.h"
#include "../simd/math.h"
#include "common.h"
#include "lora.h"

namespace LR_ISA { namespace {

constexpr int64_t kChunkLogits = 6 << 20; /* floats of a chunk of logits: 24 MB */

LR_INLINE Split head_chunks(int64_t rows, int64_t vocabulary) { return Split(rows, max64(8, min64(1024, kChunkLogits / vocabulary))); }

/* What the softmax of one row gives. `log_sum` is log sum exp(l - top). */
struct RowStats {
  float top;
  double log_sum, mean, entropy; /* mean: of l - top over V */
  int64_t argmax;
  LR_INLINE double lse() const { return top + log_sum; }
};

/* Turns products into logits in place and sums them up. */
RowStats softmax_row(float* l, int64_t n, float logit_scale, float softcap) {
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
  RowStats s = {hmax(highest), 0, 0, 0, 0};
  for (; i < n; i++) {
    l[i] = transform(VF::set(l[i]))[0];
    if (l[i] > s.top) s.top = l[i];
  }
  while (s.argmax < n - 1 && l[s.argmax] != s.top) s.argmax++;
  if (l[s.argmax] != s.top) s.argmax = 0; /* NaN everywhere */
  const VF top = VF::set(s.top), zero = VF::zero();
  double total = 0, weighted = 0, plain = 0;
  for (i = 0; i < n; i += 64 * kLanes) {
    VF a = zero, b = zero, c = zero;
    int64_t end = min64(n, i + 64 * kLanes), j = i;
    for (; j + kLanes <= end; j += kLanes) {
      VF d = VF::load(l + j) - top, p = exp(d);
      a = a + p;
      b = fma(p, d, b);
      c = c + d;
    }
    total += sum(a);
    weighted += sum(b);
    plain += sum(c);
    for (; j < end; j++) {
      float d = l[j] - s.top, p = exp_scalar(d);
      total += p;
      weighted += p * d;
      plain += d;
    }
  }
  s.log_sum = log_scalar((float)total);
  s.mean = plain / (double)n;
  s.entropy = s.log_sum - weighted / total;
  return s;
}

/* Logits become d (dvalue value + dentropy entropy) / d products, in place. */
void logits_grad(float* l, int64_t n, const RowStats& s, int64_t label, const lr_head_args& args, float dvalue, float dentropy) {
  float each = dvalue * args.smoothing / (float)n, p_scale = dvalue * (float)(1.0 + 2.0 * args.z_loss * s.lse());
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
  float t = l[label] * inverse, target = dvalue * (1.0f - args.smoothing) * (1.0f - t * t) * args.logit_scale;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) grad(VF::load(l + i)).store(l + i);
  if (i < n) store_n(grad(load_n<VF>(l + i, n - i)), l + i, n - i);
  l[label] += target;
}

/* One chunk after the other of the kept rows. */
struct Head {
  lr_queue* queue;
  const lr_head_args& args;
  bool products; /* x holds them */
  int64_t t, k, n, kept = 0, most;
  int64_t* index; /* kept rows */
  float *x, *packed_x, *logits, *packed, *dx, *buffers;
  RowStats* stats;

  /* `gradient`: to x; `outer`: to W. */
  Head(lr_queue* q, const lr_head_args& a, Scratch& scratch, bool gradient, bool outer) : queue(q), args(a), products(gives_products(a)), t(a.x.shape[0]), k(a.x.shape[1]), n(products ? k : a.weight.n) {
    most = t ? ceil_div(t, head_chunks(t, n).parts) : 0;
    index = scratch.take<int64_t>(t);
    x = scratch.take<float>(products ? 0 : most * k);
    packed_x = scratch.take<float>(products ? 0 : most * k);
    logits = scratch.take<float>(most * n);
    packed = scratch.take<float>(max64(gradient && !products ? most * n : 0, outer ? outer_product_room(n, most) : 0));
    dx = scratch.take<float>(gradient && !products ? most * k : 0);
    stats = scratch.take<RowStats>(most);
    buffers = scratch.take<float>(queue->threads * kPanelBuffer);
  }

  LR_INLINE int32_t label(int64_t row) const { return static_cast<const int32_t*>(args.labels.data)[row]; }

  lr_error keep(const char* op) {
    for (int64_t i = 0; i < t; i++) {
      if (label(i) == kIgnored) continue;
      if (label(i) < 0 || label(i) >= n) return invalid(op, "label %d of row %lld is outside [0, %lld) and is not %d", label(i), (long long)i, (long long)n, kIgnored);
      index[kept++] = i;
    }
    return success();
  }
  LR_INLINE bool round() const { return args.math == LR_MATH_BF16; }

  /* The logits of kept rows [first, first + rows), and each row's statistics. */
  void forward(int64_t first, int64_t rows) {
    if (products)
      parallel_for(queue, rows, [&](int64_t i, int32_t) { gather(logits, i, first); });
    else
      multiply(first, rows);
    parallel_for(queue, rows, [&](int64_t i, int32_t) { stats[i] = softmax_row(logits + i * n, n, args.logit_scale, args.softcap); });
  }
  LR_INLINE void gather(float* to, int64_t i, int64_t first) { memcpy(to + i * k, f32(args.x) + index[first + i] * k, (size_t)k * sizeof(float)); }
  void multiply(int64_t first, int64_t rows) {
    PackedA a(packed_x, rows, k);
    parallel_for(queue, a.rows.parts, [&](int64_t panel, int32_t) {
      for (int64_t i = a.rows.begin(panel); i < a.rows.begin(panel + 1); i++) gather(x, i, first);
      pack_a(a, panel, panel + 1, x, k, false, 1.0f, round());
    });
    OperandB w = {args.weight, true, round()};
    parallel_for(queue, ceil_div(n, kPanel), [&](int64_t task, int32_t thread) {
      multiply_panel(a, 0, a.rows.parts, w, task * kPanel, logits + task * kPanel, n, false, buffers + thread * kPanelBuffer);
    });
  }

  /* to[index[first + i]] = the gradient in `logits` times W. */
  void gradient_to_x(int64_t first, int64_t rows, float* to) {
    if (products) {
      parallel_for(queue, rows, [&](int64_t i, int32_t) { memcpy(to + index[first + i] * k, logits + i * k, (size_t)k * sizeof(float)); });
      return;
    }
    PackedA a(packed, rows, n);
    parallel_for(queue, a.rows.parts, [&](int64_t panel, int32_t) { pack_a(a, panel, panel + 1, logits, n, false, 1.0f, round()); });
    OperandB w = {args.weight, false, round()};
    parallel_for(queue, ceil_div(k, kPanel), [&](int64_t task, int32_t thread) {
      multiply_panel(a, 0, a.rows.parts, w, task * kPanel, dx + task * kPanel, k, false, buffers + thread * kPanelBuffer);
    });
    for (int64_t i = 0; i < rows; i++) memcpy(to + index[first + i] * k, dx + i * k, (size_t)k * sizeof(float));
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
      int32_t label = head.label(row);
      float* l = head.logits + i * head.n;
      double own = (double)l[label] - s.top - s.log_sum, all = s.mean - s.log_sum, lse = s.lse();
      value[row] = (float)((1.0 - a.smoothing) * own + (a.smoothing > 0 ? a.smoothing * all : 0.0) - a.z_loss * lse * lse);
      if (entropy) entropy[row] = (float)s.entropy;
      if (argmax) argmax[row] = (int32_t)s.argmax;
      if (a.dx_unit.data) logits_grad(l, head.n, s, label, a, 1.0f, 0.0f);
    });
    if (a.dx_unit.data) head.gradient_to_x(first, rows, f32_out(a.dx_unit));
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
    parallel_for(queue, rows, [&](int64_t i, int32_t) {
      int64_t row = head.index[first + i];
      logits_grad(head.logits + i * head.n, head.n, head.stats[i], head.label(row), a, f32(a.dvalue)[row], a.dentropy.data ? f32(a.dentropy)[row] : 0.0f);
    });
    if (a.dx.data) head.gradient_to_x(first, rows, f32_out(a.dx));
    if (a.dweight.data) add_outer_product(queue, f32_out(a.dweight), head.logits, head.x, rows, head.n, head.k, head.round(), head.packed, head.buffers, kPanelBuffer);
  }
  return success();
}

}}  // namespace LR_ISA
#endif
