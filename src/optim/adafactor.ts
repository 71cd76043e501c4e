import { LowrankError } from "../errors.js";
import type { Device } from "../tensor/device.js";
import { detached } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ArenaSegment, ParameterArena } from "./arena.js";
import { ArenaOptimizer, float32Only, type OptimizerOptions } from "./optimizer.js";
import type { ArenaPart } from "./states.js";

/** Weight decay is times the parameter and the learning rate. */
export interface AdafactorOptions extends OptimizerOptions {
  /** Added to the squared gradient, and the least scale of a parameter. Default 1e-30 and 1e-3. */
  eps?: readonly [number, number];
  /** Updates of a larger RMS are scaled down to it. Default 1. */
  clipThreshold?: number;
  /** The second moment's decay is 1 - step^decayRate. Default -0.8. */
  decayRate?: number;
  /** Of the first moment; absent: none is kept. */
  beta1?: number;
  /** Learning rate times the RMS of the parameter. Default false, as transformers' Trainer asks for it. */
  scaleParameter?: boolean;
  /** The learning rate follows from the step alone: min(1e-2, 1 / sqrt(step)). Default false. */
  relativeStep?: boolean;
  /** With relativeStep: 1e-6 * step in the place of 1e-2. */
  warmupInit?: boolean;
}

/**
 * Adafactor (Shazeer & Stern 2018) with the arithmetic of transformers: matrices keep the second moments of their rows and columns
 * (`exp_avg_sq_row`, `exp_avg_sq_col`: parameter after parameter), vectors every element's (`exp_avg_sq`).
 */
export class Adafactor extends ArenaOptimizer {
  readonly #options: Required<Omit<AdafactorOptions, "weightDecay" | "groups" | "beta1">> & { beta1: number };
  /** `lr_optim_shape` of each segment. */
  readonly #shapes: Tensor;

  /** Throws INVALID_ARGUMENT for a bfloat16 arena and for warmupInit without relativeStep. */
  constructor(arena: ParameterArena, options: AdafactorOptions = {}) {
    const { eps = [1e-30, 1e-3], clipThreshold = 1, decayRate = -0.8, maxGradNorm = 0, ...others } = options;
    const { beta1, scaleParameter = false, relativeStep = false, warmupInit = false, ...rest } = others;
    const problems = [...float32Only(arena), ...(warmupInit && !relativeStep ? ["warmupInit needs relativeStep"] : [])];
    if (problems.length > 0) throw new LowrankError("INVALID_ARGUMENT", `[adafactor] ${problems.join("; ")}`);
    const { bytes, sizes } = shapeTable(arena.segments);
    super("adafactor", arena, beta1 === undefined ? [] : ["exp_avg"], { ...rest, others: sizes });
    this.#options = { eps, clipThreshold, decayRate, beta1: beta1 ?? 0, scaleParameter, relativeStep, warmupInit, maxGradNorm };
    try {
      this.#shapes = upload(bytes, arena.device);
    } catch (error) {
      super.dispose();
      throw error;
    }
  }

  protected override update(lr: number, part: ArenaPart): void {
    const { eps, clipThreshold, decayRate, beta1, scaleParameter, relativeStep, warmupInit, maxGradNorm } = this.#options;
    const { device } = this.arena;
    device.kernels.adafactor(
      device.number,
      part.values.handle,
      part.gradients.handle,
      this.handle(part, "exp_avg"),
      this.handle(part, "exp_avg_sq"),
      this.handle(part, "exp_avg_sq_row"),
      this.handle(part, "exp_avg_sq_col"),
      this.handle(part, "header"),
      part.segments.handle,
      this.#shapes.handle,
      lr,
      eps[0],
      eps[1],
      clipThreshold,
      decayRate,
      beta1,
      scaleParameter ? 1 : 0,
      relativeStep ? 1 : 0,
      warmupInit ? 1 : 0,
      maxGradNorm,
    );
  }

  override dispose(): void {
    super.dispose();
    this.#shapes.dispose();
  }
}

const upload = (bytes: Uint8Array, device: Device) => detached(() => Tensor.from(bytes, [bytes.length], { device }));

/** Elements of the second moments of one parameter. */
function factoredSizes(shape: readonly number[]): { exp_avg_sq: number; exp_avg_sq_row: number; exp_avg_sq_col: number } {
  const size = shape.reduce((product, n) => product * n, 1);
  const [rows = 1, cols = 1] = shape.slice(-2);
  return shape.length < 2 || size === 0
    ? { exp_avg_sq: size, exp_avg_sq_row: 0, exp_avg_sq_col: 0 }
    : { exp_avg_sq: 0, exp_avg_sq_row: size / cols, exp_avg_sq_col: size / rows };
}

/** The table of `lr_optim_shape` as bytes, and the elements of each second moment. */
function shapeTable(segments: readonly ArenaSegment[]) {
  const words = new BigInt64Array(4 * segments.length);
  const sizes = { exp_avg_sq: 0, exp_avg_sq_row: 0, exp_avg_sq_col: 0 };
  for (const [i, { shape }] of segments.entries()) {
    const own = factoredSizes(shape);
    const row = [...shape.slice(-2), sizes.exp_avg_sq_row, sizes.exp_avg_sq_col];
    words.set((own.exp_avg_sq_row > 0 ? row : [0, 0, sizes.exp_avg_sq, 0]).map(BigInt), 4 * i);
    for (const key of Object.keys(sizes) as (keyof typeof sizes)[]) sizes[key] += own[key];
  }
  return { bytes: new Uint8Array(words.buffer), sizes };
}
