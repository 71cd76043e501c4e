import { DTYPE_BYTES } from "../tensor/dtype.js";
import { native } from "../tensor/native-errors.js";
import { scope } from "../tensor/scope.js";
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
}

/** Device memory for any page. */
type Buffers<Name extends string> = Record<Name, Tensor>;

/**
 * State that lives in the host's memory and visits the device for a step. Copies run beside the passes: pages come while the backward pass
 * frees activations, into memory that these held, and go back while the next forward pass begins. Where the device has no room for all of
 * them, the pages of a step follow each other through the memory of two.
 */
export class PagedStates<Name extends string> implements OptimizerStates<Name> {
  readonly tensors: Readonly<Record<Name, Tensor>>;
  readonly #arena: ParameterArena;
  readonly #specs: readonly StateSpec<Name>[];
  readonly #pages: readonly Page<Name>[];
  /** Elements of each tensor of the largest page, and its bytes. */
  readonly #sizes: Readonly<Record<Name, number>>;
  readonly #bytes: number;
  /** Device memory of pages that come, in order, and of pages that were updated and go back. */
  readonly #coming = new Map<Page<Name>, Buffers<Name>>();
  readonly #going = new Map<Page<Name>, Buffers<Name>>();
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
          const host = byName(specs, ({ name, perBlock, bits }) =>
            tensors[name].slice(layout.before(bits, begin) * perBlock, layout.before(bits, end) * perBlock),
          );
          return {
            slot: slots[i]!,
            values: values.slice(begin, end),
            host,
            segments: segmentsOf(arena, layout, begin, end),
            begin,
          };
        });
        return [tensors, pages];
      });
    } catch (error) {
      for (const slot of slots) device.giveSlot(slot);
      throw error;
    }
    this.#sizes = byName(specs, ({ name }) => Math.max(...this.#pages.map(({ host }) => host[name].size)));
    this.#bytes = specs.reduce((sum, { name, dtype }) => sum + this.#sizes[name] * DTYPE_BYTES[dtype], 0);
  }

  /** An op of a forward pass was recorded: in its first half pages that were updated give their memory back one by one. */
  forward(): void {
    this.#ops++;
    while (this.#going.size > 0 && 2 * PAGES * this.#ops >= (PAGES - this.#going.size + 1) * this.#opsOfPass) this.#release();
  }

  /** An op of the last backward pass was undone: the next page comes, if there is room for it where activations were. */
  backward(): void {
    while (this.#going.size > 0) this.#release();
    const page = this.#pages[this.#coming.size];
    if (!page) return;
    const { live } = this.#arena.device.memory;
    this.#height ??= live;
    if (live + this.#bytes <= this.#height) this.#fetch(page, this.#allocate());
  }

  prepare(): void {
    while (this.#going.size > 0) this.#release();
    for (const page of this.#pages.slice(this.#coming.size, RING)) this.#fetch(page, this.#allocate());
  }

  *parts(gradients: Tensor): Iterable<ArenaPart<Name>> {
    for (const [i, page] of this.#pages.entries()) {
      // Transfers happen in the order they are enqueued in: what was there is in the host's memory before the next page comes.
      const next = this.#pages[i + 1];
      if (next && !this.#coming.has(next)) this.#fetch(next, this.#reuse(this.#pages[i - 1]!));
      const buffers = this.#coming.get(page)!;
      this.#wait(page);
      const { values, segments, begin } = page;
      yield { values, gradients: gradients.slice(begin, begin + values.size), state: this.#views(page, buffers), segments };
      this.#coming.delete(page);
      this.#going.set(page, buffers);
      this.#copy("writeBack", page, buffers);
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

  #allocate(): Buffers<Name> {
    const { device } = this.#arena;
    return kept(() => byName(this.#specs, ({ name, dtype }) => Tensor.empty([this.#sizes[name]], { dtype, device })));
  }

  /** What of the buffers holds the page's state. */
  #views({ host }: Page<Name>, buffers: Buffers<Name>): Record<Name, Tensor> {
    return byName(this.#specs, ({ name }) => buffers[name].slice(0, host[name].size));
  }

  #fetch(page: Page<Name>, buffers: Buffers<Name>): void {
    this.#coming.set(page, buffers);
    this.#copy("prefetch", page, buffers);
  }

  #reuse(page: Page<Name>): Buffers<Name> {
    const buffers = this.#going.get(page)!;
    this.#going.delete(page);
    return buffers;
  }

  #release(): void {
    const [[page, buffers]] = this.#going as unknown as [[Page<Name>, Buffers<Name>]];
    this.#going.delete(page);
    this.#end(page, buffers);
  }

  #end(page: Page<Name>, buffers: Buffers<Name>): void {
    this.#wait(page);
    for (const tensor of Object.values<Tensor>(buffers)) tensor.dispose();
  }

  #wait({ slot }: Page<Name>): void {
    const { kernels, number } = this.#arena.device;
    native(() => kernels.wait(number, slot));
  }

  #copy(direction: "prefetch" | "writeBack", page: Page<Name>, buffers: Buffers<Name>): void {
    const { kernels, number } = this.#arena.device;
    scope(() => {
      const views = this.#views(page, buffers);
      for (const { name } of this.#specs) {
        const [host, device] = [page.host[name].handle, views[name].handle];
        native(() =>
          direction === "prefetch"
            ? kernels.prefetch(number, page.slot, device, host)
            : kernels.writeBack(number, page.slot, host, device),
        );
      }
    });
  }
}
