/* Flags: those of avx512bf16, -mgfni, -mamx-tile and -mamx-bf16 */
#define LR_AVX512_BF16
#define LR_AMX
#define LR_ISA lr_amx
#include "../simd/amx.h"
#include "../table.h"

extern "C" {
extern constexpr lr_backend lr_cpu_amx = LR_ISA::make_table("amx");
}
