import { LowrankError } from "../errors.js";
import { native } from "../tensor/native-errors.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";
import { PagedStates } from "./paged-states.js";
import { type ArenaPart, type OptimizerStates, ResidentStates, type StateSpec } from "./states.js";

/** What the device reports about the last step. */
export interface OptimizerReport {
  /** Steps done and steps skipped so far, and skipped in a row now. */
  step: number;
  skipped: number;
  consecutive: number;
  /** Norm of the whole gradient before clipping. */
  gradNorm: number;
  /** Whether loss and gradient were finite; when not, the step changed nothing. */
  finite: boolean;
}

/** Updates the parameters of an arena from their gradients. */
export interface Optimizer {
  readonly arena: ParameterArena;
  /** The whole state by name, for saving and restoring. */
  readonly state: Readonly<Record<string, Tensor>>;
  /** Of state that lies in the host's memory: what must be told how a step proceeds, so that copies run beside the passes. */
  readonly paging: Paging | undefined;
  /** Enqueues one step from the arena's gradients. `loss` (float32 [1]) is checked for being finite too. */
  step(lr: number, loss?: Tensor): void;
  /** The device's report once all enqueued steps are done. */
  report(): Promise<OptimizerReport>;
  dispose(): void;
}

export interface Paging {
  /** An op of the step's first forward pass was recorded. */
  forward(): void;
  /** An op of its last backward pass was undone. */
  backward(): void;
  /** The step was given up before the optimizer's turn. */
  abandon(): void;
}

/** What an optimizer does differently for one parameter. */
export interface ParameterGroup {
  /** Factor of the learning rate. */
  lrScale: number;
  weightDecay: number;
}

export interface ArenaOptions {
  /** Of parameters that name none of their own. */
  weightDecay: number;
  /** By the parameter's name; they go before what the arena says. */
  groups?: ReadonlyMap<string, ParameterGroup> | undefined;
  /** State lies in the host's memory, where the device has one of its own. */
  paged?: boolean | undefined;
}

const SEGMENT_BYTES = 32;
const HEADER_BYTES = 64;

/**
 * What all optimizers share: state laid out as the arena, the header in which the device counts, the table of segments. The device itself
 * decides whether a step happens: one whose loss or gradient is not finite leaves every byte as it was.
 */
export abstract class ArenaOptimizer<Moment extends string> implements Optimizer {
  readonly arena: ParameterArena;
  readonly state: Readonly<Record<Moment | "header", Tensor>>;
  readonly paging: Paging | undefined;
  readonly #name: string;
  readonly #states: OptimizerStates<Moment>;

  protected constructor(name: string, arena: ParameterArena, specs: readonly StateSpec<Moment>[], options: ArenaOptions) {
    this.#name = name;
    this.arena = arena;
    const { device } = arena;
    const table = (begin: number, end: number) => segmentBytes(arena, options, begin, end);
    const states =
      options.paged && device.info.separate ? new PagedStates(arena, specs, table) : new ResidentStates(arena, specs, table);
    this.#states = states;
    this.paging = states instanceof PagedStates ? states : undefined;
    try {
      const header = Tensor.from(new Uint8Array(HEADER_BYTES), [HEADER_BYTES], { device }).keep();
      this.state = { ...states.tensors, header } as Record<Moment | "header", Tensor>;
    } catch (error) {
      states.dispose();
      throw error;
    }
  }

  step(lr: number, loss?: Tensor): void {
    const { gradients, device } = this.arena;
    if (!gradients) throw new LowrankError("INVALID_ARGUMENT", `[${this.#name}] the arena is frozen: it has no gradients`);
    this.#states.prepare();
    scope(() => {
      native(() => device.kernels.gradStats(device.number, this.state.header.handle, gradients.handle, loss?.handle ?? 0));
      for (const part of this.#states.parts(gradients)) native(() => this.update(lr, part));
    });
  }

  /** Enqueues the update of a part of the arena, after the header knows the gradient's norm. */
  protected abstract update(lr: number, part: ArenaPart<Moment>): void;

  async report(): Promise<OptimizerReport> {
    const bytes = (await this.state.header.read()) as Uint8Array;
    const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
    return {
      step: Number(view.getBigInt64(0, true)),
      skipped: Number(view.getBigInt64(8, true)),
      gradNorm: Math.sqrt(view.getFloat64(16, true)),
      finite: view.getInt32(24, true) !== 0,
      consecutive: view.getInt32(28, true),
    };
  }

  dispose(): void {
    this.#states.dispose();
    this.state.header.dispose();
  }
}

/** What of elements [begin, end) belongs to segments, as a table of `lr_optim_segment`. */
function segmentBytes(arena: ParameterArena, { weightDecay, groups }: ArenaOptions, begin: number, end: number): Uint8Array {
  const within = arena.segments.filter((segment) => segment.begin < end && segment.end > begin);
  const bytes = new Uint8Array(within.length * SEGMENT_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [i, segment] of within.entries()) {
    const at = i * SEGMENT_BYTES;
    view.setBigInt64(at, BigInt(Math.max(segment.begin, begin) - begin), true);
    view.setBigInt64(at + 8, BigInt(Math.min(segment.end, end) - begin), true);
    const own = { ...segment, ...groups?.get(segment.name) };
    view.setFloat32(at + 16, own.lrScale ?? 1, true);
    view.setFloat32(at + 20, own.weightDecay ?? weightDecay, true);
    view.setInt32(at + 24, 32, true);
  }
  return bytes;
}
