import { valueAndGrad } from "../../autograd/tape.js";
import { weightedSum } from "../../ops/elementwise.js";
import { glu } from "../../ops/glu.js";
import { linearGroup } from "../../ops/linear.js";
import { fillRandom } from "../../ops/random.js";
import { rmsNorm } from "../../ops/rms-norm.js";
import { AdamW } from "../../optim/adamw.js";
import { ParameterArena } from "../../optim/arena.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import type { Tensor } from "../../tensor/tensor.js";
import { randomTensor } from "./peaks.js";

/** One thing to time: `run` enqueues it once. */
export interface OpCase {
  op: string;
  /** Names of {@link Kernels} whose time counts. */
  kernels: readonly string[];
  dtype: string;
  m: number;
  n: number;
  k: number;
  /** Work of one run: operations where arithmetic bounds it, bytes where memory does. */
  work: { flops: number } | { bytes: number };
  run(): void;
  /** Largest difference from float64 over the root mean square of the expected values, at sampled places. */
  error(): Promise<number>;
  dispose(): void;
}

/** Sampled places a check computes in float64. */
const SAMPLES = 8;
const places = (size: number) => Array.from({ length: SAMPLES }, (_, i) => Math.floor(((i + 0.5) * size) / SAMPLES));

function relativeError(pairs: readonly (readonly [actual: number, expected: number])[]): number {
  const rms = Math.sqrt(pairs.reduce((sum, [, e]) => sum + e * e, 0) / pairs.length) || 1;
  return Math.max(...pairs.map(([a, e]) => Math.abs(a - e))) / rms;
}

async function row(t: Tensor, i: number): Promise<Float32Array> {
  const slice = scope(() => t.slice(i, i + 1));
  const values = slice.readFloat32();
  slice.dispose();
  return values;
}

const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i]!, 0);

/** A frozen linear y = x Wᵀ, forward, dense or 4-bit. */
export function linearCase(
  device: Device,
  kind: "nf4" | "dense",
  [m, n, k]: readonly [number, number, number],
  bf16: boolean,
): OpCase {
  const x = randomTensor(device, [m, k], "x");
  const dense = randomTensor(device, [n, k], "w");
  const weight = kind === "dense" ? Weight.dense(dense) : scope(() => Weight.quantize4bit(dense, { round: bf16 }));
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
    work: m < 8 ? { bytes } : { flops: 2 * m * n * k },
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
export function linearDxCase(device: Device, [m, n, k]: readonly [number, number, number], bf16: boolean): OpCase {
  const x = randomTensor(device, [m, k], "x");
  const dy = randomTensor(device, [m, n], "dy");
  const arena = new ParameterArena([{ name: "x", shape: [m, k] }], device);
  arena.setTrainable(true);
  const weight = scope(() => Weight.quantize4bit(randomTensor(device, [n, k], "w"), { round: bf16 }));
  const run = () =>
    scope(
      () =>
        void valueAndGrad(() =>
          weightedSum(linearGroup(arena.get("x"), [{ weight, bias: undefined, segments: [] }], { bf16 })[0]!, 1, dy),
        ),
    );
  return {
    op: "linear_nf4_dx",
    kernels: ["linearDx"],
    dtype: bf16 ? "bfloat16" : "float32",
    m,
    n,
    k,
    work: { flops: 2 * m * n * k },
    run,
    error: async () => {
      arena.zeroGrad();
      run();
      const w = scope(() => weight.dequantize("float32"));
      try {
        const [values, dx] = [await w.readFloat32(), await arena.gradients!.readFloat32()];
        const pairs: [number, number][] = [];
        for (const i of places(m)) {
          const dyi = await row(dy, i);
          for (const j of places(k)) pairs.push([dx[i * k + j]!, dyi.reduce((sum, v, o) => sum + v * values[o * k + j]!, 0)]);
        }
        return relativeError(pairs);
      } finally {
        w.dispose();
      }
    },
    dispose: () => {
      for (const owned of [x, dy, arena, weight]) owned.dispose();
    },
  };
}

export function rmsNormCase(device: Device, m: number, n: number): OpCase {
  const [x, w] = [randomTensor(device, [m, n], "x"), randomTensor(device, [n], "w")];
  const eps = 1e-5;
  return {
    ...elementwise("rms_norm", ["rmsNorm"], m, n, 8 * m * n),
    run: () => scope(() => void rmsNorm(x, w, { eps })),
    error: async () => {
      const y = scope(() => rmsNorm(x, w, { eps }));
      const weight = await w.readFloat32();
      const pairs: [number, number][] = [];
      for (const i of places(m)) {
        const [actual, xi] = [await row(y, i), await row(x, i)];
        const scale = 1 / Math.sqrt(dot(xi, xi) / n + eps);
        for (const j of places(n)) pairs.push([actual[j]!, xi[j]! * scale * weight[j]!]);
      }
      y.dispose();
      return relativeError(pairs);
    },
    dispose: () => {
      x.dispose();
      w.dispose();
    },
  };
}

export function gluCase(device: Device, m: number, n: number): OpCase {
  const [gate, up] = [randomTensor(device, [m, n], "gate"), randomTensor(device, [m, n], "up")];
  return {
    ...elementwise("glu", ["glu"], m, n, 12 * m * n),
    run: () => scope(() => void glu(gate, up, "silu")),
    error: async () => {
      const y = scope(() => glu(gate, up, "silu"));
      const pairs: [number, number][] = [];
      for (const i of places(m)) {
        const [actual, g, u] = [await row(y, i), await row(gate, i), await row(up, i)];
        for (const j of places(n)) pairs.push([actual[j]!, (g[j]! / (1 + Math.exp(-g[j]!))) * u[j]!]);
      }
      y.dispose();
      return relativeError(pairs);
    },
    dispose: () => {
      gate.dispose();
      up.dispose();
    },
  };
}

export function dequantizeCase(device: Device, n: number, k: number): OpCase {
  const weight = scope(() => Weight.quantize4bit(randomTensor(device, [n, k], "w"), { doubleQuant: false }));
  return {
    ...elementwise("dequantize_nf4", ["dequantize4bit"], n, k, 4.5625 * n * k),
    run: () => scope(() => void weight.dequantize("float32")),
    error: async () => {
      const y = scope(() => weight.dequantize("float32"));
      const parts = weight.fourBitParts!;
      const codes = new Uint8Array((await parts.codes.read()).buffer as ArrayBuffer);
      const [absmax, code] = [await parts.absmax.readFloat32(), await parts.code.readFloat32()];
      const actual = await y.readFloat32();
      y.dispose();
      return relativeError(
        places(n * k).map((e) => {
          const byte = codes[e >> 1]!;
          return [actual[e]!, code[e % 2 === 0 ? byte >> 4 : byte & 15]! * absmax[Math.floor(e / parts.blocksize)]!] as const;
        }),
      );
    },
    dispose: () => weight.dispose(),
  };
}

/** One step of AdamW over an arena of `size` parameters: reads four arrays and writes three. */
export function adamwCase(device: Device, size: number): OpCase {
  const arena = new ParameterArena([{ name: "p", shape: [size] }], device);
  arena.setTrainable(true);
  fillRandom(arena.values, { normal: { mean: 0, std: 1 } }, randomKey(1, "p"));
  fillRandom(arena.gradients!, { normal: { mean: 0, std: 1 } }, randomKey(1, "g"));
  const optimizer = new AdamW(arena);
  const [lr, eps] = [1e-3, 1e-8];
  const step = () => scope(() => optimizer.step(lr));
  return {
    ...elementwise("adamw", ["adamw"], 1, size, 28 * size),
    run: step,
    error: async () => {
      const [before, gradients] = [await arena.values.readFloat32(), await arena.gradients!.readFloat32()];
      step();
      const after = await arena.values.readFloat32();
      // After the first step both moments, corrected for their start at zero, are the gradient and its square.
      const change = (g: number) => (lr * g) / (Math.abs(g) + eps);
      return relativeError(places(size).map((i) => [after[i]!, before[i]! - change(gradients[i]!)] as const));
    },
    dispose: () => {
      optimizer.dispose();
      arena.dispose();
    },
  };
}

const elementwise = (op: string, kernels: readonly string[], m: number, n: number, bytes: number) => ({
  op,
  kernels,
  dtype: "float32",
  m,
  n,
  k: 0,
  work: { bytes },
});
