import { valueAndGrad } from "../../autograd/tape.js";
import { attention } from "../../ops/attention.js";
import { weightedSum } from "../../ops/elementwise.js";
import { fillRandom } from "../../ops/random.js";
import { ParameterArena } from "../../optim/arena.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";
import { dot, type OpCase, places, relativeError } from "./op-case.js";
import { randomTensor } from "./peaks.js";

/** [tokens, heads, heads of keys, dimension]. */
export type AttentionShape = readonly [s: number, heads: number, kvHeads: number, d: number];

/** One causal sequence, forward: half of two products of S × S × D a head. */
export function attentionCase(device: Device, shape: AttentionShape, bf16: boolean): OpCase {
  const [s, heads, kvHeads, d] = shape;
  const cuSeqlens = Tensor.from(Int32Array.of(0, s), [2], { dtype: "int32", device });
  const q = randomTensor(device, [s, heads, d], "q");
  const [k, v] = [randomTensor(device, [s, kvHeads, d], "k"), randomTensor(device, [s, kvHeads, d], "v")];
  const run = () => attention(q, k, v, { cuSeqlens, maxSeqlen: s, bf16 });
  return {
    ...described("attention", ["attention"], shape, 2, bf16),
    run: () => scope(() => void run()),
    error: async () => {
      const y = scope(run);
      const [out, ...inputs] = await Promise.all([y, q, k, v].map((t) => t.readFloat32()));
      y.dispose();
      const reference = new Reference(shape, inputs);
      const pairs: [number, number][] = [];
      for (const i of places(s))
        for (let h = 0; h < heads; h++) {
          const p = reference.probabilities(i, h);
          for (const c of places(d))
            pairs.push([out![(i * heads + h) * d + c]!, p.reduce((sum, pj, j) => sum + pj * reference.value(j, h)[c]!, 0)]);
        }
      return relativeError(pairs);
    },
    dispose: () => [cuSeqlens, q, k, v].forEach((owned) => void owned.dispose()),
  };
}

/** Its gradients: half of five products. What is checked is that of the queries. */
export function attentionGradCase(device: Device, shape: AttentionShape, bf16: boolean): OpCase {
  const [s, heads, kvHeads, d] = shape;
  const cuSeqlens = Tensor.from(Int32Array.of(0, s), [2], { dtype: "int32", device });
  const dy = randomTensor(device, [s, heads, d], "dy");
  const arena = new ParameterArena(
    [
      { name: "q", shape: [s, heads, d] },
      { name: "k", shape: [s, kvHeads, d] },
      { name: "v", shape: [s, kvHeads, d] },
    ],
    device,
  );
  fillRandom(arena.values, { normal: { mean: 0, std: 1 } }, randomKey(1, "qkv"));
  arena.setTrainable(true);
  const [q, k, v] = [arena.get("q"), arena.get("k"), arena.get("v")];
  const run = () =>
    scope(() => void valueAndGrad(() => weightedSum(attention(q, k, v, { cuSeqlens, maxSeqlen: s, bf16 }), 1, dy)));
  return {
    ...described("attention_grad", ["attentionGrad"], shape, 5, bf16),
    run,
    error: async () => {
      arena.zeroGrad();
      run();
      const [dq, dout, ...inputs] = await Promise.all([arena.gradients!, dy, q, k, v].map((t) => t.readFloat32()));
      const reference = new Reference(shape, inputs);
      const pairs: [number, number][] = [];
      for (const i of places(s))
        for (let h = 0; h < heads; h++) {
          const p = reference.probabilities(i, h);
          const at = (i * heads + h) * d;
          const dp = p.map((_, j) => dot(dout!.subarray(at, at + d), reference.value(j, h)));
          const mean = p.reduce((sum, pj, j) => sum + pj * dp[j]!, 0);
          for (const c of places(d)) {
            const sum = p.reduce((total, pj, j) => total + pj * (dp[j]! - mean) * reference.key(j, h)[c]!, 0);
            pairs.push([dq![at + c]!, sum / Math.sqrt(d)]);
          }
        }
      return relativeError(pairs);
    },
    dispose: () => [cuSeqlens, dy, arena].forEach((owned) => void owned.dispose()),
  };
}

/** Rows of the same attention in float64. */
class Reference {
  private readonly q: Float32Array;
  private readonly k: Float32Array;
  private readonly v: Float32Array;

  constructor(
    private readonly shape: AttentionShape,
    [q, k, v]: readonly Float32Array[],
  ) {
    [this.q, this.k, this.v] = [q!, k!, v!];
  }

  key = (j: number, h: number) => this.part(this.k, j, h);
  value = (j: number, h: number) => this.part(this.v, j, h);

  /** Of keys 0 to i for query i of head h. */
  probabilities(i: number, h: number): number[] {
    const [, heads, , d] = this.shape;
    const at = (i * heads + h) * d;
    const query = this.q.subarray(at, at + d);
    const scores = Array.from({ length: i + 1 }, (_, j) => dot(query, this.key(j, h)) / Math.sqrt(d));
    const most = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - most));
    const total = weights.reduce((sum, w) => sum + w, 0);
    return weights.map((w) => w / total);
  }

  private part(of: Float32Array, j: number, h: number): Float32Array {
    const [, heads, kvHeads, d] = this.shape;
    const at = (j * kvHeads + Math.floor((h * kvHeads) / heads)) * d;
    return of.subarray(at, at + d);
  }
}

const described = (op: string, kernels: readonly string[], [s, heads, , d]: AttentionShape, products: number, bf16: boolean) => ({
  op,
  kernels,
  dtype: bf16 ? "bfloat16" : "float32",
  m: s,
  n: heads,
  k: d,
  work: { flops: products * s * s * heads * d },
});
