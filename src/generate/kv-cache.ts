/** Keys and values of the tokens so far, in blocks of 64 tokens: a sequence grows without moving, and blocks need not be neighbours. */

import type { PagedCache } from "../ops/attention.js";
import { copyInto } from "../ops/copy.js";
import type { Device } from "../tensor/device.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";

/** Tokens of a block; fixed by the attention kernel. */
export const KV_BLOCK = 64;

export interface KvShape {
  readonly device: Device;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** The cache as one forward pass over some of the sequences sees it. */
export interface KvView {
  /** The pools of a layer and the tables that all layers share. */
  layer(index: number): PagedCache;
  /** Tokens each of these sequences had before. */
  starts: readonly number[];
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
   * The view holds the sequences that get some, in order; its tables belong to the open scope.
   */
  extend(counts: readonly number[]): KvView {
    const active = counts.flatMap((count, i) => (count > 0 ? [i] : []));
    const starts = active.map((i) => this.lengths[i]!);
    for (const i of active) {
      this.lengths[i]! += counts[i]!;
      while (this.blocks[i]!.length * KV_BLOCK < this.lengths[i]!) this.blocks[i]!.push(this.used++);
    }
    if (this.used > this.capacity) this.grow();
    const width = Math.max(...active.map((i) => this.blocks[i]!.length));
    const table = new Int32Array(active.length * width);
    for (const [row, sequence] of active.entries()) table.set(this.blocks[sequence]!, row * width);
    const { device } = this.shape;
    const kvLen = Tensor.from(
      Int32Array.from(active, (i) => this.lengths[i]!),
      [active.length],
      { device },
    );
    const blockTable = Tensor.from(table, [active.length, width], { device });
    return { starts, layer: (index) => ({ k: this.pools[index]!.k, v: this.pools[index]!.v, kvLen, blockTable }) };
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

  /** Half as many blocks again, so that the copies stay a small share of all work. */
  private grow(): void {
    const capacity = Math.max(this.used, Math.ceil(this.capacity * 1.5));
    const { layers, kvHeads, headDim, device } = this.shape;
    const pool = () => Tensor.empty([capacity, KV_BLOCK, kvHeads, headDim], { device });
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
