/* What copy_columns asks of its arguments on every device. */
#ifndef LOWRANK_ABI_COLUMNS_H
#define LOWRANK_ABI_COLUMNS_H
#include "entry.h"

namespace lr { namespace {

__attribute__((unused)) void check_columns(Check& check, const char* name, const lr_tensor& t, int32_t begin, int32_t columns) {
  check.tensor(name, t, LR_F32);
  check.rank(name, t, 2);
  if (check.failed) return;
  check.require(begin >= 0 && columns >= 0 && (int64_t)begin + columns <= t.shape[1], "columns %d to %lld are not within the %lld of %s", (int)begin,
                (long long)begin + columns, (long long)t.shape[1], name);
}

__attribute__((unused)) void check_copy_columns(Check& check, const lr_tensor& y, const lr_tensor& x, int32_t y_begin, int32_t x_begin, int32_t columns) {
  check_columns(check, "y", y, y_begin, columns);
  check_columns(check, "x", x, x_begin, columns);
  check.require(check.failed || y.shape[0] == x.shape[0], "y must have %lld rows but has %lld", (long long)x.shape[0], (long long)y.shape[0]);
}

}}  // namespace lr
#endif
