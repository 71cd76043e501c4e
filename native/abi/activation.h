/* What glu, softcap and their gradients ask of their arguments on every device. */
#ifndef LOWRANK_ABI_ACTIVATION_H
#define LOWRANK_ABI_ACTIVATION_H
#include "entry.h"

namespace lr { namespace {

__attribute__((unused)) void check_activation(Check& check, int32_t activation) {
  check.require(activation == LR_SILU || activation == LR_GELU_TANH, "there is no activation %d", (int)activation);
}

__attribute__((unused)) void check_glu(Check& check, const lr_tensor& y, const lr_tensor& gate, const lr_tensor& up, int32_t activation) {
  check.tensor("gate", gate, LR_F32);
  check.tensor("up", up, LR_F32, elements(gate));
  check.tensor("y", y, LR_F32, elements(gate));
  check_activation(check, activation);
}

__attribute__((unused)) void check_glu_grad(Check& check, const lr_tensor& dgate, const lr_tensor& dup, const lr_tensor& dy, const lr_tensor& gate, const lr_tensor& up,
                           int32_t activation) {
  check.tensor("gate", gate, LR_F32);
  check.tensor("up", up, LR_F32, elements(gate));
  check.tensor("dy", dy, LR_F32, elements(gate));
  check.tensor("dgate", dgate, LR_F32, elements(gate));
  check.tensor("dup", dup, LR_F32, elements(gate));
  check_activation(check, activation);
}

__attribute__((unused)) void check_cap(Check& check, float cap) { check.require(cap > 0 && cap <= 3.4e38f, "cap must be above 0 but is %g", (double)cap); }

__attribute__((unused)) void check_softcap(Check& check, const lr_tensor& y, const lr_tensor& x, float cap) {
  check.tensor("x", x, LR_F32);
  check.tensor("y", y, LR_F32, elements(x));
  check_cap(check, cap);
}

__attribute__((unused)) void check_softcap_grad(Check& check, const lr_tensor& dx, const lr_tensor& dy, const lr_tensor& y, float cap) {
  check.tensor("y", y, LR_F32);
  check.tensor("dy", dy, LR_F32, elements(y));
  check.tensor("dx", dx, LR_F32, elements(y));
  check_cap(check, cap);
}

}}  // namespace lr
#endif
