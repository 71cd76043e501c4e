/** What a run of wrong calls plays with: seeded random numbers, and tensors and weights that live, are stale or belong to others. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Addon, RecordingHandle, TensorHandle, WeightHandle } from "../../../src/native/surface.js";
import { uniform } from "../../reference/numeric.js";

export const WIDTHS = [4, 2, 2, 4, 1] as const;
const MOST_TENSORS = 150;

interface Live {
  handle: TensorHandle;
  dtype: number;
  bytes: number;
}

export class World {
  readonly live: Live[] = [];
  readonly weights: WeightHandle[] = [];
  readonly recordings: RecordingHandle[] = [];
  /** Handles that were freed, or are of another device, another environment, or of nothing at all. */
  readonly wrong: number[] = [0, 1, 8388608, 2 ** 52 + 4194304 + 8388608];
  readonly folder = mkdtempSync(join(tmpdir(), "lowrank-misuse-"));
  readonly file = join(this.folder, "bytes");
  private readonly next: () => number;

  constructor(
    readonly addon: Addon,
    readonly d: number,
    seed: number,
  ) {
    this.next = uniform(seed);
    writeFileSync(
      this.file,
      Uint8Array.from({ length: 5000 }, (_, i) => i * 37),
    );
  }

  // Random numbers.
  chance(p: number): boolean {
    return this.next() < p;
  }
  below(n: number): number {
    return Math.floor(this.next() * n);
  }
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
  size(): number {
    return this.of([1, 1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 64, 65]);
  }
  real(): number {
    return this.chance(0.03) ? this.of([Number.NaN, Infinity, -Infinity, 3e38, -0, 1e-45]) : (this.next() - 0.5) * 4;
  }

  // Tensors. Contents are uploaded, so that what a kernel reads is the run's.
  tensor(dtype: number, shape: readonly number[], data?: ArrayBufferView): TensorHandle {
    const bytes = shape.reduce((a, b) => a * b, 1) * WIDTHS[dtype]!;
    const handle = this.place(dtype, shape, bytes);
    this.keep({ handle, dtype, bytes });
    this.addon.upload(handle, data ?? this.bytes(bytes, dtype));
    return handle;
  }
  f32(...shape: number[]): TensorHandle {
    return this.tensor(0, shape);
  }
  /** Any floating dtype. */
  floats(...shape: number[]): TensorHandle {
    return this.tensor(this.of([0, 0, 1, 2]), shape);
  }
  i32(values: readonly number[]): TensorHandle {
    return this.tensor(3, [values.length], Int32Array.from(values));
  }
  u8(...shape: number[]): TensorHandle {
    return this.tensor(4, shape);
  }
  /** Sometimes absent. */
  maybe(make: () => TensorHandle): TensorHandle {
    return this.chance(0.3) ? 0 : make();
  }
  /** Indices below `n`, one of them now and then not. */
  indices(count: number, n: number): TensorHandle {
    const values = Array.from({ length: count }, () => this.below(n));
    if (count > 0 && this.chance(0.3)) values[this.below(count)] = this.of([-1, n, n + 1, 2 ** 31 - 1, -(2 ** 31), -100]);
    return this.i32(values);
  }
  /** Ascending from 0 to `total` in `count` steps, now and then not. */
  cumulative(count: number, total: number): number[] {
    const inner = Array.from({ length: Math.max(0, count - 1) }, () => this.below(total + 1)).sort((a, b) => a - b);
    const values = [0, ...inner, total];
    if (this.chance(0.2)) values[this.below(values.length)] = this.of([-1, total + 1, total * 2, 2 ** 31 - 1, -(2 ** 31)]);
    return values;
  }

  weight(n: number, k: number): WeightHandle {
    const { addon } = this;
    const dense = this.chance(0.5);
    const blocksize = this.of([1, 2, 3, 32, 64, 100, 4096]);
    const nestedBlocksize = this.of([1, 2, 256]);
    const blocks = Math.ceil((n * k) / blocksize);
    const nested = this.chance(0.5);
    const handle = dense
      ? addon.weightDense(this.floats(n, k))
      : addon.weight4bit(
          this.u8(Math.ceil((n * k) / 2)),
          nested ? this.u8(blocks) : this.f32(blocks),
          nested ? this.f32(Math.ceil(blocks / nestedBlocksize)) : 0,
          nested ? this.f32(256) : 0,
          nested ? this.f32(1) : 0,
          this.f32(16),
          n,
          k,
          blocksize,
          nestedBlocksize,
          this.below(2),
        );
    this.weights.push(handle);
    if (this.weights.length > 30) {
      const old = this.weights.shift()!;
      this.wrong.push(old);
      ignore(() => addon.freeWeight(old));
    }
    return handle;
  }

  recording(): RecordingHandle {
    if (this.chance(0.1)) return this.of(this.wrong);
    const { addon, d } = this;
    if (this.recordings.length === 0) this.keepRecording(addon.record(d, () => addon.kernels.fill(d, this.f32(2), 1)));
    return this.of(this.recordings);
  }
  keepRecording(handle: RecordingHandle): void {
    this.recordings.push(handle);
    if (this.recordings.length > 10) this.dropRecording();
  }
  private dropRecording(): void {
    const old = this.recordings.shift()!;
    this.wrong.push(old);
    ignore(() => this.addon.freeRecording(old));
  }

  /** Another tensor than the one a call wants: any live one, one that lies over a live one, one that is stale or foreign. */
  otherTensor(): number {
    const kind = this.below(6);
    const { addon } = this;
    if (kind < 2 && this.live.length > 0) return this.of(this.live).handle;
    if (kind === 2 && this.live.length > 0) {
      const base = this.of(this.live);
      const dtype = this.below(5);
      const offset = Math.floor(this.below(base.bytes + 1) / 4) * 4;
      const count = Math.floor((base.bytes - offset) / WIDTHS[dtype]!);
      const made = ignore(() => addon.view(base.handle, offset, dtype, [count]));
      if (made !== undefined) this.keep({ handle: made, dtype, bytes: count * WIDTHS[dtype]! });
      return made ?? 0;
    }
    if (kind === 3 && this.weights.length > 0) return this.of(this.weights);
    if (kind === 4) return this.below(2 ** 31) * 2 ** this.below(22);
    return this.of(this.wrong);
  }

  /** Frees one tensor, whatever still uses it. */
  drop(): void {
    if (this.live.length === 0) return;
    const [gone] = this.live.splice(this.below(this.live.length), 1);
    this.wrong.push(gone!.handle);
    if (this.wrong.length > 300) this.wrong.splice(4, 100);
    ignore(() => this.addon.free(gone!.handle));
  }

  dispose(): void {
    while (this.live.length > 0) this.drop();
    while (this.recordings.length > 0) this.dropRecording();
    for (const weight of this.weights.splice(0)) ignore(() => this.addon.freeWeight(weight));
    rmSync(this.folder, { recursive: true });
  }

  bytes(count: number, dtype: number): Uint8Array {
    const bytes = new Uint8Array(count);
    if (dtype === 0) {
      const values = new Float32Array(bytes.buffer);
      for (let i = 0; i < values.length; i++) values[i] = this.real();
    } else for (let i = 0; i < count; i++) bytes[i] = this.below(256);
    return bytes;
  }

  keep(tensor: Live): void {
    this.live.push(tensor);
    while (this.live.length > MOST_TENSORS) this.drop();
  }

  /** Of its own storage, or at the end of one that is larger. */
  private place(dtype: number, shape: readonly number[], bytes: number): TensorHandle {
    const { addon, d } = this;
    if (this.chance(0.7)) return addon.alloc(d, dtype, shape);
    const storage = addon.alloc(d, 4, [bytes + 8]);
    try {
      return addon.view(storage, 8, dtype, shape);
    } finally {
      addon.free(storage);
    }
  }
}

/** The result, or undefined when the call is refused, as it may be after what was done to its arguments. */
export function ignore<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch {
    return undefined;
  }
}
