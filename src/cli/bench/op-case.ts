import { scope } from "../../tensor/scope.js";
import type { Tensor } from "../../tensor/tensor.js";
import type { Traffic } from "./peaks.js";

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
  work: { flops: number } | { bytes: number; traffic: Traffic };
  run(): void;
  /** Largest difference from float64 over the root mean square of the expected values, at sampled places. */
  error(): Promise<number>;
  dispose(): void;
}

/** Sampled places a check computes in float64. */
const SAMPLES = 8;
export const places = (size: number) => Array.from({ length: SAMPLES }, (_, i) => Math.floor(((i + 0.5) * size) / SAMPLES));

export function relativeError(pairs: readonly (readonly [actual: number, expected: number])[]): number {
  const rms = Math.sqrt(pairs.reduce((sum, [, e]) => sum + e * e, 0) / pairs.length) || 1;
  return Math.max(...pairs.map(([a, e]) => Math.abs(a - e))) / rms;
}

export async function row(t: Tensor, i: number): Promise<Float32Array> {
  const slice = scope(() => t.slice(i, i + 1));
  const values = slice.readFloat32();
  slice.dispose();
  return values;
}

export const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i]!, 0);
