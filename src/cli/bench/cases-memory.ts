import { glu } from "../../ops/glu.js";
import { fillRandom } from "../../ops/random.js";
import { rmsNorm } from "../../ops/rms-norm.js";
import { rope, ropeTable } from "../../ops/rope.js";
import { AdamW } from "../../optim/adamw.js";
import { ParameterArena } from "../../optim/arena.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";
import { dot, type OpCase, places, relativeError, row } from "./op-case.js";
import { randomTensor, type Traffic } from "./peaks.js";

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
    // Seven eighths of its bytes are written.
    ...elementwise("dequantize_nf4", ["dequantize4bit"], n, k, 4.5625 * n * k, "write"),
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

/** What quantising a float32 matrix reads and writes. */
export function quantizeCase(device: Device, n: number, k: number): OpCase {
  const x = randomTensor(device, [n, k], "w");
  const quantize = () => Weight.quantize4bit(x, { doubleQuant: false });
  return {
    ...elementwise("quantize_nf4", ["quantize4bit"], n, k, 4.5625 * n * k),
    run: () => quantize().dispose(),
    error: async () => {
      const weight = quantize();
      const parts = weight.fourBitParts!;
      const [codes, absmax, code] = await Promise.all([parts.codes.read(), parts.absmax.readFloat32(), parts.code.readFloat32()]);
      const pairs: [number, number][] = [];
      for (const i of places(n)) {
        const values = await row(x, i);
        for (const j of places(k)) {
          const at = Math.floor(j / parts.blocksize) * parts.blocksize;
          const block = values.subarray(at, at + parts.blocksize);
          const scale = Math.max(...block.map(Math.abs));
          const near = code.reduce((best, c) =>
            Math.abs(c * scale - values[j]!) < Math.abs(best * scale - values[j]!) ? c : best,
          );
          const e = i * k + j;
          const byte = (codes as Uint8Array)[e >> 1]!;
          pairs.push([code[e % 2 === 0 ? byte >> 4 : byte & 15]! * absmax[Math.floor(e / parts.blocksize)]!, near * scale]);
        }
      }
      weight.dispose();
      return relativeError(pairs);
    },
    dispose: () => x.dispose(),
  };
}

/** Rotary embedding of one sequence, all dimensions of each head rotated. */
export function ropeCase(device: Device, [s, heads, d]: readonly [number, number, number]): OpCase {
  const x = randomTensor(device, [s, heads, d], "x");
  const half = d / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) => 10_000 ** (-i / half));
  const invFreq = Tensor.from(frequencies, [half], { device });
  const positions = Tensor.from(
    Int32Array.from({ length: s }, (_, i) => i),
    [s],
    { dtype: "int32", device },
  );
  const table = scope(() => ropeTable(positions, invFreq));
  const size = heads * d;
  return {
    ...elementwise("rope", ["rope"], s, size, 8 * s * size + 4 * s * d),
    run: () => scope(() => void rope(x, table)),
    error: async () => {
      const y = scope(() => rope(x, table));
      const pairs: [number, number][] = [];
      for (const i of places(s)) {
        const [actual, xi] = [await row(y, i), await row(x, i)];
        for (const at of places(heads).map((h) => h * d))
          for (const j of places(half)) {
            const angle = i * frequencies[j]!;
            const [a, b] = [xi[at + j]!, xi[at + j + half]!];
            pairs.push([actual[at + j]!, a * Math.cos(angle) - b * Math.sin(angle)]);
            pairs.push([actual[at + j + half]!, b * Math.cos(angle) + a * Math.sin(angle)]);
          }
      }
      y.dispose();
      return relativeError(pairs);
    },
    dispose: () => [x, invFreq, positions, table].forEach((owned) => void owned.dispose()),
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
    ...elementwise("adamw", ["adamw"], 1, size, 28 * size, "update"),
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

const elementwise = (op: string, kernels: readonly string[], m: number, n: number, bytes: number, traffic: Traffic = "copy") => ({
  op,
  kernels,
  dtype: "float32",
  m,
  n,
  k: 0,
  work: { bytes, traffic },
});
