import { valueAndGrad } from "../../autograd/tape.js";
import { cast } from "../../ops/copy.js";
import { weightedSum } from "../../ops/elementwise.js";
import { linearGroup } from "../../ops/linear.js";
import { fillRandom } from "../../ops/random.js";
import { tokenLogProb } from "../../ops/token-logprob.js";
import { ParameterArena } from "../../optim/arena.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";
import { dot, type OpCase, places, relativeError, row } from "./op-case.js";
import { randomTensor } from "./peaks.js";

/** A frozen linear y = x Wᵀ, forward, dense or 4-bit. */
export function linearCase(
  device: Device,
  kind: "nf4" | "dense",
  [m, n, k]: readonly [number, number, number],
  bf16: boolean,
): OpCase {
  const x = randomTensor(device, [m, k], "x");
  const dense = randomTensor(device, [n, k], "w");
  const weight =
    kind === "dense" ? Weight.dense(dense) : scope(() => Weight.quantize4bit(dense, { round: bf16, doubleQuant: true }));
  if (kind === "nf4") dense.dispose();
  const forward = () => linearGroup(x, [{ weight, bias: undefined, segments: [] }], { bf16 })[0]!;
  const bytes = (kind === "dense" ? 4 : 0.516) * n * k + 4 * m * (n + k);
  return {
    op: kind === "nf4" ? "linear_nf4" : "linear",
    kernels: ["linear"],
    dtype: bf16 ? "bfloat16" : "float32",
    m,
    n,
    k,
    work: m < 8 ? { bytes, traffic: "read" } : { flops: 2 * m * n * k },
    run: () => scope(() => void forward()),
    error: async () => {
      const [y, w] = scope(() => [forward(), weight.dequantize("float32")] as const);
      try {
        const pairs: [number, number][] = [];
        for (const i of places(m)) {
          const [actual, xi] = [await row(y, i), await row(x, i)];
          for (const j of places(n)) pairs.push([actual[j]!, dot(xi, await row(w, j))]);
        }
        return relativeError(pairs);
      } finally {
        y.dispose();
        w.dispose();
      }
    },
    dispose: () => {
      x.dispose();
      weight.dispose();
    },
  };
}

/** dX = dY W of the same linear, with W frozen in 4 bits. */
export const linearDxCase = (device: Device, shape: readonly [number, number, number], bf16: boolean): OpCase => ({
  ...trainedLinear(device, shape, bf16, 0),
  op: "linear_nf4_dx",
  kernels: ["linearGrad"],
  work: { flops: 2 * shape[0] * shape[1] * shape[2] },
});

/** Forward and backward of it, bare (rank 0) or with a trained adapter: 6 r (n + k) operations a row more. */
export const linearTrainCase = (
  device: Device,
  shape: readonly [number, number, number],
  bf16: boolean,
  rank: number,
): OpCase => {
  const [m, n, k] = shape;
  return {
    ...trainedLinear(device, shape, bf16, rank),
    op: rank === 0 ? "linear_nf4_train" : `linear_nf4_lora${rank}_train`,
    kernels: ["linear", "linearGrad"],
    work: { flops: m * (4 * n * k + 6 * rank * (n + k)) },
  };
};

/** Runs forward and backward of one linear; what is checked is dX. */
function trainedLinear(device: Device, [m, n, k]: readonly [number, number, number], bf16: boolean, rank: number) {
  const dy = randomTensor(device, [m, n], "dy");
  const pair = [
    { name: "a", shape: [rank, k] },
    { name: "b", shape: [n, rank] },
  ];
  const arena = new ParameterArena([{ name: "x", shape: [m, k] }, ...(rank > 0 ? pair : [])], device);
  fillRandom(arena.values, { normal: { mean: 0, std: 1 } }, randomKey(1, "x"));
  arena.setTrainable(true);
  const weight = scope(() => Weight.quantize4bit(randomTensor(device, [n, k], "w"), { round: bf16 }));
  const scale = 1 / rank;
  const segments = rank > 0 ? [{ rowBegin: 0, rowEnd: m, a: arena.get("a"), b: arena.get("b"), scale }] : [];
  const layer = { weight, bias: undefined, segments };
  const run = () => scope(() => void valueAndGrad(() => weightedSum(linearGroup(arena.get("x"), [layer], { bf16 })[0]!, 1, dy)));
  return {
    dtype: bf16 ? "bfloat16" : "float32",
    m,
    n,
    k,
    run,
    error: async () => {
      arena.zeroGrad();
      run();
      const w = scope(() => weight.dequantize("float32"));
      try {
        const [values, dx] = [await w.readFloat32(), await arena.gradients!.readFloat32()];
        const [a, b] = rank > 0 ? [await arena.get("a").readFloat32(), await arena.get("b").readFloat32()] : [];
        const pairs: [number, number][] = [];
        for (const i of places(m)) {
          const dyi = await row(dy, i);
          const through = (of: Float32Array, columns: number, j: number) =>
            dyi.reduce((sum, v, o) => sum + v * of[o * columns + j]!, 0);
          const du = Array.from({ length: rank }, (_, r) => scale * through(b!, rank, r));
          for (const j of places(k))
            pairs.push([dx[i * k + j]!, through(values, k, j) + du.reduce((sum, v, r) => sum + v * a![r * k + j]!, 0)]);
        }
        return relativeError(pairs);
      } finally {
        w.dispose();
      }
    },
    dispose: () => {
      for (const owned of [dy, arena, weight]) owned.dispose();
    },
  };
}

/** The head with cross-entropy as a training step runs it: logits, and from them the gradient of the hidden states. */
export function headCase(device: Device, [m, vocab, d]: readonly [number, number, number], bf16: boolean): OpCase {
  const arena = new ParameterArena([{ name: "hidden", shape: [m, d] }], device);
  const dense = Tensor.empty([vocab, d], { device });
  fillRandom(arena.values, { normal: { mean: 0, std: 1 } }, randomKey(1, "hidden"));
  // Logits of standard deviation 3, as of a model that knows something.
  fillRandom(dense, { normal: { mean: 0, std: 3 / Math.sqrt(d) } }, randomKey(1, "w"));
  arena.setTrainable(true);
  const stored = scope(() => cast(dense, "bfloat16"));
  dense.dispose();
  const weight = Weight.dense(stored);
  const ids = Int32Array.from({ length: m }, (_, i) => (i * 7919) % vocab);
  const labels = Tensor.from(ids, [m], { dtype: "int32", device });
  const hidden = arena.get("hidden");
  const run = () => tokenLogProb(hidden, weight, labels, { bf16 }).value;
  return {
    op: "head",
    kernels: ["tokenLogprob"],
    dtype: bf16 ? "bfloat16" : "float32",
    m,
    n: vocab,
    k: d,
    work: { flops: 4 * m * vocab * d },
    run: () => scope(() => void valueAndGrad(() => weightedSum(run(), 1))),
    error: async () => {
      const y = scope(run);
      const [values, w] = [await y.readFloat32(), await stored.readFloat32()];
      y.dispose();
      const pairs: [number, number][] = [];
      for (const i of places(m)) {
        const x = await row(hidden, i);
        const logits = Array.from({ length: vocab }, (_, o) => dot(x, w.subarray(o * d, (o + 1) * d)));
        const most = logits.reduce((a, b) => Math.max(a, b));
        pairs.push([values[i]!, logits[ids[i]!]! - most - Math.log(logits.reduce((sum, l) => sum + Math.exp(l - most), 0))]);
      }
      return relativeError(pairs);
    },
    dispose: () => {
      for (const owned of [arena, weight, labels]) owned.dispose();
    },
  };
}
