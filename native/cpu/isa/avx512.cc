/* Flags: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl */
#define LR_ISA lr_avx512
#include "../simd/avx512.h"
#include "../table.h"

extern "C" {
extern constexpr lr_backend lr_cpu_avx512 = LR_ISA::make_table("avx512");
}
