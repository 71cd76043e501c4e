import { createHash } from "node:crypto";
import { type Example, type PackedTokens, packTokens } from "./collate.js";
import { type PackingStrategy, packRows } from "./packing.js";
import { permutation } from "./shuffle.js";

/** What goes into a batch as one: the sequences of a pack, or a single one. */
export type Unit = readonly Example[];

export type Sequences = readonly { inputIds: Int32Array; labels: Int32Array }[];

/** Units of one example each, or packs of at most `maxLength` tokens. In wrapped packs the pieces see each other. */
export function makeUnits(examples: Sequences, packing?: { strategy: PackingStrategy; maxLength: number }): Unit[] {
  if (!packing) return examples.map((e) => [e]);
  const lengths = examples.map((e) => e.inputIds.length);
  return packRows(lengths, packing.maxLength, packing.strategy).map((pack) => {
    const parts = pack.map(({ row, start, end }) => ({
      inputIds: examples[row]!.inputIds.subarray(start, end),
      labels: examples[row]!.labels.subarray(start, end),
    }));
    if (packing.strategy !== "wrapped") return parts;
    return [{ inputIds: joined(parts.map((p) => p.inputIds)), labels: joined(parts.map((p) => p.labels)) }];
  });
}

function joined(parts: readonly Int32Array[]): Int32Array {
  const out = new Int32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Where in the data a run stands: the epoch, and how many of its units are used. */
export interface Cursor {
  epoch: number;
  index: number;
}

/** The data of one optimizer step. */
export interface StepBatch {
  microBatches: PackedTokens[];
  /** Targets of all micro-batches together: what the step's loss is divided by. */
  targetTokens: number;
  tokens: number;
  /** Where the next step begins. */
  next: Cursor;
}

export interface BatchOptions {
  /** Units of a micro-batch. */
  batchSize: number;
  /** Micro-batches of a step. */
  accumulationSteps: number;
  seed: number;
  /** Random order in each epoch (default true). */
  shuffle?: boolean;
  /** Put units of like length together (default false). */
  groupByLength?: boolean;
}

/** Groups of this many micro-batches are sorted by length, as transformers does for group_by_length. */
const LENGTH_GROUP = 50;

/**
 * Deals units out in steps. The order depends only on the seed and the epoch, so a run resumes from a cursor. The last step of
 * an epoch takes what is left.
 */
export class Batches {
  readonly stepsPerEpoch: number;
  private cached: { epoch: number; order: Int32Array } | undefined;

  constructor(
    private readonly units: readonly Unit[],
    private readonly options: BatchOptions,
  ) {
    this.stepsPerEpoch = Math.ceil(units.length / (options.batchSize * options.accumulationSteps));
  }

  /** The cursor before step `step` (from 0) of the whole run. */
  cursorAt(step: number): Cursor {
    const epoch = Math.floor(step / this.stepsPerEpoch);
    return { epoch, index: (step % this.stepsPerEpoch) * this.options.batchSize * this.options.accumulationSteps };
  }

  /** Order of the units in an epoch. */
  order(epoch: number): Int32Array {
    if (this.cached?.epoch !== epoch) this.cached = { epoch, order: this.makeOrder(epoch) };
    return this.cached.order;
  }

  /** The step that begins at a cursor. */
  at(cursor: Cursor): StepBatch {
    const { batchSize, accumulationSteps } = this.options;
    const order = this.order(cursor.epoch);
    const end = Math.min(order.length, cursor.index + batchSize * accumulationSteps);
    const microBatches: PackedTokens[] = [];
    for (let i = cursor.index; i < end; i += batchSize) {
      const rows = Array.from(order.subarray(i, Math.min(end, i + batchSize)), (u) => this.units[u]!);
      microBatches.push(packTokens(rows.flat(), Math.max(...rows.map(lengthOf))));
    }
    return {
      microBatches,
      targetTokens: microBatches.reduce((n, b) => n + b.targetTokens, 0),
      tokens: microBatches.reduce((n, b) => n + b.inputIds.length, 0),
      next: end >= order.length ? { epoch: cursor.epoch + 1, index: 0 } : { epoch: cursor.epoch, index: end },
    };
  }

  private makeOrder(epoch: number): Int32Array {
    const { units, options } = this;
    const order = options.shuffle === false ? Int32Array.from(units.keys()) : permutation(units.length, options.seed, epoch);
    if (!options.groupByLength) return order;
    const length = (unit: number) => lengthOf(units[unit]!);
    const group = LENGTH_GROUP * options.batchSize;
    for (let start = 0; start < order.length; start += group) {
      const part = order.subarray(start, start + group);
      part.set(Array.from(part).sort((a, b) => length(b) - length(a)));
    }
    return order;
  }
}

const lengthOf = (unit: Unit): number => unit.reduce((n, e) => n + e.inputIds.length, 0);

/** SHA-256 over all ids and labels: tells on resume whether the data are the same. */
export function fingerprint(examples: Sequences): string {
  const hash = createHash("sha256");
  for (const { inputIds, labels } of examples) {
    hash.update(Int32Array.of(inputIds.length));
    hash.update(inputIds);
    hash.update(labels);
  }
  return hash.digest("hex");
}
