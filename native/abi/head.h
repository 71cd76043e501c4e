/* What token_logprob and its gradient ask of their arguments on every device. */
#ifndef LOWRANK_ABI_HEAD_H
#define LOWRANK_ABI_HEAD_H
#include "linear.h"

namespace lr { namespace {

constexpr int32_t kIgnored = -100;

__attribute__((unused)) bool is_vector(const lr_tensor& t, int32_t dtype, int64_t n) { return t.data && t.dtype == dtype && elements(t) == n; }

/* Without a weight x holds the products x Wᵀ themselves. */
__attribute__((unused)) bool gives_products(const lr_head_args& a) { return a.weight.data == nullptr; }

__attribute__((unused)) lr_error check_head(const char* op, const lr_head_args& a) {
  if (gives_products(a)) {
    if (!a.x.data || a.x.dtype != LR_F32 || a.x.rank != 2 || a.x.shape[1] < 1) return invalid(op, "x must be float32 [T, V] without a weight");
    if (a.dweight.data) return invalid(op, "dweight needs a weight");
  } else {
    lr_error e = check_weight(op, a.weight);
    if (e.code) return e;
    if (!a.x.data || a.x.dtype != LR_F32 || a.x.rank != 2 || a.x.shape[1] != a.weight.k) return invalid(op, "x must be float32 [T, %lld]", (long long)a.weight.k);
  }
  int64_t t = a.x.shape[0];
  if (!is_vector(a.labels, LR_I32, t)) return invalid(op, "labels must be int32 [%lld]", (long long)t);
  if (!(a.softcap >= 0) || !(a.smoothing >= 0 && a.smoothing <= 1)) return invalid(op, "softcap must be 0 or above and smoothing in [0, 1]; they are %g and %g", (double)a.softcap, (double)a.smoothing);
  /* An output on top of the labels would replace them between check and use. */
  Check check(op);
  check.apart("labels", a.labels, "value", a.value);
  check.apart("labels", a.labels, "entropy", a.entropy);
  check.apart("labels", a.labels, "argmax", a.argmax);
  check.apart("labels", a.labels, "dx_unit", a.dx_unit);
  check.apart("labels", a.labels, "dx", a.dx);
  check.apart("labels", a.labels, "dweight", a.dweight);
  return check.error;
}

__attribute__((unused)) lr_error check_token_logprob(const lr_head_args& a) {
  const char* op = "token_logprob";
  lr_error e = check_head(op, a);
  if (e.code) return e;
  int64_t t = a.x.shape[0], k = a.x.shape[1];
  if (!is_vector(a.value, LR_F32, t)) return invalid(op, "value must be float32 [%lld]", (long long)t);
  if (a.entropy.data && !is_vector(a.entropy, LR_F32, t)) return invalid(op, "entropy must be float32 [%lld]", (long long)t);
  if (a.argmax.data && !is_vector(a.argmax, LR_I32, t)) return invalid(op, "argmax must be int32 [%lld]", (long long)t);
  if (a.dx_unit.data && !is_matrix(a.dx_unit, t, k)) return invalid(op, "dx_unit must be float32 [%lld, %lld]", (long long)t, (long long)k);
  return success();
}

__attribute__((unused)) lr_error check_token_logprob_grad(const lr_head_args& a) {
  const char* op = "token_logprob_grad";
  lr_error e = check_head(op, a);
  if (e.code) return e;
  int64_t t = a.x.shape[0], n = a.weight.n, k = a.x.shape[1];
  if (!is_vector(a.dvalue, LR_F32, t)) return invalid(op, "dvalue must be float32 [%lld]", (long long)t);
  if (a.dentropy.data && !is_vector(a.dentropy, LR_F32, t)) return invalid(op, "dentropy must be float32 [%lld]", (long long)t);
  if (a.dx.data && !is_matrix(a.dx, t, k)) return invalid(op, "dx must be float32 [%lld, %lld]", (long long)t, (long long)k);
  if (a.dweight.data && !is_matrix(a.dweight, n, k)) return invalid(op, "dweight must be float32 [%lld, %lld]", (long long)n, (long long)k);
  return success();
}

}}  // namespace lr
#endif
