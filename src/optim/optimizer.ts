import { LowrankError } from "../errors.js";
import { native } from "../tensor/native-errors.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";

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
  /** Enqueues one step from the arena's gradients. `loss` (float32 [1]) is checked for being finite too. */
  step(lr: number, loss?: Tensor): void;
  /** The device's report once all enqueued steps are done. */
  report(): Promise<OptimizerReport>;
  dispose(): void;
}

/** What an optimizer does differently for one parameter. */
export interface ParameterGroup {
  /** Factor of the learning rate. */
  lrScale: number;
  weightDecay: number;
}

const SEGMENT_BYTES = 32;
const HEADER_BYTES = 64;

/**
 * What all optimizers share: float32 moments laid out as the arena, the header in which the device counts, the table of segments.
 * The device itself decides whether a step happens: one whose loss or gradient is not finite leaves every byte as it was.
 */
export abstract class ArenaOptimizer<Moment extends string> implements Optimizer {
  readonly arena: ParameterArena;
  readonly state: Readonly<Record<Moment | "header", Tensor>>;
  readonly #name: string;
  readonly #segments: Tensor;

  /**
   * @param weightDecay of parameters that name none of their own
   * @param groups by the parameter's name; they go before what the arena says
   */
  protected constructor(
    name: string,
    arena: ParameterArena,
    moments: readonly Moment[],
    weightDecay: number,
    groups?: ReadonlyMap<string, ParameterGroup>,
  ) {
    this.#name = name;
    this.arena = arena;
    const { device } = arena;
    // In a scope all are freed when one finds no memory.
    const { state, segments } = scope(() => ({
      state: {
        ...Object.fromEntries(moments.map((moment) => [moment, Tensor.zeros(arena.values.shape, { device })])),
        header: Tensor.from(new Uint8Array(HEADER_BYTES), [HEADER_BYTES], { device }),
      } as Record<Moment | "header", Tensor>,
      segments: Tensor.from(segmentBytes(arena, weightDecay, groups), [arena.segments.length * SEGMENT_BYTES], { device }),
    }));
    for (const tensor of [...Object.values<Tensor>(state), segments]) tensor.keep();
    this.state = state;
    this.#segments = segments;
  }

  step(lr: number, loss?: Tensor): void {
    const { gradients, device } = this.arena;
    if (!gradients) throw new LowrankError("INVALID_ARGUMENT", `[${this.#name}] the arena is frozen: it has no gradients`);
    native(() => {
      device.kernels.gradStats(device.number, this.state.header.handle, gradients.handle, loss?.handle ?? 0);
      this.update(lr, gradients, this.#segments);
    });
  }

  /** Enqueues the update itself, after the header knows the gradient's norm. */
  protected abstract update(lr: number, gradients: Tensor, segments: Tensor): void;

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
    for (const tensor of Object.values<Tensor>(this.state)) tensor.dispose();
    this.#segments.dispose();
  }
}

/** The table of `lr_optim_segment` as bytes. */
function segmentBytes(arena: ParameterArena, weightDecay: number, groups?: ReadonlyMap<string, ParameterGroup>): Uint8Array {
  const bytes = new Uint8Array(arena.segments.length * SEGMENT_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [i, segment] of arena.segments.entries()) {
    const at = i * SEGMENT_BYTES;
    view.setBigInt64(at, BigInt(segment.begin), true);
    view.setBigInt64(at + 8, BigInt(segment.end), true);
    const own = { ...segment, ...groups?.get(segment.name) };
    view.setFloat32(at + 16, own.lrScale ?? 1, true);
    view.setFloat32(at + 20, own.weightDecay ?? weightDecay, true);
    view.setInt32(at + 24, 32, true);
  }
  return bytes;
}
