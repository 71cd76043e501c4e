/* What the transfers of the copy stream ask of their arguments on every device. */
#ifndef LOWRANK_ABI_TRANSFER_H
#define LOWRANK_ABI_TRANSFER_H
#include "entry.h"

namespace lr { namespace {

__attribute__((unused)) lr_error check_slot(const char* op, int32_t slot) {
  return slot >= 0 && slot < LR_SLOTS ? success() : invalid(op, "slot %d does not exist: there are 0 to %d", (int)slot, LR_SLOTS - 1);
}

__attribute__((unused)) lr_error check_transfer(const char* op, int32_t slot, const lr_tensor& dst, const lr_tensor& src) {
  if (!present(dst) || !present(src)) return invalid(op, "dst and src must be given");
  if (bytes_of(dst) != bytes_of(src)) return invalid(op, "dst has %zu bytes but src has %zu", bytes_of(dst), bytes_of(src));
  return check_slot(op, slot);
}

}}  // namespace lr
#endif
