/* Flags: those of avx512 and -mavx512bf16 */
#define LR_AVX512_BF16
#define LR_ISA lr_avx512bf16
#include "../simd/avx512.h"
#include "../table.h"

extern "C" {
extern constexpr lr_backend lr_cpu_avx512bf16 = LR_ISA::make_table("avx512bf16");
}
