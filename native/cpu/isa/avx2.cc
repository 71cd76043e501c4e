/* Flags: -mavx2 -mfma -mf16c */
#define LR_ISA lr_avx2
#include "../simd/avx2.h"
#include "../table.h"

extern "C" {
extern constexpr lr_backend lr_cpu_avx2 = LR_ISA::make_table("avx2");
}
