/* The whole contract between lowrank and a device: one table of C functions.
 *
 * Conventions
 *  - Outputs first, then inputs, then scalars. A tensor whose data is NULL is absent.
 *  - Tensors are contiguous and row-major, at most 4-D. Activations are "packed tokens": [T, ...], no padding.
 *  - In backward entries gradients of parameters are accumulated (+=); gradients of activations are written, or
 *    accumulated where an `accumulate` argument says so.
 *  - An entry returns an error, it never throws, exits or allocates. Entries marked [scratch] are called twice: first with
 *    queue->sizing = 1, when they only set queue->scratch_size and return; then for real with that much scratch.
 *  - Indices in device memory (ids, labels, cu_q, cu_k, kv_len, block_table, segments) are checked when the entry runs, before
 *    anything is written; outputs must not overlap them. Nothing else that overlaps is an error: what it gives is garbage.
 *  - Results do not depend on queue->threads.
 *  - Accumulation, softmax, norms and losses are float32 or wider whatever the tensors hold.
 * Plain C: this is the only header that all parts share.
 */
#ifndef LOWRANK_BACKEND_H
#define LOWRANK_BACKEND_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LR_ABI_VERSION 9

typedef enum lr_dtype { LR_F32 = 0, LR_BF16 = 1, LR_F16 = 2, LR_I32 = 3, LR_U8 = 4 } lr_dtype;

typedef enum lr_code {
  LR_OK = 0,
  LR_INVALID = 1,       /* shapes, dtypes or values that the entry does not accept */
  LR_OUT_OF_MEMORY = 2,
  LR_UNSUPPORTED = 3,   /* meaningful, but not computed by this backend */
  LR_DEVICE = 4,        /* the device failed */
  LR_DEVICE_LOST = 5    /* and fails everything from now on, in this process */
} lr_code;

typedef struct lr_error { int32_t code; const char* op; char text[256]; } lr_error;

typedef struct lr_tensor { void* data; int32_t dtype; int32_t rank; int64_t shape[4]; } lr_tensor;

/* One ordered stream as an entry sees it. On the CPU `parallel` runs body(ctx, task, thread) for every task in
 * [0, tasks) on the fixed pool, thread in [0, threads); on CUDA it is NULL and impl is the stream. */
typedef struct lr_queue {
  void* impl;
  int32_t threads;
  int32_t sizing;
  size_t scratch_size;
  void* scratch;        /* 64-byte aligned, uninitialised */
  void* owner;          /* who called the entry, for errors that are found after it has returned */
  void (*parallel)(struct lr_queue* queue, int64_t tasks, void (*body)(void* ctx, int64_t task, int32_t thread), void* ctx);
} lr_queue;

/* How products are formed: F32, or inputs rounded to bf16 and accumulated in f32 (where the device multiplies bf16). */
typedef enum lr_math { LR_MATH_F32 = 0, LR_MATH_BF16 = 1 } lr_math;

/* Of a gated linear unit: x * sigmoid(x), and GELU in its tanh form, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). */
typedef enum lr_activation { LR_SILU = 0, LR_GELU_TANH = 1 } lr_activation;

typedef enum lr_weight_kind { LR_WEIGHT_DENSE = 0, LR_WEIGHT_4BIT = 1 } lr_weight_kind;
typedef enum lr_code4 { LR_NF4 = 0, LR_FP4 = 1 } lr_code4;

/* A weight matrix W [n, k] (out, in), row-major: y = x Wᵀ.
 * 4-bit (bitsandbytes layout): data is U8, element 2i in the high nibble; blocks of `blocksize` run over the flat matrix.
 * value = code[nibble] * absmax[block], in f32; rounded to bf16 when round is 1. Without nesting absmax is f32; with it
 * absmax is U8 and absmax[b] = nested_code[absmax_u8[b]] * nested_absmax[b / nested_blocksize] + *nested_offset. */
typedef struct lr_weight {
  int32_t kind;
  int32_t dtype;              /* of dense data: LR_F32, LR_BF16, LR_F16 */
  const void* data;
  int64_t n, k;
  const float* code;          /* 16 values */
  const void* absmax;
  const float* nested_absmax; /* NULL: absmax is f32 */
  const float* nested_code;   /* 256 values */
  const float* nested_offset; /* 1 value, in device memory */
  int32_t blocksize, nested_blocksize;
  int32_t round;
} lr_weight;

/* Rows [row_begin, row_end) of a linear use one LoRA pair: A [r, k], B [n, r], f32. Training has one segment, a server's
 * batch many; rows outside all segments see the base only. Segments are ascending and do not overlap. */
typedef struct lr_segment {
  int64_t row_begin, row_end;
  lr_tensor a, b;
  lr_tensor da, db;           /* gradients, accumulated by linear_grad; absent: not wanted, and in forward */
  float scale;
} lr_segment;

typedef struct lr_linear {
  lr_weight weight;
  lr_tensor bias;             /* f32/bf16/f16 [n] or absent */
  lr_tensor y;                /* f32 [rows, n]: output in linear, where it may be absent beside `gated`; dY in the backward entries */
  lr_tensor u;                /* f32 [rows, max r]: drop(x) Aᵀ, written by linear, read by linear_grad where dA or dB is wanted; absent: not kept */
  lr_tensor residual;         /* f32 [rows, n] or absent: added to y by linear */
  const lr_segment* segments;
  int32_t segment_count;
} lr_linear;

/* Counter-based dropout on x before A. The mask of element e of x (e = row * k + column) is a function of (key, e) alone:
 * element e takes word e % 4 of philox4x32-10(key, counter = e / 4); kept when word >= p * 2^32, scaled by 1 / (1 - p). */
typedef struct lr_dropout { float p; uint64_t key; } lr_dropout;

/* Linears that read the same x (q,k,v or gate,up). k is equal in all of them. */
typedef struct lr_linear_group {
  lr_tensor x;                /* f32 [rows, k] */
  lr_tensor dx;               /* f32 [rows, k], backward only; absent: not wanted */
  int32_t accumulate;         /* dx += instead of = */
  int32_t math;
  lr_dropout dropout;         /* shared by the group */
  lr_tensor gated;            /* f32 [rows, n] or absent: activation(y of layer 0) * y of layer 1, written by linear, for two layers of one n without residual */
  int32_t activation;         /* of `gated`: as glu's */
  const lr_linear* layers;
  int32_t count;
} lr_linear_group;

/* Causal grouped-query attention over packed sequences; never materialises S x S.
 * Sequence i owns queries cu_q[i]..cu_q[i+1]. Keys are either packed (k, v [Tk, Hkv, D] with cu_k; absent cu_k = cu_q) or a
 * paged cache (block_table present: k, v are pools [blocks, 64, Hkv, D] in f32 or bf16, row i of block_table lists the blocks
 * of sequence i, kv_len[i] keys are valid). The last query of a sequence stands at its last key. Key j is visible to the query at
 * position i when j <= i and (window <= 0 or i - j < window). score = scale * q.k; softcap c > 0: c * tanh(score / c). */
typedef struct lr_attention_args {
  lr_tensor out;              /* f32 [T, H, D] */
  lr_tensor lse;              /* f32 [T, H]: log-sum-exp of the scores, for backward; may be absent in forward */
  lr_tensor q, k, v;
  lr_tensor cu_q, cu_k;       /* i32 [n + 1] */
  lr_tensor kv_len;           /* i32 [n] */
  lr_tensor block_table;      /* i32 [n, max_blocks] */
  float scale, softcap;
  int32_t window;
  int32_t max_q;              /* longest number of queries of a sequence, a host-side bound */
  int32_t math;               /* BF16 lets a device round q, k, v, dout, the probabilities and their gradients to bf16 for its products; what else it computes is float32 */
  /* backward */
  lr_tensor dout, dq, dk, dv;
} lr_attention_args;

/* Output head fused with log-probabilities: logits = softcap(logit_scale * x Wᵀ), one chunk at a time. A weight whose data
 * is NULL: x holds the products themselves, [T, n] (a head with an adapter makes them otherwise).
 * value[t] = (1 - e) log p[label] + e mean_v log p[v] - z * lse²; rows with label -100 are dropped before the GEMM and
 * give 0 (and entropy 0, argmax -1). */
typedef struct lr_head_args {
  lr_tensor value;            /* f32 [T] */
  lr_tensor entropy;          /* f32 [T] or absent: of the softmax */
  lr_tensor argmax;           /* i32 [T] or absent; the lowest index among equals */
  lr_tensor dx_unit;          /* f32 [T, k] or absent: d value / d x, saved when the head is frozen */
  lr_tensor x;                /* f32 [T, k] */
  lr_weight weight;
  lr_tensor labels;           /* i32 [T] */
  float softcap, logit_scale; /* softcap 0: none */
  float smoothing, z_loss;
  int32_t math;
  /* backward (recomputes the chunk of logits) */
  lr_tensor dvalue, dentropy; /* f32 [T]; dentropy may be absent */
  lr_tensor dx;               /* f32 [T, k] or absent, written */
  lr_tensor dweight;          /* f32 [n, k] or absent, accumulated in fixed order */
} lr_head_args;

/* One contiguous part of the parameter arena; begin is a multiple of 256 elements. Stored in a U8 tensor. Its moments lie, in the order of its
 * elements, in tensors for all segments of that width: from element 256 * block of the float32 ones, or as 8-bit codes from element
 * 256 * block of `state` with one absmax for each block of 256 from absmax[block] on. Segments of one width follow each other there too. */
typedef struct lr_optim_segment {
  int64_t begin, end;
  float lr_scale, weight_decay;
  int32_t bits;               /* of the moments: 32 or 8 */
  int32_t block;
} lr_optim_segment;           /* 32 bytes */

/* How adafactor sees one segment: matrices of rows x cols elements, as many as the segment has. Their means of squares begin at element `row` of
 * exp_avg_sq_row (one a row) and `col` of exp_avg_sq_col (one a column). cols 0: a vector, whose second moment begins at element `row` of
 * exp_avg_sq. Stored in a U8 tensor; ascending, without overlaps. */
typedef struct lr_optim_shape {
  int64_t rows, cols, row, col;
} lr_optim_shape;             /* 32 bytes */

/* Lives in device memory (a U8 tensor of 64 bytes), so that the device alone decides whether a step happens. */
typedef struct lr_optim_header {
  int64_t step;               /* steps done, the one in progress included: what the bias correction uses */
  int64_t skipped;            /* steps skipped because something was not finite */
  double grad_norm_sq;        /* of the unclipped gradient */
  int32_t finite;             /* loss and gradient of this step */
  int32_t consecutive;        /* skipped in a row */
  int64_t reserved[4];
} lr_optim_header;            /* 64 bytes */

#define LR_SLOTS 32

typedef struct lr_backend {
  uint32_t abi;               /* LR_ABI_VERSION */
  uint32_t size;              /* sizeof(lr_backend) */
  const char* name;           /* "scalar", "avx2", "avx512", "avx512bf16", "cuda" */
  int32_t bf16;               /* 1: multiplies bf16 natively (LR_MATH_BF16 is worth using) */

  /* memory of the device; on the CPU plain aligned host memory */
  void* (*alloc)(size_t bytes, lr_error* error); /* 64-byte aligned; NULL, with the reason, when there is none */
  void (*release)(void* data, size_t bytes);     /* waits for what the device still does with it */
  void* (*alloc_host)(size_t bytes, lr_error* error); /* of the host, but the device copies from and to it in the background; NULL: alloc is as good */
  void (*release_host)(void* data, size_t bytes);
  uint64_t (*available)(void);                   /* bytes that alloc could still give; NULL: those that the host has */
  int32_t separate;           /* 1: the host cannot write to the device's memory, files come by upload */
  lr_error (*upload)(lr_queue*, void* dst, const void* src, size_t bytes);
  lr_error (*download)(lr_queue*, void* dst, const void* src, size_t bytes); /* waits for the bytes */
  /* NULL where an entry is done when it returns. Else waits for all that was enqueued. late(owner, error) is told what entries found wrong after
   * they had returned, with queue->owner of their call; a failure of the device itself is returned. */
  lr_error (*synchronize)(lr_queue*, void (*late)(void* owner, const lr_error* error));

  /* The backend's own copy stream: transfers of whole tensors that overlap what is enqueued after them, in LR_SLOTS slots. They happen one after
   * the other, each behind what was enqueued before it; `wait` orders the queue behind the last transfer of the slot, and until then both tensors must live and rest. */
  lr_error (*prefetch)(lr_queue*, int32_t slot, lr_tensor dst, lr_tensor src);
  lr_error (*write_back)(lr_queue*, int32_t slot, lr_tensor dst, lr_tensor src);
  lr_error (*wait)(lr_queue*, int32_t slot);

  /* elementwise, reductions */
  lr_error (*fill)(lr_queue*, lr_tensor y, double value);
  lr_error (*copy)(lr_queue*, lr_tensor y, lr_tensor x);                         /* converts between f32, bf16, f16 (round to nearest even) */
  lr_error (*axpy)(lr_queue*, lr_tensor y, lr_tensor x, float alpha);            /* y += alpha x, f32 */
  lr_error (*add)(lr_queue*, lr_tensor y, lr_tensor a, lr_tensor b);             /* f32 */
  lr_error (*scale_rows)(lr_queue*, lr_tensor y, lr_tensor x, lr_tensor s, int32_t accumulate); /* y[i,:] (+)= s[i] x[i,:] */
  lr_error (*copy_columns)(lr_queue*, lr_tensor y, lr_tensor x, int32_t y_begin, int32_t x_begin, int32_t columns);
      /* f32 matrices of equally many rows: y[:, y_begin + j] = x[:, x_begin + j] for j < columns; the rest of y stays */
  lr_error (*dot)(lr_queue*, lr_tensor y, lr_tensor a, lr_tensor b, float scale, int32_t accumulate); /* y[0] (+)= scale Σ a b, f64 inside; b absent: 1 */
  lr_error (*random)(lr_queue*, lr_tensor y, int32_t normal, float a, float b, uint64_t key); /* uniform [a, b) or normal(mean a, std b); philox(key, element / 4) */

  /* rows */
  lr_error (*embedding)(lr_queue*, lr_tensor y, lr_tensor table, lr_tensor ids, float scale);      /* y f32 [T, d] = scale * table[ids]; also any gather of rows */
  lr_error (*embedding_grad)(lr_queue*, lr_tensor dtable, lr_tensor dy, lr_tensor ids, float scale); /* f32, accumulated in ascending t */

  /* norms, rotary, activation */
  lr_error (*rms_norm)(lr_queue*, lr_tensor y, lr_tensor rstd, lr_tensor x, lr_tensor residual, lr_tensor weight, float eps, int32_t unit_offset);
      /* y = x * rstd * (unit_offset + weight) over the last dimension, + residual where there is one */
  lr_error (*rms_norm_grad)(lr_queue*, lr_tensor dx, lr_tensor dweight, lr_tensor dy, lr_tensor residual, lr_tensor x, lr_tensor rstd, lr_tensor weight, float eps, int32_t unit_offset);
      /* [scratch] dx = d/dx + residual: the gradient that reaches x by other ways, which may be dx itself, or absent; dweight may be absent, is accumulated */
  lr_error (*rope_table)(lr_queue*, lr_tensor table, lr_tensor positions, lr_tensor inv_freq, float scaling);
      /* table f32 [T, 2h]: h cosines, then h sines of position * inv_freq (angle in f32), times scaling; inv_freq f32 [h] */
  lr_error (*rope)(lr_queue*, lr_tensor y, lr_tensor x, lr_tensor table, int32_t inverse);
      /* x, y [T, H, D]; rotates pairs (i, i + h) of the first 2h dimensions, copies the rest; inverse: the transposed rotation */
  lr_error (*glu)(lr_queue*, lr_tensor y, lr_tensor gate, lr_tensor up, int32_t activation);  /* y = activation(gate) * up */
  lr_error (*glu_grad)(lr_queue*, lr_tensor dgate, lr_tensor dup, lr_tensor dy, lr_tensor gate, lr_tensor up, int32_t activation);  /* dgate may be gate, dup up */

  lr_error (*softcap)(lr_queue*, lr_tensor y, lr_tensor x, float factor, float cap);   /* y = cap * tanh(factor * x / cap) */
  lr_error (*softcap_grad)(lr_queue*, lr_tensor dx, lr_tensor dy, lr_tensor y, float factor, float cap);

  /* linears */
  lr_error (*linear)(lr_queue*, const lr_linear_group* group);      /* [scratch] y = x Wᵀ + bias + Σ scale (drop(x) Aᵀ) Bᵀ + residual */
  lr_error (*linear_grad)(lr_queue*, const lr_linear_group* group); /* [scratch] with du = scale dY B: dx (+)= Σ_layers dY W + drop'(du A); dA += duᵀ drop(x); dB += scale dYᵀ u */
  lr_error (*linear_dw)(lr_queue*, lr_tensor dweight, lr_tensor dbias, lr_tensor dy, lr_tensor x, int32_t math); /* [scratch] accumulated; either may be absent */

  /* attention */
  lr_error (*attention)(lr_queue*, const lr_attention_args* args);      /* [scratch] */
  lr_error (*attention_grad)(lr_queue*, const lr_attention_args* args); /* [scratch] dq, dk, dv are written */
  lr_error (*kv_append)(lr_queue*, lr_tensor k_pool, lr_tensor v_pool, lr_tensor k, lr_tensor v, lr_tensor cu_q, lr_tensor kv_len, lr_tensor block_table);
      /* rows of sequence i become its last cu_q[i+1]-cu_q[i] keys; kv_len counts them already */

  /* head */
  lr_error (*token_logprob)(lr_queue*, const lr_head_args* args);       /* [scratch] */
  lr_error (*token_logprob_grad)(lr_queue*, const lr_head_args* args);  /* [scratch] */

  /* quantisation (bitsandbytes semantics, formats.md D.3 and E) */
  lr_error (*quantize_4bit)(lr_queue*, lr_tensor codes, lr_tensor absmax, lr_tensor non_finite, lr_tensor x, int32_t code4, int32_t blocksize);
      /* x f32/bf16/f16, any shape; codes u8 [ceil(n/2)]; absmax f32; non_finite i32 [1] or absent: counts NaN and inf, accumulated */
  lr_error (*dequantize_4bit)(lr_queue*, lr_tensor y, const lr_weight* weight);  /* y f32/bf16/f16 [n, k] */
  lr_error (*quantize_8bit)(lr_queue*, lr_tensor codes, lr_tensor absmax, lr_tensor x, lr_tensor map, int32_t blocksize); /* map f32 [256] ascending; nearest entry */
  lr_error (*dequantize_8bit)(lr_queue*, lr_tensor y, lr_tensor codes, lr_tensor absmax, lr_tensor map, int32_t blocksize);
  lr_error (*quantize_absmax)(lr_queue*, lr_tensor codes, lr_tensor nested_absmax, lr_tensor offset, lr_tensor absmax, lr_tensor map, int32_t blocksize);
      /* offset f32 [1] = mean(absmax); codes, nested_absmax of absmax - offset */

  /* optimizer over the arena */
  lr_error (*grad_stats)(lr_queue*, lr_tensor header, lr_tensor grad, lr_tensor loss);  /* [scratch] grad_norm_sq; finite (loss f32 may be absent); counts the step, as done or as skipped */
  lr_error (*adamw)(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor state1, lr_tensor absmax1,
                    lr_tensor state2, lr_tensor absmax2, lr_tensor qmaps, lr_tensor header, lr_tensor segments, double lr, double beta1, double beta2,
                    double eps, double max_grad_norm, int32_t decoupled);
      /* torch's AdamW per segment, lr * lr_scale. param f32, or bf16 where exp_avg and exp_avg_sq are too: then every operation is rounded
       * as torch's; grad is f32. decoupled 0: Adam, weight decay is added to the clipped gradient. max_grad_norm > 0: gradient
       * times min(1, max / (norm + 1e-6)). After grad_stats, whose step it takes, on the whole arena or on slices of it, which begin at multiples
       * of 256 elements, one after the other. Not finite: changes nothing. 8-bit moments as bitsandbytes' CUDA kernel: the update
       * uses the new moments before they are quantised again; state u8, absmax f32, qmaps f32 [2, 256]: the signed map of exp_avg, the unsigned
       * one of exp_avg_sq. Tensors of a width that no segment has may be absent. */
  lr_error (*lion)(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor state1, lr_tensor absmax1, lr_tensor qmap, lr_tensor header,
                   lr_tensor segments, double lr, double beta1, double beta2, double max_grad_norm);
      /* Lion (Chen et al. 2023), otherwise as adamw: sign(beta1 m + (1 - beta1) g), decoupled weight decay, then m = beta2 m + (1 - beta2) g; of bf16 only what is stored is rounded */
  lr_error (*adafactor)(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor exp_avg, lr_tensor exp_avg_sq, lr_tensor exp_avg_sq_row,
                        lr_tensor exp_avg_sq_col, lr_tensor header, lr_tensor segments, lr_tensor shapes, double lr, double eps1, double eps2,
                        double clip_threshold, double decay_rate, double beta1, int32_t scale_parameter, int32_t relative_step, int32_t warmup_init,
                        double max_grad_norm);
      /* [scratch] Adafactor (Shazeer & Stern 2018) with the arithmetic of transformers 5, otherwise as adamw with 32-bit moments. exp_avg absent:
       * no first moment. relative_step: lr is min(warmup_init ? 1e-6 step : 1e-2, 1 / sqrt(step)) */
  lr_error (*sgd)(lr_queue*, lr_tensor param, lr_tensor grad, lr_tensor momentum_buffer, lr_tensor header, lr_tensor segments,
                  double lr, double momentum, double dampening, int32_t nesterov, double max_grad_norm);
      /* torch's SGD with 32-bit moments, otherwise as adamw: weight decay is added to the clipped gradient, the first step's buffer is that gradient. momentum 0: the buffer may be absent */

  /* benchmarks */
  lr_error (*multiply_adds)(lr_queue*, lr_tensor y, int32_t math, int32_t millions);
      /* the bare instruction of products, `millions` (1 to 500) million multiply-adds for each element of y f32, of which there are at most
       * `threads`; y gets how many millions were done, whole rounds. NULL: not measured so */
} lr_backend;

/* What a plugin (CUDA, emulator) exports. lr_backend_open: NULL, with the reason in error, when the device cannot be used.
 * lr_backend_table: the same table where there is no device, of which only sizing calls may be made. */
typedef const lr_backend* (*lr_backend_open_fn)(int32_t device, lr_error* error);
typedef const lr_backend* (*lr_backend_table_fn)(void);

#ifdef __cplusplus
}
#endif
#endif
