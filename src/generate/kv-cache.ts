/** Keys and values of the tokens so far, in blocks of 64 tokens: a sequence grows without moving, and blocks need not be neighbours. */

import { copyInto } from "../ops/copy.js";
import type { Device } from "../tensor/device.js";
import type { DType } from "../tensor/dtype.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";

/** Tokens of a block; fixed by the attention kernel. */
export const KV_BLOCK = 64;

export interface KvShape {
  readonly device: Device;
  /** Of the keys and values that are kept. */
  readonly dtype: DType;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Where the tokens of some of the sequences lie. */
export interface KvView {
  /** Tokens each of these sequences had before, and has with the new ones. */
  starts: readonly number[];
  lengths: readonly number[];
  /** Blocks of each, in rows of `width`. */
  blocks: readonly number[];
  width: number;
}

export class KvCache {
  private readonly pools: { k: Tensor; v: Tensor }[] = [];
  private readonly blocks: number[][];
  private readonly lengths: number[];
  private capacity = 0;
  private used = 0;
  private disposed = false;

  constructor(
    private readonly shape: KvShape,
    sequences: number,
  ) {
    this.blocks = Array.from({ length: sequences }, () => []);
    this.lengths = Array<number>(sequences).fill(0);
  }

  /**
   * Makes room for `counts[i]` more tokens of sequence i, and counts them as present: the pass that follows must append them.
   * The view holds the sequences that get some, in order.
   */
  extend(counts: readonly number[]): KvView {
    const active = counts.flatMap((count, i) => (count > 0 ? [i] : []));
    const starts = active.map((i) => this.lengths[i]!);
    for (const i of active) {
      for (let more = this.missing(i, counts[i]!); more > 0; more--) this.blocks[i]!.push(this.used++);
      this.lengths[i]! += counts[i]!;
    }
    if (this.used > this.capacity) this.grow();
    const width = Math.max(...active.map((i) => this.blocks[i]!.length));
    const padded = (blocks: readonly number[]) => [...blocks, ...Array<number>(width - blocks.length).fill(0)];
    return {
      starts,
      lengths: active.map((i) => this.lengths[i]!),
      blocks: active.flatMap((i) => padded(this.blocks[i]!)),
      width,
    };
  }

  /** Whether {@link KvCache.extend} by these counts leaves the pools where they are. */
  holds(counts: readonly number[]): boolean {
    return this.used + counts.reduce((sum, count, i) => sum + this.missing(i, count), 0) <= this.capacity;
  }

  /** Keys and values of a layer: [blocks, KV_BLOCK, Hkv, D] of the shape's dtype. */
  pool(layer: number): { k: Tensor; v: Tensor } {
    return this.pools[layer]!;
  }

  /** Forgets the keys of a sequence; its blocks stay with it. */
  clear(sequence: number): void {
    this.lengths[sequence] = 0;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    for (const { k, v } of this.pools) {
      k.dispose();
      v.dispose();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Blocks that a sequence lacks for `count` more tokens. */
  private missing(sequence: number, count: number): number {
    return Math.max(0, Math.ceil((this.lengths[sequence]! + count) / KV_BLOCK) - this.blocks[sequence]!.length);
  }

  /** Half as many blocks again, so that the copies stay a small share of all work. */
  private grow(): void {
    const capacity = Math.max(this.used, Math.ceil(this.capacity * 1.5));
    const { layers, kvHeads, headDim, device, dtype } = this.shape;
    const pool = () => Tensor.empty([capacity, KV_BLOCK, kvHeads, headDim], { device, dtype });
    for (let i = 0; i < layers; i++) {
      // In a scope both are freed when the second one finds no memory.
      const next = scope(() => ({ k: pool(), v: pool() }));
      const old = this.pools[i];
      this.pools[i] = { k: next.k.keep(), v: next.v.keep() };
      if (!old) continue;
      for (const part of ["k", "v"] as const) {
        using head = next[part].slice(0, this.capacity);
        copyInto(head, old[part]);
        old[part].dispose();
      }
    }
    this.capacity = capacity;
  }
}
