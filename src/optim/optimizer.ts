import { LowrankError } from "../errors.js";
import { dynamicMap } from "../quant/codes.js";
import { native } from "../tensor/native-errors.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";
import { PagedStates } from "./paged-states.js";
import { segmentLayout } from "./segments.js";
import { type ArenaPart, BLOCK, kept, type OptimizerStates, ResidentStates, type StateSpec } from "./states.js";

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

/** Width of an optimizer's moments. */
export interface MomentWidth {
  /** 8: moments of parameters of at least `min8bitSize` elements are codes with an absmax a block of 256, as bitsandbytes keeps them. Default 32. */
  bits?: 32 | 8;
  /** Default 4096. */
  min8bitSize?: number;
  /** Parameters whose moments stay 32-bit whatever their size: transformers exempts embeddings. */
  keep32bit?: ReadonlySet<string>;
}

/** What every optimizer takes. */
export interface OptimizerOptions {
  /** Of parameters without a group. Default 0. */
  weightDecay?: number;
  /** By the parameter's name. */
  groups?: ReadonlyMap<string, ParameterGroup>;
  /** Gradients are multiplied by min(1, maxGradNorm / (norm + 1e-6)); 0, the default, switches clipping off. */
  maxGradNorm?: number;
}

/** What an optimizer asks of the state that all keep. */
export interface ArenaOptions extends MomentWidth, Omit<OptimizerOptions, "maxGradNorm"> {
  /** State lies in the host's memory, where the device has one of its own. */
  paged?: boolean | undefined;
  /** Sizes of float32 state of another layout than the arena's. */
  others?: Readonly<Record<string, number>>;
}

const HEADER_BYTES = 64;

/** What is wrong with an arena for an optimizer that neither rounds its arithmetic to bfloat16 as torch does, nor keeps float32 beside it. */
export const float32Only = ({ dtype }: ParameterArena): string[] =>
  dtype === "float32" ? [] : [`parameters must be float32 but are ${dtype}; AdamW, Adam and Lion take both`];

/**
 * What all optimizers share: state laid out as the arena, the header in which the device counts, the table of segments. The device itself
 * decides whether a step happens: one whose loss or gradient is not finite leaves every byte as it was.
 */
export abstract class ArenaOptimizer implements Optimizer {
  readonly arena: ParameterArena;
  /**
   * `header`, and each moment under its name (in the parameters' dtype, of the segments with 32-bit moments) and as bitsandbytes calls its
   * 8-bit form: `state1` (uint8 codes) and `absmax1` (float32) of the first moment, `state2` and `absmax2` of the second. What nothing lies
   * in is absent.
   */
  readonly state: Readonly<Record<string, Tensor>>;
  readonly paging: Paging | undefined;
  readonly #name: string;
  readonly #states: OptimizerStates<string>;
  /** State of another layout, the header, and `maps`: float32 [moments, 256], the values of the codes, signed but for a second moment. */
  readonly #others: Readonly<Record<string, Tensor>>;

  protected constructor(name: string, arena: ParameterArena, moments: readonly string[], options: ArenaOptions) {
    this.#name = name;
    this.arena = arena;
    const { device, dtype } = arena;
    const layout = segmentLayout(arena, options);
    const specs = moments
      .flatMap((moment, i): StateSpec[] => [
        { name: moment, dtype, perBlock: BLOCK, bits: 32 },
        { name: `state${i + 1}`, dtype: "uint8", perBlock: BLOCK, bits: 8 },
        { name: `absmax${i + 1}`, dtype: "float32", perBlock: 1, bits: 8 },
      ])
      .filter(({ bits }) => layout.blocks[bits] > 0);
    const pages = options.paged && device.info.separate;
    const states = pages ? new PagedStates(arena, specs, layout) : new ResidentStates(arena, specs, layout);
    this.#states = states;
    this.paging = states instanceof PagedStates ? states : undefined;
    try {
      this.#others = kept(() => ({
        ...Object.fromEntries(
          Object.entries(options.others ?? {}).flatMap(([name, size]) =>
            size > 0 ? [[name, Tensor.zeros([size], { device })]] : [],
          ),
        ),
        header: Tensor.from(new Uint8Array(HEADER_BYTES), [HEADER_BYTES], { device }),
        ...(layout.blocks[8] > 0 && { maps: Tensor.from(mapsOf(moments.length), [moments.length, 256], { device }) }),
      }));
    } catch (error) {
      states.dispose();
      throw error;
    }
    const { maps: _, ...saved } = this.#others;
    this.state = { ...states.tensors, ...saved };
  }

  /** Handle of a part of the state, 0 when there is none. */
  protected handle(part: ArenaPart, name: string): number {
    return (part.state[name] ?? this.#others[name])?.handle ?? 0;
  }

  step(lr: number, loss?: Tensor): void {
    const { gradients, device } = this.arena;
    if (!gradients) throw new LowrankError("INVALID_ARGUMENT", `[${this.#name}] the arena is frozen: it has no gradients`);
    this.#states.prepare();
    scope(() => {
      native(() => device.kernels.gradStats(device.number, this.state.header!.handle, gradients.handle, loss?.handle ?? 0));
      for (const part of this.#states.parts(gradients)) native(() => this.update(lr, part));
    });
  }

  /** Enqueues the update of a part of the arena, after the header knows the gradient's norm. */
  protected abstract update(lr: number, part: ArenaPart): void;

  async report(): Promise<OptimizerReport> {
    const bytes = (await this.state.header!.read()) as Uint8Array;
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
    for (const tensor of Object.values(this.#others)) tensor.dispose();
  }
}

function mapsOf(moments: number): Float32Array {
  return Float32Array.from([dynamicMap(true), dynamicMap(false)].slice(0, moments).flatMap((map) => [...map]));
}
