import { detached, scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";

/** Elements of the arena that one block of 8-bit state covers; parts of the arena begin at multiples of it. */
export const BLOCK = 256;

/** One tensor of an optimizer's state: so many values for every {@link BLOCK} elements of the segments whose moments have that many bits. */
export interface StateSpec<Name extends string = string> {
  name: Name;
  dtype: "float32" | "bfloat16" | "uint8";
  perBlock: number;
  bits: 32 | 8;
}

/** What one launch of an optimizer updates: a part of the arena and its state in the device's memory. */
export interface ArenaPart<Name extends string = string> {
  values: Tensor;
  gradients: Tensor;
  state: Readonly<Record<Name, Tensor>>;
  /** Table of the segments in it, counted from its beginning. */
  segments: Tensor;
}

/** How the segments of an arena are optimized. */
export interface SegmentLayout {
  /** Blocks that the moments of a width have: those of one width lie one after the other. */
  blocks: Readonly<Record<32 | 8, number>>;
  /** Blocks of a width that belong to elements before `element`, a multiple of {@link BLOCK}. */
  before(bits: 32 | 8, element: number): number;
  /** Elements [begin, end) of the arena as the table of `lr_optim_segment`. */
  table(begin: number, end: number): Uint8Array;
}

/** Where an optimizer's state lies, and how it comes to the device for a step. */
export interface OptimizerStates<Name extends string> {
  /** The whole state by name. */
  readonly tensors: Readonly<Record<Name, Tensor>>;
  /** Takes what memory a step needs; throws OUT_OF_MEMORY before anything of the step is enqueued. */
  prepare(): void;
  /** The arena in order. Each part is to be updated before the next one is asked for. */
  parts(gradients: Tensor): Iterable<ArenaPart<Name>>;
  dispose(): void;
}

/** State that stays in the device's memory: one part. */
export class ResidentStates<Name extends string> implements OptimizerStates<Name> {
  readonly tensors: Readonly<Record<Name, Tensor>>;
  readonly #arena: ParameterArena;
  readonly #segments: Tensor;

  constructor(arena: ParameterArena, specs: readonly StateSpec<Name>[], layout: SegmentLayout) {
    this.#arena = arena;
    [this.tensors, this.#segments] = kept(() => [
      zeros(arena, specs, layout, false),
      segmentsOf(arena, layout, 0, arena.values.size),
    ]);
  }

  prepare(): void {}

  parts(gradients: Tensor): ArenaPart<Name>[] {
    return [{ values: this.#arena.values, gradients, state: this.tensors, segments: this.#segments }];
  }

  dispose(): void {
    for (const tensor of [...Object.values<Tensor>(this.tensors), this.#segments]) tensor.dispose();
  }
}

/** The state as zeros, in the device's memory or the host's. */
export function zeros<Name extends string>(
  { device }: ParameterArena,
  specs: readonly StateSpec<Name>[],
  { blocks }: SegmentLayout,
  host: boolean,
) {
  return byName(specs, ({ dtype, perBlock, bits }) => Tensor.zeros([blocks[bits] * perBlock], { dtype, device, host }));
}

export function byName<Name extends string, T>(specs: readonly StateSpec<Name>[], make: (spec: StateSpec<Name>) => T) {
  return Object.fromEntries(specs.map((spec) => [spec.name, make(spec)])) as Record<Name, T>;
}

export function segmentsOf({ device }: ParameterArena, layout: SegmentLayout, begin: number, end: number): Tensor {
  const bytes = layout.table(begin, end);
  return Tensor.from(bytes, [bytes.length], { device });
}

/** What `make` returns lives until it is disposed; all of it is freed when a part finds no memory. */
export const kept = <T>(make: () => T): T => detached(() => scope(make));
