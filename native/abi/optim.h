/* What the optimizers ask of an arena, its segments and their moments on every device. */
#ifndef LOWRANK_ABI_OPTIM_H
#define LOWRANK_ABI_OPTIM_H
#include "entry.h"

namespace lr { namespace {

constexpr int64_t kMomentBlock = 256; /* elements that share an absmax; also what segments begin at multiples of */

/* What the segments add up to. */
struct Segments {
  lr_tensor table;
  int32_t dtype; /* of the parameters, and of moments that are no codes */
  int64_t count = 0, longest = 0;
  int64_t end32 = 0, end8 = 0; /* elements that the moments of each width reach to */
};

/* The arena itself; the segments' bytes are looked at by check_segments. */
__attribute__((unused)) void check_arena(Check& check, const lr_tensor& param, const lr_tensor& grad, const lr_tensor& header, const lr_tensor& segments) {
  check.floating("param", param);
  check.require(param.dtype != LR_F16, "param must be float32 or bfloat16 but is float16");
  check.tensor("grad", grad, LR_F32, elements(param));
  check.tensor("header", header, LR_U8, sizeof(lr_optim_header));
  check.tensor("segments", segments, LR_U8);
  check.aligned("header", header);
  check.aligned("segments", segments);
  check.apart("segments", segments, "header", header);
  check.apart("segments", segments, "param", param);
  check.require(elements(segments) % (int64_t)sizeof(lr_optim_segment) == 0, "segments has %lld bytes, not a multiple of %d",
                (long long)elements(segments), (int)sizeof(lr_optim_segment));
}

/* `s` is what the table holds, in host memory. */
__attribute__((unused)) Segments check_segments(Check& check, const lr_tensor& table, const lr_optim_segment* s, const lr_tensor& param) {
  Segments all = {table, param.dtype};
  const int64_t n = elements(param);
  all.count = elements(table) / (int64_t)sizeof(lr_optim_segment);
  for (int64_t i = 0; i < all.count && !check.failed; i++) {
    const long long at = (long long)i;
    check.require(s[i].begin >= 0 && s[i].begin <= s[i].end && s[i].end <= n && s[i].begin % kMomentBlock == 0,
                  "segment %lld is [%lld, %lld), which is no part of the arena of %lld elements that begins at a multiple of 256", at,
                  (long long)s[i].begin, (long long)s[i].end, (long long)n);
    check.require(i == 0 || s[i - 1].end <= s[i].begin, "segments %lld and %lld overlap or are out of order", at - 1, at);
    check.require(s[i].bits == 32 || s[i].bits == 8, "segment %lld has moments of %d bits; 32 and 8 exist", at, (int)s[i].bits);
    if (check.failed) break;
    const int64_t size = s[i].end - s[i].begin, begin = s[i].block * kMomentBlock;
    int64_t& end = s[i].bits == 8 ? all.end8 : all.end32;
    check.require(begin >= end, "the moments of segment %lld begin at block %lld, which others of that width reach into", at, (long long)s[i].block);
    end = begin + size;
    if (size > all.longest) all.longest = size;
  }
  return all;
}

/* One moment: values, codes and their absmax; each only where segments have that width. */
__attribute__((unused)) void check_moment(Check& check, const Segments& segments, const char* name, const lr_tensor& values, const char* state_name,
                                          const lr_tensor& state, const char* absmax_name, const lr_tensor& absmax) {
  check.apart("segments", segments.table, name, values);
  check.apart("segments", segments.table, state_name, state);
  check.apart("segments", segments.table, absmax_name, absmax);
  if (segments.end32 > 0) {
    check.tensor(name, values, segments.dtype);
    check.require(elements(values) >= segments.end32, "%s has %lld elements but the segments reach to %lld", name, (long long)elements(values),
                  (long long)segments.end32);
  }
  if (segments.end8 > 0) {
    const int64_t blocks = ceil_div(segments.end8, kMomentBlock);
    check.tensor(state_name, state, LR_U8);
    check.require(elements(state) >= segments.end8, "%s has %lld elements but the segments reach to %lld", state_name, (long long)elements(state),
                  (long long)segments.end8);
    check.tensor(absmax_name, absmax, LR_F32);
    check.require(elements(absmax) >= blocks, "%s has %lld elements but the segments have %lld blocks", absmax_name, (long long)elements(absmax),
                  (long long)blocks);
  }
}

/* Of an optimizer that has float32 parameters and moments only. */
__attribute__((unused)) void check_float32_only(Check& check, const Segments& segments) {
  check.require(segments.dtype == LR_F32, "param must be float32 for this optimizer");
  if (check.failed || segments.end8 == 0) return;
  check.require(false, "a segment asks for 8-bit moments, which this optimizer does not have; use 32 bits");
  check.error.code = LR_UNSUPPORTED;
}

__attribute__((unused)) void check_qmaps(Check& check, const Segments& segments, const char* name, const lr_tensor& maps, int64_t count) {
  if (segments.end8 > 0) check.tensor(name, maps, LR_F32, 256 * count);
  else check.optional(name, maps, LR_F32, 256 * count);
}

__attribute__((unused)) void check_betas(Check& check, double beta1, double beta2) {
  check.require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas must be in [0, 1) but are %g and %g", beta1, beta2);
}

__attribute__((unused)) void check_adamw(Check& check, const Segments& segments, const lr_tensor& exp_avg, const lr_tensor& exp_avg_sq,
                                         const lr_tensor& state1, const lr_tensor& absmax1, const lr_tensor& state2, const lr_tensor& absmax2,
                                         const lr_tensor& qmaps, double beta1, double beta2) {
  check_moment(check, segments, "exp_avg", exp_avg, "state1", state1, "absmax1", absmax1);
  check_moment(check, segments, "exp_avg_sq", exp_avg_sq, "state2", state2, "absmax2", absmax2);
  check_qmaps(check, segments, "qmaps", qmaps, 2);
  check_betas(check, beta1, beta2);
}

__attribute__((unused)) void check_lion(Check& check, const Segments& segments, const lr_tensor& exp_avg, const lr_tensor& state1,
                                        const lr_tensor& absmax1, const lr_tensor& qmap, double beta1, double beta2) {
  check_moment(check, segments, "exp_avg", exp_avg, "state1", state1, "absmax1", absmax1);
  check_qmaps(check, segments, "qmap", qmap, 1);
  check_betas(check, beta1, beta2);
}

__attribute__((unused)) void check_sgd(Check& check, const Segments& segments, const lr_tensor& momentum_buffer, double momentum, double dampening,
                                       int32_t nesterov) {
  check_float32_only(check, segments);
  if (momentum != 0) check_moment(check, segments, "momentum_buffer", momentum_buffer, "", lr_tensor(), "", lr_tensor());
  check.require(momentum >= 0, "momentum must not be negative but is %g", momentum);
  check.require(!nesterov || (momentum > 0 && dampening == 0), "nesterov needs a momentum and no dampening but they are %g and %g", momentum, dampening);
}

__attribute__((unused)) void check_adafactor(Check& check, const Segments& segments, const lr_tensor& header, const lr_tensor& param,
                                             const lr_tensor& exp_avg, const lr_tensor& exp_avg_sq, const lr_tensor& exp_avg_sq_row,
                                             const lr_tensor& exp_avg_sq_col, const lr_tensor& shapes, double clip_threshold, double decay_rate,
                                             double beta1) {
  check_float32_only(check, segments);
  if (present(exp_avg)) check_moment(check, segments, "exp_avg", exp_avg, "", lr_tensor(), "", lr_tensor());
  check.tensor("shapes", shapes, LR_U8, segments.count * (int64_t)sizeof(lr_optim_shape));
  check.aligned("shapes", shapes);
  const lr_tensor* outputs[] = {&header, &param, &exp_avg, &exp_avg_sq, &exp_avg_sq_row, &exp_avg_sq_col};
  const char* names[] = {"header", "param", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"};
  for (int i = 0; i < 6; i++) {
    check.apart("shapes", shapes, names[i], *outputs[i]);
    check.apart("segments", segments.table, names[i], *outputs[i]);
  }
  check.require(clip_threshold > 0, "clip_threshold must be positive but is %g", clip_threshold);
  check.require(decay_rate >= -100 && decay_rate <= 0, "decay_rate must be from -100 to 0 but is %g", decay_rate);
  check.require(beta1 >= 0 && beta1 < 1, "beta1 must be in [0, 1) but is %g", beta1);
}

/* The shapes of adafactor's segments; `s` and `shapes` are what the tables hold, in host memory. */
__attribute__((unused)) void check_shapes(Check& check, const Segments& segments, const lr_optim_segment* s, const lr_optim_shape* shapes,
                                          const lr_tensor& exp_avg_sq, const lr_tensor& exp_avg_sq_row, const lr_tensor& exp_avg_sq_col) {
  int64_t vector_end = 0, row_end = 0, col_end = 0;
  const auto follows = [&](int64_t i, int64_t at, int64_t size, int64_t* end, const lr_tensor& within, const char* name) {
    check.tensor(name, within, LR_F32);
    check.require(at >= *end && at <= elements(within) - size, "shape %lld has %lld elements from %lld of %s, which has %lld and is taken up to %lld",
                  (long long)i, (long long)size, (long long)at, name, (long long)elements(within), (long long)*end);
    *end = at + size;
  };
  for (int64_t i = 0; i < segments.count && !check.failed; i++) {
    const int64_t size = s[i].end - s[i].begin, rows = shapes[i].rows, cols = shapes[i].cols;
    if (cols == 0) {
      follows(i, shapes[i].row, size, &vector_end, exp_avg_sq, "exp_avg_sq");
      continue;
    }
    check.require(rows > 0 && cols > 0 && rows <= size && cols <= size && size % rows == 0 && size / rows % cols == 0,
                  "shape %lld is %lld x %lld, which its segment of %lld elements is no multiple of", (long long)i, (long long)rows, (long long)cols,
                  (long long)size);
    if (check.failed) return;
    follows(i, shapes[i].row, size / cols, &row_end, exp_avg_sq_row, "exp_avg_sq_row");
    follows(i, shapes[i].col, size / rows, &col_end, exp_avg_sq_col, "exp_avg_sq_col");
  }
}

}}  // namespace lr
#endif
