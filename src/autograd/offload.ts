import type { Device } from "../tensor/device.js";
import { native } from "../tensor/native-errors.js";
import { Tensor } from "../tensor/tensor.js";

/** Transfers under way at a time: of one block's tensors while the next block computes. */
const DEPTH = 2;

interface Entry {
  slot: number;
  /** The copies in the host's memory; the tape owns them. */
  host: readonly Tensor[];
  /** The tensors on the device: until their copies are made, and again from shortly before they are needed. */
  device: readonly Tensor[] | undefined;
  /** A transfer of the slot may be under way. */
  moving: boolean;
}

/**
 * What checkpointed blocks keep, in the host's memory. Blocks push their inputs in order and take them back in the opposite order; the
 * copies run beside the blocks' own work, and the device holds the tensors of two blocks. For one pass over one tape; the owner disposes of it.
 */
export class ActivationOffload implements Disposable {
  readonly #device: Device;
  readonly #slots: readonly number[];
  readonly #entries: Entry[] = [];

  constructor(device: Device) {
    this.#device = device;
    this.#slots = Array.from({ length: DEPTH }, () => device.takeSlot());
  }

  /** Copies a block's inputs to the host, once they are computed; returns the copies, which the caller keeps alive until {@link pop}. */
  push(xs: readonly Tensor[]): readonly Tensor[] {
    const { kernels, number } = this.#device;
    const slot = this.#slots[this.#entries.length % DEPTH]!;
    const before = this.#entries.at(-DEPTH);
    if (before) this.#release(before);
    const host = xs.map(({ shape, dtype, device }) => Tensor.empty(shape, { dtype, device, host: true }));
    for (const x of xs) x.hold();
    this.#entries.push({ slot, host, device: xs, moving: true });
    native(() => {
      for (const [i, x] of xs.entries()) kernels.writeBack(number, slot, host[i]!.handle, x.handle);
    });
    return host;
  }

  /**
   * The tensors that {@link push} made `host` of, on the device again until {@link drop}; those of the block before are on their way then.
   * Blocks that pushed later are forgotten: no gradient reached them.
   */
  pop(host: readonly Tensor[]): readonly Tensor[] {
    while (this.#entries.at(-1)!.host !== host) this.drop();
    const entry = this.#entries.at(-1)!;
    this.#fetch(entry);
    this.#settle(entry);
    const below = this.#entries.at(-DEPTH);
    if (below) this.#fetch(below);
    return entry.device!;
  }

  /** The block that pushed last is done. */
  drop(): void {
    this.#release(this.#entries.pop()!);
  }

  [Symbol.dispose](): void {
    for (const entry of this.#entries) this.#release(entry);
    this.#entries.length = 0;
    for (const slot of this.#slots) this.#device.giveSlot(slot);
  }

  #fetch(entry: Entry): void {
    if (entry.device) return;
    const { kernels, number } = this.#device;
    const tensors: Tensor[] = [];
    entry.device = tensors;
    for (const { shape, dtype, device } of entry.host) tensors.push(Tensor.empty(shape, { dtype, device }).keep());
    entry.moving = true;
    native(() => {
      for (const [i, tensor] of tensors.entries()) kernels.prefetch(number, entry.slot, tensor.handle, entry.host[i]!.handle);
    });
  }

  #settle(entry: Entry): void {
    if (entry.moving) native(() => this.#device.kernels.wait(this.#device.number, entry.slot));
    entry.moving = false;
  }

  #release(entry: Entry): void {
    this.#settle(entry);
    for (const tensor of entry.device ?? []) tensor.release();
    entry.device = undefined;
  }
}
