import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, handleOf, mismatch, wordsOf } from "./kernel.js";

export interface AttentionOptions {
  /** int32 [n + 1]: sequence i owns queries cuSeqlens[i] to cuSeqlens[i + 1]. */
  cuSeqlens: Tensor;
  /** The same of the keys, where there are more of them than queries; the last query stands at the last key. */
  cuSeqlensK?: Tensor;
  /** Longest number of queries of one sequence. */
  maxSeqlen: number;
  /** Of the scores; 1 / sqrt(D) when absent. */
  scale?: number;
  /** Key j is visible at position i when i - j < window; absent: all. */
  window?: number;
  /** c * tanh(score / c); absent: none. */
  softcap?: number;
  /** Round operands and probabilities to bfloat16 where the device has products of it that pay (tensor cores, AVX512-BF16); others compute in float32. */
  bf16?: boolean;
}

/** Keys and values of earlier tokens, in blocks of 64 that a table assigns to sequences. */
export interface PagedCache {
  /** float32 or bfloat16 [blocks, 64, Hkv, D]. */
  k: Tensor;
  v: Tensor;
  /** int32 [n]: keys of each sequence, those of the present call included. */
  kvLen: Tensor;
  /** int32 [n, blocks of the longest]. */
  blockTable: Tensor;
}

/** Attention over packed sequences: q [T, H, D], k and v [Tk, Hkv, D] → [T, H, D], all float32. Causal, grouped queries, never S × S in memory. */
export const attention = (q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor =>
  attentionOp({ q, k, v }, options);

/** The same against a cache; no gradient. */
export function attentionCached(q: Tensor, cache: PagedCache, options: AttentionOptions): Tensor {
  const out = Tensor.empty(q.shape, { device: q.device });
  enqueue(out, (kernels, d) =>
    kernels.attention(
      d,
      words(options, q, {
        out: out.handle,
        k: cache.k.handle,
        v: cache.v.handle,
        kvLen: cache.kvLen.handle,
        blockTable: cache.blockTable.handle,
      }),
    ),
  );
  return out;
}

/** Writes the last keys and values of each sequence into the cache; `cache.kvLen` counts them already. k, v [T, Hkv, D]. */
export function kvAppend(cache: PagedCache, k: Tensor, v: Tensor, cuSeqlens: Tensor): void {
  enqueue(k, (kernels, d) =>
    kernels.kvAppend(
      d,
      cache.k.handle,
      cache.v.handle,
      k.handle,
      v.handle,
      cuSeqlens.handle,
      cache.kvLen.handle,
      cache.blockTable.handle,
    ),
  );
}

interface Handles {
  out: number;
  k: number;
  v: number;
  lse?: number;
  kvLen?: number;
  blockTable?: number;
  dout?: number;
  dq?: number;
  dk?: number;
  dv?: number;
}

/** The fields of `lr_attention_args` in order. */
function words(options: AttentionOptions, q: Tensor, a: Handles): Float64Array {
  return wordsOf([
    a.out,
    a.lse ?? 0,
    q.handle,
    a.k,
    a.v,
    options.cuSeqlens.handle,
    handleOf(options.cuSeqlensK),
    a.kvLen ?? 0,
    a.blockTable ?? 0,
    options.scale ?? 1 / Math.sqrt(q.shape[2]!),
    options.softcap ?? 0,
    options.window ?? 0,
    options.maxSeqlen,
    options.bf16 ? 1 : 0,
    a.dout ?? 0,
    a.dq ?? 0,
    a.dk ?? 0,
    a.dv ?? 0,
  ]);
}

type Inputs = { q: Tensor; k: Tensor; v: Tensor };

const attentionOp = defineOp<
  Inputs,
  AttentionOptions,
  Inputs & { out: Tensor; lse: Tensor; cu: Tensor; cuK: Tensor | undefined },
  Tensor
>({
  name: "attention",
  forward({ q, k, v }, options, save, recording) {
    for (const [name, x] of [
      ["q", q],
      ["k", k],
      ["v", v],
    ] as const)
      if (x.shape.length !== 3) throw mismatch("attention", name, "[T, H, D]", x);
    if (q.shape[1]! % k.shape[1]! !== 0)
      throw mismatch("attention", "heads of q", `a multiple of the ${k.shape[1]} heads of k`, q);
    if (q.shape[2] !== k.shape[2]) throw mismatch("attention", "k", `of head dimension ${q.shape[2]} as q`, k);
    const out = Tensor.empty(q.shape, { device: q.device });
    const lse = recording ? Tensor.empty([q.shape[0]!, q.shape[1]!], { device: q.device }) : undefined;
    enqueue(out, (kernels, d) =>
      kernels.attention(d, words(options, q, { out: out.handle, k: k.handle, v: v.handle, lse: handleOf(lse) })),
    );
    if (lse) save({ q, k, v, out, lse, cu: options.cuSeqlens, cuK: options.cuSeqlensK });
    return out;
  },
  backward([dout], { q, k, v, out, lse }, sink, _inputs, options) {
    const { device } = q;
    const dq = Tensor.empty(q.shape, { device });
    const dk = Tensor.empty(k.shape, { device });
    const dv = Tensor.empty(v.shape, { device });
    enqueue(dq, (kernels, d) =>
      kernels.attentionGrad(
        d,
        words(options, q, {
          out: out.handle,
          lse: lse.handle,
          k: k.handle,
          v: v.handle,
          dout: dout!.handle,
          dq: dq.handle,
          dk: dk.handle,
          dv: dv.handle,
        }),
      ),
    );
    sink.give(q, dq);
    sink.give(k, dk);
    sink.give(v, dv);
  },
});
