/* The table of this variant. Included last by isa/<isa>.cc; `make_table` is constexpr, so that loading the addon runs no
 * instruction of a variant the machine may lack. */
#include "backend.h"
#include "simd/math.h"
#include "simd/philox.h"
#include "ops/common.h"

namespace LR_ISA { namespace {

constexpr lr_backend make_table(const char* name) {
  lr_backend t = {};
  t.abi = LR_ABI_VERSION;
  t.size = sizeof(lr_backend);
  t.name = name;
  t.bf16 = kNativeBf16 ? 1 : 0;
  t.alloc = lr_cpu_alloc;
  t.release = lr_cpu_release;
  t.upload = lr_cpu_upload;
  t.download = lr_cpu_download;
  t.prefetch = lr_cpu_prefetch;
  t.write_back = lr_cpu_write_back;
  t.wait = lr_cpu_wait;
  return t;
}

}}  // namespace LR_ISA
