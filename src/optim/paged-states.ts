import { native } from "../tensor/native-errors.js";
import { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";
import {
  type ArenaPart,
  BLOCK,
  byName,
  kept,
  type OptimizerStates,
  type SegmentLayout,
  type StateSpec,
  segmentsOf,
  zeros,
} from "./states.js";

/** Pages the arena is cut into, each with a transfer slot of its own. */
const PAGES = 8;
/** Pages the device holds at least during a step: one is updated, one comes or goes. */
const RING = 2;

/** One part of the arena whose state travels together. */
interface Page<Name extends string> {
  slot: number;
  /** The page's views of the arena's values and of the state in the host's memory. */
  values: Tensor;
  host: Readonly<Record<Name, Tensor>>;
  segments: Tensor;
  begin: number;
  bytes: number;
}

/**
 * State of 32-bit moments that lives in the host's memory and visits the device for a step. Copies run beside the passes: pages come while the backward pass
 * frees activations, into memory that these held, and go back while the next forward pass begins. Where the device has no room for all of
 * them, the pages of a step follow each other through the memory of two.
 */
export class PagedStates<Name extends string> implements OptimizerStates<Name> {
  readonly tensors: Readonly<Record<Name, Tensor>>;
  readonly #arena: ParameterArena;
  readonly #specs: readonly StateSpec<Name>[];
  readonly #pages: readonly Page<Name>[];
  /** Device memory of pages that come, in order, and of pages that were updated and go back. */
  readonly #coming = new Map<Page<Name>, Record<Name, Tensor>>();
  readonly #going = new Map<Page<Name>, Record<Name, Tensor>>();
  /** Bytes in use when the backward pass began. */
  #height: number | undefined;
  /** Ops recorded in this pass so far, and in the last whole one. */
  #ops = 0;
  #opsOfPass = 0;

  constructor(arena: ParameterArena, specs: readonly StateSpec<Name>[], layout: SegmentLayout) {
    this.#arena = arena;
    this.#specs = specs;
    const { device, values } = arena;
    const length = Math.ceil(values.size / BLOCK / PAGES) * BLOCK;
    const begins = Array.from({ length: Math.ceil(values.size / length) }, (_, i) => i * length);
    const slots = begins.map(() => device.takeSlot());
    try {
      [this.tensors, this.#pages] = kept(() => {
        const tensors = zeros(arena, specs, layout, true);
        const pages = begins.map((begin, i) => {
          const end = Math.min(begin + length, values.size);
          const host = byName(specs, ({ name, perBlock }) =>
            tensors[name].slice((begin / BLOCK) * perBlock, (end / BLOCK) * perBlock),
          );
          const bytes = Object.values<Tensor>(host).reduce((sum, { byteLength }) => sum + byteLength, 0);
          return {
            slot: slots[i]!,
            values: values.slice(begin, end),
            host,
            segments: segmentsOf(arena, layout, begin, end),
            begin,
            bytes,
          };
        });
        return [tensors, pages];
      });
    } catch (error) {
      for (const slot of slots) device.giveSlot(slot);
      throw error;
    }
  }

  /** An op of a forward pass was recorded: in its first half pages that were updated give their memory back one by one. */
  forward(): void {
    this.#ops++;
    while (this.#going.size > 0 && 2 * PAGES * this.#ops >= (PAGES - this.#going.size + 1) * this.#opsOfPass) this.#release();
  }

  /** An op of the last backward pass was undone: the next page comes, if there is room for it where activations were. */
  backward(): void {
    while (this.#going.size > 0) this.#release();
    const { live } = this.#arena.device.memory;
    this.#height ??= live;
    const page = this.#pages[this.#coming.size];
    if (page && live + page.bytes <= this.#height) this.#fetch(page, this.#allocate(page));
  }

  prepare(): void {
    while (this.#going.size > 0) this.#release();
    for (const page of this.#pages.slice(this.#coming.size, RING)) this.#fetch(page, this.#allocate(page));
  }

  *parts(gradients: Tensor): Iterable<ArenaPart<Name>> {
    for (const [i, page] of this.#pages.entries()) {
      // Transfers happen in the order they are enqueued in: what was there is in the host's memory before the next page comes.
      const next = this.#pages[i + 1];
      if (next && !this.#coming.has(next)) this.#fetch(next, this.#reuse(this.#pages[i - 1]!, next));
      const state = this.#coming.get(page)!;
      this.#transfer("wait", page);
      const { values, segments, begin } = page;
      yield { values, gradients: gradients.slice(begin, begin + values.size), state, segments };
      this.#transfer("writeBack", page, state);
      this.#coming.delete(page);
      this.#going.set(page, state);
    }
    this.#opsOfPass = this.#ops;
    this.#ops = 0;
    this.#height = undefined;
  }

  /** Forgets the pages that came for a step that was given up. */
  abandon(): void {
    for (const [page, state] of this.#coming) this.#end(page, state);
    this.#coming.clear();
    this.#ops = 0;
    this.#height = undefined;
  }

  dispose(): void {
    this.abandon();
    while (this.#going.size > 0) this.#release();
    for (const { slot, values, host, segments } of this.#pages) {
      this.#arena.device.giveSlot(slot);
      for (const tensor of [values, segments, ...Object.values<Tensor>(host)]) tensor.dispose();
    }
    for (const tensor of Object.values<Tensor>(this.tensors)) tensor.dispose();
  }

  #allocate({ host }: Page<Name>): Record<Name, Tensor> {
    const { device } = this.#arena;
    return kept(() => byName(this.#specs, ({ name, dtype }) => Tensor.empty(host[name].shape, { dtype, device })));
  }

  #fetch(page: Page<Name>, into: Record<Name, Tensor>): void {
    this.#coming.set(page, into);
    this.#transfer("prefetch", page, into);
  }

  /** The memory of a page that goes back, for another that may be shorter. */
  #reuse(page: Page<Name>, { host }: Page<Name>): Record<Name, Tensor> {
    const state = this.#going.get(page)!;
    this.#going.delete(page);
    const views = kept(() => byName(this.#specs, ({ name }) => state[name].slice(0, host[name].size)));
    for (const tensor of Object.values<Tensor>(state)) tensor.dispose();
    return views;
  }

  #release(): void {
    const [[page, state]] = this.#going as unknown as [[Page<Name>, Record<Name, Tensor>]];
    this.#going.delete(page);
    this.#end(page, state);
  }

  #end(page: Page<Name>, state: Record<Name, Tensor>): void {
    this.#transfer("wait", page);
    for (const tensor of Object.values<Tensor>(state)) tensor.dispose();
  }

  #transfer(what: "wait" | "prefetch" | "writeBack", { slot, host }: Page<Name>, state?: Record<Name, Tensor>): void {
    const { kernels, number } = this.#arena.device;
    native(() => {
      if (what === "wait") kernels.wait(number, slot);
      else if (what === "prefetch")
        for (const { name } of this.#specs) kernels.prefetch(number, slot, state![name].handle, host[name].handle);
      else for (const { name } of this.#specs) kernels.writeBack(number, slot, host[name].handle, state![name].handle);
    });
  }
}
