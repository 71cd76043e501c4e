/* Which variants this machine can run (cpuid and, for the registers the system saves, XGETBV), and the memory of the host. */
#include "backend.h"
#include "../abi/transfer.h"
#include "regions.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern "C" {
extern const lr_backend lr_cpu_scalar;
#if defined(__x86_64__)
extern const lr_backend lr_cpu_avx2, lr_cpu_avx512, lr_cpu_avx512bf16, lr_cpu_amx;
#endif
}

namespace {

using lr::success;

struct Variant {
  const lr_backend* table;
  bool usable;
};

/* The system saves the registers of AMX only for a process that asks once (Linux, arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)). */
bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

struct Variants {
  Variant all[5];
  int count = 0;
  const char* names[6] = {};

  Variants() {
    add(&lr_cpu_scalar, true);
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0, c1 = 0, b7 = 0, c7 = 0, d7 = 0, a71 = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) c1 = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
      b7 = b;
      c7 = c;
      d7 = d;
      if (a >= 1) {
        __get_cpuid_count(7, 1, &a, &b, &c, &d);
        a71 = a;
      }
    }
    unsigned saved = 0;
    if (c1 & bit_OSXSAVE) {
      unsigned high;
      __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    }
    bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
    bool avx2 = ymm && (c1 & bit_AVX) && (c1 & bit_FMA) && (c1 & bit_F16C) && (b7 & bit_AVX2);
    bool avx512 = avx2 && zmm && (b7 & bit_AVX512F) && (b7 & bit_AVX512BW) && (b7 & bit_AVX512DQ) && (b7 & bit_AVX512VL);
    add(&lr_cpu_avx2, avx2);
    add(&lr_cpu_avx512, avx512);
    bool bf16 = avx512 && (a71 & (1u << 5));
    add(&lr_cpu_avx512bf16, bf16);
    bool tiles = (saved & (3u << 17)) == 3u << 17 && (d7 & (1u << 22)) && (d7 & (1u << 24)); /* AMX-BF16, AMX-TILE */
    add(&lr_cpu_amx, bf16 && tiles && (c7 & bit_GFNI) && may_use_tiles());
#endif
    int n = 0;
    for (int i = 0; i < count; i++)
      if (all[i].usable) names[n++] = all[i].table->name;
  }
  void add(const lr_backend* table, bool usable) { all[count++] = {table, usable}; }
};

const Variants& variants() {
  static const Variants v;
  return v;
}

lr_error copy_bytes(const char* op, int32_t slot, const lr_tensor& dst, const lr_tensor& src) {
  const lr_error e = lr::check_transfer(op, slot, dst, src);
  if (e.code == LR_OK) memmove(dst.data, src.data, lr::bytes_of(src));
  return e;
}

using lr::Regions;

/* AddressSanitizer sees an overrun only behind a block of its own. */
#if defined(__SANITIZE_ADDRESS__)
bool in_region(size_t) { return false; }
#else
constexpr size_t kLeastInRegion = (size_t)32 << 10;
bool in_region(size_t bytes) { return bytes >= kLeastInRegion && bytes < Regions::kHugePage; }
#endif

/* Never destroyed: devices outlive what static destructors would leave them. */
Regions& regions() {
  static Regions& all = *new Regions;
  return all;
}

}  // namespace

extern "C" {

const char* const* lr_cpu_variants(void) { return variants().names; }

const lr_backend* lr_cpu_open(const char* isa, lr_error* error) {
  *error = success();
  const Variants& v = variants();
  const lr_backend* best = nullptr;
  for (int i = 0; i < v.count; i++) {
    if (!v.all[i].usable) continue;
    if (!isa || !*isa || !strcmp(isa, v.all[i].table->name)) best = v.all[i].table;
  }
  if (best) return best;
  char list[64] = "";
  for (int i = 0; v.names[i]; i++) snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", v.names[i]);
  error->code = LR_UNSUPPORTED;
  error->op = "open";
  snprintf(error->text, sizeof(error->text), "this machine cannot run the kernels \"%.40s\"; it can run %s", isa, list);
  return nullptr;
}

/* Blocks of a huge page or more have pages of their own, smaller ones are cut out of some: fewer TLB misses. */
void* lr_cpu_alloc(size_t bytes, lr_error* error) {
  *error = success();
  error->code = LR_OUT_OF_MEMORY;
  if (bytes > SIZE_MAX - Regions::kHugePage) return nullptr;
  if (in_region(bytes)) return regions().take(bytes);
  if (bytes >= Regions::kHugePage) return lr::huge_pages(bytes);
  void* data = nullptr;
  return posix_memalign(&data, 64, bytes ? bytes : 1) ? nullptr : data;
}

void lr_cpu_release(void* data, size_t bytes) {
  if (in_region(bytes)) regions().give_back(data, bytes);
  else free(data);
}

lr_error lr_cpu_upload(lr_queue*, void* dst, const void* src, size_t bytes) {
  if (bytes) memcpy(dst, src, bytes);
  return success();
}

lr_error lr_cpu_download(lr_queue* queue, void* dst, const void* src, size_t bytes) { return lr_cpu_upload(queue, dst, src, bytes); }

lr_error lr_cpu_prefetch(lr_queue*, int32_t slot, lr_tensor dst, lr_tensor src) { return copy_bytes("prefetch", slot, dst, src); }
lr_error lr_cpu_write_back(lr_queue*, int32_t slot, lr_tensor dst, lr_tensor src) { return copy_bytes("write_back", slot, dst, src); }

/* Transfers are done when their entry returns. */
lr_error lr_cpu_wait(lr_queue*, int32_t slot) { return lr::check_slot("wait", slot); }

}  // extern "C"
