/* What attention, its gradient and kv_append ask of their arguments on every device. The contents of index tensors are checked by the device. */
#ifndef LOWRANK_ABI_ATTENTION_H
#define LOWRANK_ABI_ATTENTION_H
#include "entry.h"

namespace lr { namespace {

constexpr int64_t kPageSize = 64; /* keys of a block of the cache */

__attribute__((unused)) void check_sequences(Check& check, const lr_tensor& cu_q, const lr_tensor& cu_k, const lr_tensor& kv_len, const lr_tensor& block_table) {
  check.tensor("cu_q", cu_q, LR_I32);
  check.require(elements(cu_q) >= 1, "cu_q must have at least 1 element");
  if (check.failed) return;
  check.optional("cu_k", cu_k, LR_I32, elements(cu_q));
  if (!present(block_table)) return;
  const int64_t n = elements(cu_q) - 1;
  check.tensor("kv_len", kv_len, LR_I32, n);
  check.tensor("block_table", block_table, LR_I32);
  check.rank("block_table", block_table, 2);
  check.require(block_table.shape[0] == n, "block_table must have %lld rows, one a sequence, but has %lld", (long long)n, (long long)block_table.shape[0]);
}

/* An output apart from the index tensors. */
__attribute__((unused)) void check_apart(Check& check, const char* name, const lr_tensor& output, const lr_tensor& cu_q, const lr_tensor& cu_k, const lr_tensor& kv_len,
                         const lr_tensor& block_table) {
  check.apart("cu_q", cu_q, name, output);
  check.apart("cu_k", cu_k, name, output);
  check.apart("kv_len", kv_len, name, output);
  check.apart("block_table", block_table, name, output);
}

/* The pools of a cache, of one dtype. */
__attribute__((unused)) void check_pools(Check& check, const char* k_name, const lr_tensor& k, const char* v_name, const lr_tensor& v) {
  check.floating(k_name, k);
  check.require(k.dtype != LR_F16, "%s must be float32 or bfloat16 but is float16", k_name);
  if (!check.failed) check.tensor(v_name, v, k.dtype, elements(k));
}

__attribute__((unused)) void check_attention(Check& check, const lr_attention_args& a) {
  const bool paged = present(a.block_table);
  check.tensor("q", a.q, LR_F32);
  if (paged) check_pools(check, "k", a.k, "v", a.v);
  else {
    check.tensor("k", a.k, LR_F32);
    check.tensor("v", a.v, LR_F32);
  }
  check.rank("q", a.q, 3);
  check.rank("k", a.k, paged ? 4 : 3);
  check.require(a.v.rank == a.k.rank && elements(a.v) == elements(a.k), "v must have the shape of k");
  if (check.failed) return;
  const int64_t tokens = a.q.shape[0], heads = a.q.shape[1], d = a.q.shape[2], kv_heads = a.k.shape[a.k.rank - 2];
  check.require(a.k.shape[a.k.rank - 1] == d, "k has heads of %lld but q has heads of %lld", (long long)a.k.shape[a.k.rank - 1], (long long)d);
  check.require(d >= 1 && d <= 512, "the head size must be from 1 to 512 but is %lld", (long long)d);
  check.require(kv_heads >= 1 && heads % kv_heads == 0, "%lld query heads are no multiple of %lld kv heads", (long long)heads, (long long)kv_heads);
  check.require(!paged || a.k.shape[1] == kPageSize, "the cache must have blocks of %d keys but has %lld", (int)kPageSize, (long long)a.k.shape[1]);
  check_sequences(check, a.cu_q, a.cu_k, a.kv_len, a.block_table);
  check.tensor("out", a.out, LR_F32, elements(a.q));
  check.optional("lse", a.lse, LR_F32, tokens * heads);
  check.require(a.max_q >= 0, "max_q must not be negative but is %d", (int)a.max_q);
  check_apart(check, "out", a.out, a.cu_q, a.cu_k, a.kv_len, a.block_table);
  check_apart(check, "lse", a.lse, a.cu_q, a.cu_k, a.kv_len, a.block_table);
}

/* Besides. */
__attribute__((unused)) void check_attention_grad(Check& check, const lr_attention_args& a) {
  check.require(!present(a.block_table), "gradients through a paged cache are not defined; give packed keys and values");
  check.tensor("lse", a.lse, LR_F32);
  check.tensor("dout", a.dout, LR_F32, elements(a.q));
  check.tensor("dq", a.dq, LR_F32, elements(a.q));
  check.tensor("dk", a.dk, LR_F32, elements(a.k));
  check.tensor("dv", a.dv, LR_F32, elements(a.v));
  check_apart(check, "dq", a.dq, a.cu_q, a.cu_k, {}, {});
  check_apart(check, "dk", a.dk, a.cu_q, a.cu_k, {}, {});
  check_apart(check, "dv", a.dv, a.cu_q, a.cu_k, {}, {});
}

__attribute__((unused)) void check_kv_append(Check& check, const lr_tensor& k_pool, const lr_tensor& v_pool, const lr_tensor& k, const lr_tensor& v, const lr_tensor& cu_q,
                             const lr_tensor& kv_len, const lr_tensor& block_table) {
  check_pools(check, "k_pool", k_pool, "v_pool", v_pool);
  check.tensor("k", k, LR_F32);
  check.rank("k_pool", k_pool, 4);
  check.rank("k", k, 3);
  if (check.failed) return;
  check.tensor("v", v, LR_F32, elements(k));
  check.require(k_pool.shape[1] == kPageSize, "k_pool must have blocks of %d keys but has %lld", (int)kPageSize, (long long)k_pool.shape[1]);
  const int64_t width = k.shape[1] * k.shape[2], pool_width = k_pool.shape[2] * k_pool.shape[3];
  check.require(pool_width == width, "k has %lld values a token but k_pool has %lld", (long long)width, (long long)pool_width);
  check.tensor("block_table", block_table, LR_I32);
  check_sequences(check, cu_q, {}, kv_len, block_table);
  check_apart(check, "k_pool", k_pool, cu_q, {}, kv_len, block_table);
  check_apart(check, "v_pool", v_pool, cu_q, {}, kv_len, block_table);
}

}}  // namespace lr
#endif
