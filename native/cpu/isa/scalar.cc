/* The portable variant: no flags beyond the compiler's baseline. */
#define LR_ISA lr_scalar
#include "../simd/scalar.h"
#include "../table.h"

extern "C" {
extern constexpr lr_backend lr_cpu_scalar = LR_ISA::make_table("scalar");
}
