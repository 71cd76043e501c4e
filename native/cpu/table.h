/* The table of this variant. Included last by isa/<isa>.cc; `make_table` is constexpr, so that loading the addon runs no
 * instruction of a variant the machine may lack. */
#include "backend.h"
#include "simd/math.h"
#include "simd/philox.h"
#include "ops/adafactor.h"
#include "ops/attention.h"
#include "ops/attention_grad.h"
#include "ops/common.h"
#include "ops/dequantize.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/head.h"
#include "ops/kv_append.h"
#include "ops/linear.h"
#include "ops/multiply_adds.h"
#include "ops/optim.h"
#include "ops/quantize.h"
#include "ops/random.h"
#include "ops/reduce.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/softcap.h"

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
  t.fill = fill;
  t.copy = copy;
  t.axpy = axpy;
  t.add = add;
  t.scale_rows = scale_rows;
  t.copy_columns = copy_columns;
  t.dot = dot;
  t.random = random;
  t.embedding = embedding;
  t.embedding_grad = embedding_grad;
  t.rms_norm = rms_norm;
  t.rms_norm_grad = rms_norm_grad;
  t.rope_table = rope_table;
  t.rope = rope;
  t.glu = glu;
  t.glu_grad = glu_grad;
  t.softcap = softcap;
  t.softcap_grad = softcap_grad;
  t.attention = attention;
  t.attention_grad = attention_grad;
  t.kv_append = kv_append;
  t.quantize_4bit = quantize_4bit;
  t.dequantize_4bit = dequantize_4bit;
  t.quantize_8bit = quantize_8bit;
  t.dequantize_8bit = dequantize_8bit;
  t.quantize_absmax = quantize_absmax;
  t.grad_stats = grad_stats;
  t.adamw = adamw;
  t.lion = lion;
  t.adafactor = adafactor;
  t.sgd = sgd;
  t.linear = linear;
  t.linear_grad = linear_grad;
  t.linear_dw = linear_dw;
  t.token_logprob = token_logprob;
  t.token_logprob_grad = token_logprob_grad;
  t.multiply_adds = multiply_adds;
  return t;
}

}}  // namespace LR_ISA
