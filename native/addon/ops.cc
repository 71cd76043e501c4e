// One line an op: its name in JavaScript, the entry of the table, and whether the entry is asked for scratch.
#include "marshal.h"

namespace lr {
namespace {

constexpr bool kScratch = true;
const char* names[kMaxOps];
int registered = 0;  // the ops known so far; every environment defines the same ones in the same order

template <auto Entry>
void add(napi_env env, napi_value kernels, int& index, const char* js, const char* name, bool scratch = false) {
  if (index == registered) {
    Op<Entry>::info = {js, name, scratch, index};
    names[registered++] = js;
  }
  index++;
  define(env, kernels, js, Op<Entry>::call);
}

}  // namespace

const char* op_name(int op) { return names[op]; }

void define_kernels(napi_env env, napi_value exports) {
  // Two workers may load the addon at the same time.
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  napi_value kernels = nullptr;
  require_alive(napi_create_object(env, &kernels), "load");
  require_alive(napi_set_named_property(env, exports, "kernels", kernels), "load");
  int index = 0;
#define OP(js, entry, ...) add<&lr_backend::entry>(env, kernels, index, #js, #entry, ##__VA_ARGS__)
  OP(prefetch, prefetch);
  OP(writeBack, write_back);
  OP(wait, wait);
  OP(fill, fill);
  OP(copy, copy);
  OP(axpy, axpy);
  OP(add, add);
  OP(scaleRows, scale_rows);
  OP(copyColumns, copy_columns);
  OP(dot, dot);
  OP(random, random);
  OP(embedding, embedding);
  OP(embeddingGrad, embedding_grad);
  OP(rmsNorm, rms_norm);
  OP(rmsNormGrad, rms_norm_grad, kScratch);
  OP(ropeTable, rope_table);
  OP(rope, rope);
  OP(glu, glu);
  OP(gluGrad, glu_grad);
  OP(softcap, softcap);
  OP(softcapGrad, softcap_grad);
  OP(linear, linear, kScratch);
  OP(linearGrad, linear_grad, kScratch);
  OP(linearDw, linear_dw, kScratch);
  OP(attention, attention, kScratch);
  OP(attentionGrad, attention_grad, kScratch);
  OP(kvAppend, kv_append);
  OP(tokenLogprob, token_logprob, kScratch);
  OP(tokenLogprobGrad, token_logprob_grad, kScratch);
  OP(quantize4bit, quantize_4bit);
  OP(dequantize4bit, dequantize_4bit);
  OP(quantize8bit, quantize_8bit);
  OP(dequantize8bit, dequantize_8bit);
  OP(quantizeAbsmax, quantize_absmax);
  OP(gradStats, grad_stats, kScratch);
  OP(adamw, adamw);
  OP(lion, lion);
  OP(adafactor, adafactor, kScratch);
  OP(sgd, sgd);
  OP(multiplyAdds, multiply_adds);
#undef OP
}

}  // namespace lr
