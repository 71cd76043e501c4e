/* The CPU backend: one table of functions an ISA variant, chosen by what the machine can run. */
#ifndef LOWRANK_CPU_BACKEND_H
#define LOWRANK_CPU_BACKEND_H
#include "../abi/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Names of the variants this machine can run, best last; NULL behind the last one. */
const char* const* lr_cpu_variants(void);

/* The table of the variant `isa`, or of the best one when isa is NULL or empty. NULL, with the reason in error, when there is
 * no such variant or the machine cannot run it. */
const lr_backend* lr_cpu_open(const char* isa, lr_error* error);

/* Entries that all variants share: memory is plain host memory, and copies run in place of the queue. */
void* lr_cpu_alloc(size_t bytes, lr_error* error);
void lr_cpu_release(void* data, size_t bytes);
lr_error lr_cpu_upload(lr_queue* queue, void* dst, const void* src, size_t bytes);
lr_error lr_cpu_download(lr_queue* queue, void* dst, const void* src, size_t bytes);
lr_error lr_cpu_prefetch(lr_queue* queue, int32_t slot, lr_tensor dst, lr_tensor src);
lr_error lr_cpu_write_back(lr_queue* queue, int32_t slot, lr_tensor dst, lr_tensor src);
lr_error lr_cpu_wait(lr_queue* queue, int32_t slot);

#ifdef __cplusplus
}
#endif
#endif
