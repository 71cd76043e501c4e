// The entries this backend fills, one declaration each, and what backend.cu lends them.
#ifndef LOWRANK_CUDA_TABLE_CUH
#define LOWRANK_CUDA_TABLE_CUH
#include "device/launch.cuh"

namespace lr {

// Device memory for small results between two launches of one entry: kSmallBuffer bytes, 256-byte aligned.
constexpr size_t kSmallBuffer = 4096;
void* small_buffer();

// y[0] (+)= scale Σ a b in double, b NULL: 1; or as a double to `exact`. Enqueued, not waited for.
void enqueue_dot(float* y, double* exact, const float* a, const float* b, int64_t n, double scale, bool accumulate);

lr_error fill(lr_queue*, lr_tensor y, double value);
lr_error copy(lr_queue*, lr_tensor y, lr_tensor x);
lr_error axpy(lr_queue*, lr_tensor y, lr_tensor x, float alpha);
lr_error add(lr_queue*, lr_tensor y, lr_tensor a, lr_tensor b);
lr_error scale_rows(lr_queue*, lr_tensor y, lr_tensor x, lr_tensor s, int32_t accumulate);
lr_error copy_columns(lr_queue*, lr_tensor y, lr_tensor x, int32_t y_begin, int32_t x_begin, int32_t columns);
lr_error dot(lr_queue*, lr_tensor y, lr_tensor a, lr_tensor b, float scale, int32_t accumulate);
lr_error random(lr_queue*, lr_tensor y, int32_t normal, float a, float b, uint64_t key);
lr_error embedding(lr_queue*, lr_tensor y, lr_tensor table, lr_tensor ids, float scale);
lr_error embedding_grad(lr_queue*, lr_tensor dtable, lr_tensor dy, lr_tensor ids, float scale);
lr_error rms_norm(lr_queue*, lr_tensor y, lr_tensor rstd, lr_tensor x, lr_tensor residual, lr_tensor weight, float eps, int32_t unit_offset);
lr_error rms_norm_grad(lr_queue*, lr_tensor dx, lr_tensor dweight, lr_tensor dy, lr_tensor residual, lr_tensor x, lr_tensor rstd, lr_tensor weight, float eps,
                       int32_t unit_offset);
lr_error rope_table(lr_queue*, lr_tensor table, lr_tensor positions, lr_tensor inv_freq, float scaling);
lr_error rope(lr_queue*, lr_tensor y, lr_tensor x, lr_tensor table, int32_t inverse);
lr_error glu(lr_queue*, lr_tensor y, lr_tensor gate, lr_tensor up, int32_t activation);
lr_error glu_grad(lr_queue*, lr_tensor dgate, lr_tensor dup, lr_tensor dy, lr_tensor gate, lr_tensor up, int32_t activation);
lr_error softcap(lr_queue*, lr_tensor y, lr_tensor x, float factor, float cap);
lr_error softcap_grad(lr_queue*, lr_tensor dx, lr_tensor dy, lr_tensor y, float factor, float cap);
lr_error linear(lr_queue*, const lr_linear_group* group);
lr_error linear_grad(lr_queue*, const lr_linear_group* group);
lr_error linear_dw(lr_queue*, lr_tensor dweight, lr_tensor dbias, lr_tensor dy, lr_tensor x, int32_t math);
lr_error attention(lr_queue*, const lr_attention_args* args);
lr_error attention_grad(lr_queue*, const lr_attention_args* args);
lr_error kv_append(lr_queue*, lr_tensor k_pool, lr_tensor v_pool, lr_tensor k, lr_tensor v, lr_tensor cu_q, lr_tensor kv_len, lr_tensor block_table);
lr_error token_logprob(lr_queue*, const lr_head_args* args);
lr_error token_logprob_grad(lr_queue*, const lr_head_args* args);
lr_error quantize_4bit(lr_queue*, lr_tensor codes, lr_tensor absmax, lr_tensor non_finite, lr_tensor x, int32_t code4, int32_t blocksize);
lr_error dequantize_4bit(lr_queue*, lr_tensor y, const lr_weight* weight);
lr_error quantize_8bit(lr_queue*, lr_tensor codes, lr_tensor absmax, lr_tensor x, lr_tensor map, int32_t blocksize);
lr_error dequantize_8bit(lr_queue*, lr_tensor y, lr_tensor codes, lr_tensor absmax, lr_tensor map, int32_t blocksize);
lr_error quantize_absmax(lr_queue*, lr_tensor codes, lr_tensor nested_absmax, lr_tensor offset, lr_tensor absmax, lr_tensor map, int32_t blocksize);
lr_error grad_stats(lr_queue*, lr_tensor header, lr_tensor grad, lr_tensor loss);
lr_error adamw(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor state1, lr_tensor absmax1, lr_tensor state2,
               lr_tensor absmax2, lr_tensor qmaps, lr_tensor header, lr_tensor segments, double lr, double beta1, double beta2, double eps,
               double max_grad_norm, int32_t decoupled);
lr_error lion(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor state1, lr_tensor absmax1, lr_tensor qmap, lr_tensor header,
              lr_tensor segments, double lr, double beta1, double beta2, double max_grad_norm);
lr_error adafactor(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor exp_avg_sq_row,
                   lr_tensor exp_avg_sq_col, lr_tensor header, lr_tensor segments, lr_tensor shapes, double lr, double eps1, double eps2,
                   double clip_threshold, double decay_rate, double beta1, int32_t scale_parameter, int32_t relative_step, int32_t warmup_init,
                   double max_grad_norm);
lr_error sgd(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor momentum_buffer, lr_tensor header, lr_tensor segments, double lr, double momentum,
             double dampening, int32_t nesterov, double max_grad_norm);

}  // namespace lr
#endif
