/** Kind `op` (golden/train): one op, forward and gradients, against float64. */

import { join } from "node:path";
import { valueAndGrad } from "../../../src/autograd/tape.js";
import { AdapterPart, LoraPair } from "../../../src/nn/adapter-part.js";
import { Linear, linear } from "../../../src/nn/linear.js";
import { attention } from "../../../src/ops/attention.js";
import { weightedSum } from "../../../src/ops/elementwise.js";
import { embedding } from "../../../src/ops/embedding.js";
import { type Activation, glu } from "../../../src/ops/glu.js";
import { type LoraSegment, linearGroup } from "../../../src/ops/linear.js";
import { rmsNorm } from "../../../src/ops/rms-norm.js";
import { rope, ropeTable } from "../../../src/ops/rope.js";
import { type TokenLogProbOptions, tokenLogProb } from "../../../src/ops/token-logprob.js";
import { Weight } from "../../../src/quant/weight.js";
import { type Device, getDevice } from "../../../src/tensor/device.js";
import { Tensor } from "../../../src/tensor/tensor.js";
import { type GoldenTensor, readTensors } from "../tensors.js";
import { type GoldenHandler, skipped } from "../types.js";

const op: GoldenHandler = async ({ dir, spec, options }) => {
  const forward = OPS[spec.op];
  if (!forward) return skipped(`op '${spec.op}' is not supported yet`);
  const expected = readTensors(join(dir, spec.expectedTensors));
  const bench = new Bench(readTensors(join(dir, spec.inputs)), expected, getDevice(options.device));
  try {
    const y = forward(bench, spec.attrs);
    let output: Tensor | undefined;
    valueAndGrad(() => {
      output = y().retain();
      return weightedSum(output, 1, bench.outputGradient(output.shape));
    }).dispose();
    let worst = await bench.error("y", output!);
    output!.release();
    for (const [name, tensor] of bench.parameters) worst = Math.max(worst, await bench.error(`grad.${name}`, tensor.grad!));
    const missing = [...expected.keys()].filter((key) => key.startsWith("grad.") && !bench.parameters.has(key.slice(5)));
    const ok = worst <= spec.tolerance.relative && missing.length === 0;
    return {
      ok,
      maxError: worst,
      ...(ok ? {} : { reason: missing.length > 0 ? `no ${missing}` : `off by ${worst} of the largest element` }),
    };
  } finally {
    bench.dispose();
  }
};

export const opHandlers: Record<string, GoldenHandler> = { op };

/** The tensors of one case on the device; an input that has an expected gradient is a parameter. */
class Bench {
  readonly parameters = new Map<string, Tensor>();
  /** Rows of the file's padded layout that the device sees, where it does not see all: of y, and of each input. */
  readonly rows = new Map<string, readonly number[]>();
  readonly #owned: { dispose(): void }[] = [];

  constructor(
    readonly inputs: Map<string, GoldenTensor>,
    readonly expected: Map<string, GoldenTensor>,
    readonly device: Device,
  ) {}

  get(name: string): GoldenTensor {
    const tensor = this.inputs.get(name);
    if (!tensor) throw new Error(`inputs hold no '${name}'`);
    return tensor;
  }

  /** Input `name` in another shape, without the rows that `rows` leaves out. */
  tensor(name: string, shape: readonly number[] = this.get(name).shape): Tensor {
    const values = this.#gather(name, this.get(name).data as Float32Array | Int32Array, shape);
    const tensor = this.own(Tensor.from(values, shape, { device: this.device }));
    if (this.expected.has(`grad.${name}`)) {
      tensor.requiresGrad = true;
      tensor.grad = this.own(Tensor.zeros(shape, { device: this.device }));
      this.parameters.set(name, tensor);
    }
    return tensor;
  }

  weight(tensor: Tensor): Weight {
    return this.own(Weight.dense(tensor));
  }

  own<T extends { dispose(): void }>(value: T): T {
    this.#owned.push(value);
    return value;
  }

  outputGradient(shape: readonly number[]): Tensor {
    const values = this.#gather("y", this.get("dy").data as Float32Array, shape);
    return Tensor.from(values as Float32Array, shape, { device: this.device });
  }

  /** Largest difference, in units of the largest expected element; what the device did not see counts as zeros. */
  async error(key: string, tensor: Tensor): Promise<number> {
    const actual = await tensor.readFloat32();
    const expected = this.expected.get(key)!.data;
    const rows = this.rows.get(key.replace("grad.", ""));
    const width = rows ? tensor.size / rows.length : 0;
    const full = rows ? new Float32Array(expected.length) : actual;
    for (const [i, row] of rows?.entries() ?? []) full.set(actual.subarray(i * width, (i + 1) * width), row * width);
    if (full.length !== expected.length) throw new Error(`${key} has ${full.length} elements, expected ${expected.length}`);
    let error = 0;
    let largest = 0;
    for (let i = 0; i < expected.length; i++) {
      const difference = Math.abs(full[i]! - expected[i]!);
      if (Number.isNaN(difference)) return Number.POSITIVE_INFINITY;
      error = Math.max(error, difference);
      largest = Math.max(largest, Math.abs(expected[i]!));
    }
    return error / (largest || 1);
  }

  dispose(): void {
    for (const value of this.#owned.reverse()) value.dispose();
  }

  #gather<T extends Float32Array | Int32Array>(name: string, values: T, shape: readonly number[]): T {
    const rows = this.rows.get(name);
    if (!rows) return values;
    const width = shape.slice(1).reduce((product, n) => product * n, 1);
    const out = values.slice(0, rows.length * width) as T;
    for (const [i, row] of rows.entries()) out.set(values.subarray(row * width, (row + 1) * width), i * width);
    return out;
  }
}

// biome-ignore lint/suspicious/noExplicitAny: every op has its own attributes
type Attrs = any;
type Forward = (b: Bench, attrs: Attrs) => () => Tensor;

const linearForward: Forward = (b, attrs) => {
  const x = b.tensor("x");
  const weight = b.weight(b.tensor("weight"));
  const bias = b.inputs.has("bias") ? b.tensor("bias") : undefined;
  const segments: LoraSegment[] = b.inputs.has("lora_A")
    ? [{ rowBegin: 0, rowEnd: x.shape[0]!, a: b.tensor("lora_A"), b: b.tensor("lora_B"), scale: attrs.scaling }]
    : [];
  return () => linearGroup(x, [{ weight, bias, segments }])[0]!;
};

const doraForward: Forward = (b, attrs) => {
  const x = b.tensor("x");
  const layer = new Linear(b.weight(b.tensor("weight")), b.inputs.has("bias") ? b.tensor("bias") : undefined);
  const pair = new LoraPair(b.tensor("lora_A"), b.tensor("lora_B"), attrs.scaling, 0, undefined, false, b.tensor("magnitude"));
  layer.adapters.parts.set("dora", new AdapterPart({ pair }));
  return () => linear(x, [layer], { adapters: { names: ["dora"] } })[0]!;
};

const attentionForward: Forward = (b, attrs) => {
  if (attrs.causal === false) throw new Error("only causal attention is computed");
  const [batch, queries] = b.get("q").shape as [number, number, number, number];
  const keys = b.get("k").shape[1]!;
  const mask = b.inputs.get("attention_mask")?.data;
  const seen = (row: number, position: number) => mask?.[row * keys + position] !== 0;
  const range = (n: number) => Array.from({ length: n }, (_, i) => i);
  const kept = (length: number) => range(batch).map((row) => range(length).filter((i) => seen(row, keys - length + i)));
  const cumulative = (lists: number[][]) => {
    let end = 0;
    return [0, ...lists.map((list) => (end += list.length))];
  };
  const keptQueries = kept(queries);
  const keptKeys = kept(keys);
  const flat = (lists: number[][], length: number) => lists.flatMap((list, row) => list.map((i) => row * length + i));
  for (const name of ["q", "y"]) b.rows.set(name, flat(keptQueries, queries));
  for (const name of ["k", "v"]) b.rows.set(name, flat(keptKeys, keys));
  const packed = (name: string) => b.tensor(name, [b.rows.get(name)!.length, ...b.get(name).shape.slice(2)]);
  const [q, k, v] = [packed("q"), packed("k"), packed("v")];
  const given = b.inputs.get("cu_seqlens")?.data;
  const cu = given ? Array.from(given) : cumulative(keptQueries);
  const ints = (values: number[]) => b.own(Tensor.from(values, [values.length], { dtype: "int32", device: b.device }));
  return () =>
    attention(q, k, v, {
      cuSeqlens: ints(cu),
      ...(queries === keys ? {} : { cuSeqlensK: ints(cumulative(keptKeys)) }),
      maxSeqlen: Math.max(0, ...cu.slice(1).map((end, i) => end - cu[i]!)),
      scale: attrs.scale,
      ...(attrs.window ? { window: attrs.window } : {}),
      ...(attrs.softcap ? { softcap: attrs.softcap } : {}),
    });
};

/** Log-probabilities from `hidden` and `weight`, or from `logits`: those are the hidden states of an identity head. */
function logProb(b: Bench, attrs: Attrs): { run(extra?: TokenLogProbOptions): ReturnType<typeof tokenLogProb>; targets: number } {
  const options: TokenLogProbOptions = {
    softcap: attrs.softcap ?? 0,
    logitScale: attrs.logitScale ?? 1,
    smoothing: attrs.labelSmoothing ?? 0,
    zLoss: attrs.zLoss ?? 0,
  };
  const hidden = b.tensor(b.inputs.has("hidden") ? "hidden" : "logits");
  const weight = b.weight(b.inputs.has("hidden") ? b.tensor("weight") : identity(b, hidden.shape[1]!));
  const rows = hidden.shape[0]!;
  const labels = b.inputs.has("labels")
    ? b.tensor("labels")
    : b.own(Tensor.from(new Int32Array(rows), [rows], { device: b.device }));
  const targets = Array.from(b.inputs.get("labels")?.data ?? []).filter((label) => label !== -100).length;
  return { run: (extra = {}) => tokenLogProb(hidden, weight, labels, { ...options, ...extra }), targets };
}

function identity(b: Bench, n: number): Tensor {
  const values = new Float32Array(n * n);
  for (let i = 0; i < n; i++) values[i * n + i] = 1;
  return b.own(Tensor.from(values, [n, n], { device: b.device }));
}

const crossEntropy: Forward = (b, attrs) => {
  const { run, targets } = logProb(b, attrs);
  return () => weightedSum(run().value, -1 / (attrs.denominator ?? Math.max(1, targets)));
};

const gather: Forward = (b, attrs) => {
  const { run } = logProb(b, attrs);
  return () => run().value;
};

function gluForward(activation: Activation): Forward {
  return (b) => {
    const gate = b.tensor("gate");
    const up = b.tensor("up");
    return () => glu(gate, up, activation);
  };
}

const OPS: Readonly<Record<string, Forward>> = {
  linear: linearForward,
  lora_linear: linearForward,
  dora_linear: doraForward,
  attention: attentionForward,
  cross_entropy: crossEntropy,
  head_cross_entropy: crossEntropy,
  log_softmax_gather: gather,
  head_log_softmax_gather: gather,
  entropy: (b, attrs) => {
    const { run } = logProb(b, attrs);
    return () => run({ entropy: true }).entropy!;
  },
  embedding: (b, attrs) => {
    const ids = b.tensor("ids", [b.get("ids").data.length]);
    const table = b.tensor("weight");
    return () => embedding(table, ids, attrs.scale ?? 1);
  },
  rms_norm: (b, attrs) => {
    const x = b.tensor("x");
    const weight = b.tensor("weight");
    return () => rmsNorm(x, weight, { eps: attrs.eps, unitOffset: attrs.weightPlusOne === true });
  },
  rope: (b, attrs) => {
    const [batch, length, heads, dim] = b.get("x").shape as [number, number, number, number];
    const x = b.tensor("x", [batch * length, heads, dim]);
    const positions = b.tensor("positions", [batch * length]);
    const invFreq = b.tensor("inv_freq");
    return () => rope(x, ropeTable(positions, invFreq, { scaling: attrs.attentionScaling ?? 1 }));
  },
  swiglu: gluForward("silu"),
  geglu: gluForward("gelu_tanh"),
};
