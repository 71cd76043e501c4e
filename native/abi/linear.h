/* What the entries of the linears ask of their arguments, on every device. */
#ifndef LOWRANK_ABI_LINEAR_H
#define LOWRANK_ABI_LINEAR_H
#include "activation.h"

namespace lr { namespace {

constexpr int kMaxLayers = 8;

inline __attribute__((unused)) int64_t rank_of(const lr_segment& s) { return s.a.shape[0]; }
inline __attribute__((unused)) int64_t max_rank(const lr_linear& layer) {
  int64_t r = 0;
  for (int s = 0; s < layer.segment_count; s++) r = max64(r, rank_of(layer.segments[s]));
  return r;
}

inline __attribute__((unused)) bool is_matrix(const lr_tensor& t, int64_t rows, int64_t columns) {
  return t.data && t.dtype == LR_F32 && t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns;
}

__attribute__((unused)) lr_error check_weight(const char* op, const lr_weight& w) {
  if (w.n < 1 || w.k < 1 || !w.data) return invalid(op, "the weight is empty");
  if (w.kind == LR_WEIGHT_DENSE) {
    if (w.dtype != LR_F32 && w.dtype != LR_BF16 && w.dtype != LR_F16) return invalid(op, "a dense weight must be float32, bfloat16 or float16, not dtype %d", w.dtype);
    return success();
  }
  if (w.kind != LR_WEIGHT_4BIT) return invalid(op, "unknown kind of weight %d", w.kind);
  if (!w.code || !w.absmax || w.blocksize < 1) return invalid(op, "a 4-bit weight needs code, absmax and a blocksize above 0 (it has %d)", w.blocksize);
  if (w.nested_absmax && (!w.nested_code || !w.nested_offset || w.nested_blocksize < 1)) return invalid(op, "a nested absmax needs nested_code, nested_offset and a nested_blocksize above 0");
  return success();
}

/* What both entries ask of a group. */
__attribute__((unused)) lr_error check_group(const char* op, const lr_linear_group& g) {
  if (!g.x.data || g.x.dtype != LR_F32 || g.x.rank != 2) return invalid(op, "x must be float32 [rows, k]");
  if (g.count < 1 || g.count > kMaxLayers) return invalid(op, "a group has 1 to %d layers, not %d", kMaxLayers, g.count);
  if (!(g.dropout.p >= 0.0f && g.dropout.p < 1.0f)) return invalid(op, "dropout must be in [0, 1), not %g", (double)g.dropout.p);
  int64_t rows = g.x.shape[0], k = g.x.shape[1];
  for (int l = 0; l < g.count; l++) {
    const lr_linear& layer = g.layers[l];
    lr_error e = check_weight(op, layer.weight);
    if (e.code) return e;
    int64_t n = layer.weight.n;
    if (layer.weight.k != k) return invalid(op, "layer %d: the weight takes %lld features but x has %lld", l, (long long)layer.weight.k, (long long)k);
    if (!(g.gated.data && !layer.y.data) && !is_matrix(layer.y, rows, n)) return invalid(op, "layer %d: y must be float32 [%lld, %lld]", l, (long long)rows, (long long)n);
    if (layer.residual.data && !is_matrix(layer.residual, rows, n)) return invalid(op, "layer %d: residual must be float32 [%lld, %lld]", l, (long long)rows, (long long)n);
    if (layer.bias.data && (layer.bias.dtype > LR_F16 || elements(layer.bias) != n)) return invalid(op, "layer %d: bias must be float32, bfloat16 or float16 [%lld]", l, (long long)n);
    int64_t last = 0;
    for (int i = 0; i < layer.segment_count; i++) {
      const lr_segment& s = layer.segments[i];
      if (s.row_begin < last || s.row_end < s.row_begin || s.row_end > rows) return invalid(op, "layer %d: segment %d has rows [%lld, %lld) of %lld; segments ascend and do not overlap", l, i, (long long)s.row_begin, (long long)s.row_end, (long long)rows);
      last = s.row_end;
      int64_t r = s.a.rank == 2 ? s.a.shape[0] : 0;
      if (r < 1 || !is_matrix(s.a, r, k)) return invalid(op, "layer %d: segment %d: A must be float32 [r, %lld]", l, i, (long long)k);
      if (!is_matrix(s.b, n, r)) return invalid(op, "layer %d: segment %d: B must be float32 [%lld, %lld]", l, i, (long long)n, (long long)r);
    }
    int64_t r = max_rank(layer);
    const lr_tensor& u = layer.u;
    if (r && u.data && (u.dtype != LR_F32 || u.rank != 2 || u.shape[0] != rows || u.shape[1] < r)) return invalid(op, "layer %d: u must be float32 [%lld, at least %lld]", l, (long long)rows, (long long)r);
  }
  if (!g.gated.data) return success();
  int64_t n = g.layers[0].weight.n;
  if (g.count != 2 || g.layers[1].weight.n != n || g.layers[0].residual.data || g.layers[1].residual.data) return invalid(op, "gated takes two layers of as many outputs and no residual");
  if (!is_matrix(g.gated, rows, n)) return invalid(op, "gated must be float32 [%lld, %lld]", (long long)rows, (long long)n);
  Check check(op);
  check_activation(check, g.activation);
  return check.failed ? check.error : success();
}

inline __attribute__((unused)) bool trains(const lr_segment& s) { return s.da.data || s.db.data; }
inline __attribute__((unused)) bool trains(const lr_linear& layer) {
  for (int i = 0; i < layer.segment_count; i++)
    if (trains(layer.segments[i])) return true;
  return false;
}

__attribute__((unused)) lr_error check_linear_grad(const lr_linear_group& g) {
  lr_error e = check_group("linear_grad", g);
  if (e.code) return e;
  if (g.gated.data) return invalid("linear_grad", "gated is of linear only");
  int64_t rows = g.x.shape[0], k = g.x.shape[1];
  if (g.dx.data && !is_matrix(g.dx, rows, k)) return invalid("linear_grad", "dx must be float32 [%lld, %lld]", (long long)rows, (long long)k);
  for (int l = 0; l < g.count; l++) {
    const lr_linear& layer = g.layers[l];
    for (int i = 0; i < layer.segment_count; i++) {
      const lr_segment& s = layer.segments[i];
      if (trains(s) && !layer.u.data) return invalid("linear_grad", "layer %d: u must be present", l);
      if (s.da.data && !is_matrix(s.da, rank_of(s), k)) return invalid("linear_grad", "layer %d: segment %d: dA must have the shape of A", l, i);
      if (s.db.data && !is_matrix(s.db, layer.weight.n, rank_of(s))) return invalid("linear_grad", "layer %d: segment %d: dB must have the shape of B", l, i);
    }
  }
  return success();
}

__attribute__((unused)) lr_error check_linear_dw(const lr_tensor& dweight, const lr_tensor& dbias, const lr_tensor& dy, const lr_tensor& x) {
  if (!dy.data || dy.dtype != LR_F32 || dy.rank != 2) return invalid("linear_dw", "dy must be float32 [rows, n]");
  int64_t m = dy.shape[0], n = dy.shape[1], k = x.rank == 2 ? x.shape[1] : 0;
  if (dweight.data && !is_matrix(x, m, k)) return invalid("linear_dw", "x must be float32 [%lld, k]", (long long)m);
  if (dweight.data && !is_matrix(dweight, n, k)) return invalid("linear_dw", "dweight must be float32 [%lld, %lld]", (long long)n, (long long)k);
  if (dbias.data && (dbias.dtype != LR_F32 || elements(dbias) != n)) return invalid("linear_dw", "dbias must be float32 [%lld]", (long long)n);
  return success();
}

}}  // namespace lr
#endif
