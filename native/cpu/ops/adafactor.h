/* Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with the arithmetic of transformers' Adafactor: a matrix keeps the means of g² + eps1 of its
 * rows and columns, a vector every element's; the update is divided by max(1, its RMS / clip_threshold). Segments one after the other, each
 * spread over the threads. Sums are float64 in fixed parts. */
#ifndef LOWRANK_CPU_OPS_ADAFACTOR_H
#define LOWRANK_CPU_OPS_ADAFACTOR_H
#include "optim.h"

namespace LR_ISA { namespace {

/* One segment while its step is computed. A vector is one row of its squares' moments. */
struct Factored {
  float* p;
  const float* g;
  float* exp_avg;       /* NULL: none */
  float *vector, *row, *col;
  float *row_factor, *col_factor; /* 1 / sqrt of the second moment, split */
  int64_t size, rows, cols;
  VF clip;

  /* g / sqrt(second moment) of elements i.. of row r, which begin column c. */
  LR_INLINE VF update(int64_t r, int64_t i, int64_t c, int64_t lanes) const {
    const VF gradient = load_lanes(g + i, lanes) * clip;
    if (cols == 0) return gradient / sqrt(load_lanes(vector + i, lanes));
    return VF::set(row_factor[r]) * load_lanes(col_factor + r / rows * cols + c, lanes) * gradient;
  }
  /* body(r, i, c, lanes) for all vectors of [begin, end), cut at the ends of rows. */
  template <class Body> LR_INLINE void for_rows(int64_t begin, int64_t end, const Body& body) const {
    const int64_t width = cols == 0 ? size : cols;
    for (int64_t i = begin; i < end;) {
      const int64_t r = i / width, start = r * width, stop = min64(end, start + width);
      for_vectors(i, stop, [&](int64_t at, int64_t lanes) { body(r, at, at - start, lanes); });
      i = stop;
    }
  }
};

LR_INLINE void add_squares(VF x, VD* sums) {
  sums[0] = fma(low_f64(x), low_f64(x), sums[0]);
  sums[1] = fma(high_f64(x), high_f64(x), sums[1]);
}

/* Second moments of a matrix's rows and columns, and from them the factors. */
LR_INLINE void update_factors(lr_queue* queue, const Factored& f, float beta2, float eps1) {
  const int64_t all_rows = f.size / f.cols, matrices = all_rows / f.rows;
  const float fresh = 1.0f - beta2;
  parallel_ranges(queue, all_rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      VD sums[2] = {VD::zero(), VD::zero()};
      for_vectors(0, f.cols, [&](int64_t i, int64_t lanes) { add_squares(load_lanes(f.g + r * f.cols + i, lanes) * f.clip, sums); });
      f.row[r] = beta2 * f.row[r] + fresh * ((float)(sum(sums[0] + sums[1]) / (double)f.cols) + eps1);
    }
  }, max64(1, kRange / f.cols));
  /* A task has columns of one matrix, wide enough to read whole cache lines. */
  constexpr int64_t kWide = 64;
  const int64_t strips = ceil_div(f.cols, kWide);
  parallel_for(queue, matrices * strips, [&](int64_t task, int32_t) {
    const int64_t matrix = task / strips, from = task % strips * kWide, to = min64(f.cols, from + kWide);
    for_vectors(from, to, [&](int64_t c, int64_t lanes) {
      VD sums[2] = {VD::zero(), VD::zero()};
      const float* g = f.g + matrix * f.rows * f.cols + c;
      for (int64_t r = 0; r < f.rows; r++) add_squares(load_lanes(g + r * f.cols, lanes) * f.clip, sums);
      const VD rows = VD::set(1.0 / (double)f.rows);
      const VF mean = from_f64(sums[0] * rows, sums[1] * rows) + VF::set(eps1);
      float* col = f.col + matrix * f.cols + c;
      const VF now = fma(VF::set(beta2), load_lanes(col, lanes), VF::set(fresh) * mean);
      store_lanes(now, col, lanes);
      store_lanes(VF::set(1.0f) / sqrt(now), f.col_factor + matrix * f.cols + c, lanes);
    });
  });
  for (int64_t m = 0; m < matrices; m++) {
    const float* row = f.row + m * f.rows;
    const float mean = (float)(dot_range(row, nullptr, f.rows) / (double)f.rows);
    for (int64_t r = 0; r < f.rows; r++) f.row_factor[m * f.rows + r] = 1.0f / __builtin_sqrtf(row[r] / mean);
  }
}

/* RMS of the update; a vector's second moment is brought up to date on the way. */
LR_INLINE float update_rms(lr_queue* queue, const Factored& f, float beta2, float eps1) {
  const VF old = VF::set(beta2), fresh = VF::set(1.0f - beta2);
  const double squares = sum_parts(queue, f.size, [&](int64_t begin, int64_t end) {
    VD sums[2] = {VD::zero(), VD::zero()};
    f.for_rows(begin, end, [&](int64_t r, int64_t i, int64_t c, int64_t lanes) {
      if (f.cols == 0) {
        const VF gradient = load_lanes(f.g + i, lanes) * f.clip;
        store_lanes(fma(old, load_lanes(f.vector + i, lanes), fresh * fma(gradient, gradient, VF::set(eps1))), f.vector + i, lanes);
      }
      VF update = f.update(r, i, c, lanes);
      if (lanes < kLanes) { /* lanes past the end are 0 / 0 */
        const VF all = update;
        update = VF::zero();
        for (int64_t l = 0; l < lanes; l++) update.v[l] = all[(int)l];
      }
      add_squares(update, sums);
    });
    return sum(sums[0] + sums[1]);
  });
  return (float)__builtin_sqrt(squares / (double)f.size);
}

lr_error adafactor(lr_queue* queue, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor exp_avg_sq_row,
                   lr_tensor exp_avg_sq_col, lr_tensor header, lr_tensor segments, lr_tensor shapes, double lr, double eps1, double eps2,
                   double clip_threshold, double decay_rate, double beta1, int32_t scale_parameter, int32_t relative_step, int32_t warmup_init,
                   double max_grad_norm) {
  Check check("adafactor");
  Scratch scratch(queue);
  float* row_factor = scratch.take<float>(present(exp_avg_sq_row) ? elements(exp_avg_sq_row) : 0);
  float* col_factor = scratch.take<float>(present(exp_avg_sq_col) ? elements(exp_avg_sq_col) : 0);
  if (scratch.sizing()) return success();
  const Segments all = check_arena_here(check, param, grad, header, segments);
  check_adafactor(check, all, header, param, exp_avg, exp_avg_sq, exp_avg_sq_row, exp_avg_sq_col, shapes, clip_threshold, decay_rate, beta1);
  if (check.failed) return check.error;
  const lr_optim_segment* s = (const lr_optim_segment*)segments.data;
  const lr_optim_shape* shape = (const lr_optim_shape*)shapes.data;
  check_shapes(check, all, s, shape, exp_avg_sq, exp_avg_sq_row, exp_avg_sq_col);
  if (check.failed) return check.error;

  const lr_optim_header* state = (const lr_optim_header*)header.data;
  if (!state->finite) return success();
  const double step = (double)max64(1, state->step);
  const float beta2 = (float)(1.0 - power_f64(step, decay_rate)), small1 = (float)eps1;
  const double limit = warmup_init ? 1e-6 * step : 1e-2, slow = 1.0 / __builtin_sqrt(step), relative = limit < slow ? limit : slow;
  for (int64_t i = 0; i < all.count; i++) {
    const int64_t begin = s[i].begin;
    Factored f;
    f.size = s[i].end - begin;
    if (f.size == 0) continue;
    f.p = (float*)param.data + begin;
    f.g = (const float*)grad.data + begin;
    f.exp_avg = present(exp_avg) ? (float*)exp_avg.data + s[i].block * kMomentBlock : nullptr;
    f.rows = shape[i].rows;
    f.cols = shape[i].cols;
    f.clip = VF::set(clip_factor(state, max_grad_norm));
    double rate = relative_step ? relative : lr * (double)s[i].lr_scale;
    if (scale_parameter) {
      const double rms = __builtin_sqrt(dot_f64(queue, f.p, f.p, f.size) / (double)f.size);
      rate *= rms > eps2 ? rms : eps2;
    }
    if (f.cols == 0) {
      f.vector = (float*)exp_avg_sq.data + shape[i].row;
    } else {
      f.row = (float*)exp_avg_sq_row.data + shape[i].row;
      f.col = (float*)exp_avg_sq_col.data + shape[i].col;
      f.row_factor = row_factor + shape[i].row;
      f.col_factor = col_factor + shape[i].col;
      update_factors(queue, f, beta2, small1);
    }
    const float excess = update_rms(queue, f, beta2, small1) / (float)clip_threshold;
    const VF size = VF::set((float)(rate / (double)(excess > 1.0f ? excess : 1.0f)));
    const VF decay = VF::set((float)(-(double)s[i].weight_decay * rate)), old = VF::set((float)beta1), fresh = VF::set((float)(1.0 - beta1));
    parallel_ranges(queue, f.size, [&](int64_t from, int64_t to) {
      f.for_rows(from, to, [&](int64_t r, int64_t at, int64_t c, int64_t lanes) {
        VF move = f.update(r, at, c, lanes) * size;
        if (f.exp_avg) {
          move = fma(old, load_lanes(f.exp_avg + at, lanes), fresh * move);
          store_lanes(move, f.exp_avg + at, lanes);
        }
        const VF p = load_lanes(f.p + at, lanes);
        store_lanes(fma(decay, p, p) - move, f.p + at, lanes);
      });
    });
  }
  return success();
}

}}  // namespace LR_ISA
#endif
