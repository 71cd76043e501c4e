import { LowrankError } from "../errors.js";
import { native } from "../tensor/native-errors.js";
import { detached } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";

export interface AdamWOptions {
  betas?: readonly [number, number];
  eps?: number;
  /** Decoupled weight decay of parameters that name none of their own. */
  weightDecay?: number;
  /** Gradients are multiplied by min(1, maxGradNorm / (norm + 1e-6)); 0 switches clipping off. */
  maxGradNorm?: number;
}

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

const SEGMENT_BYTES = 32;
const HEADER_BYTES = 64;

/**
 * AdamW (Loshchilov & Hutter 2019; torch's arithmetic) over an arena: one launch for all parameters, moments float32. The device
 * itself decides whether a step happens: one whose loss or gradient is not finite leaves every byte as it was.
 */
export class AdamW {
  readonly arena: ParameterArena;
  readonly #options: Required<AdamWOptions>;
  readonly #expAvg: Tensor;
  readonly #expAvgSq: Tensor;
  readonly #header: Tensor;
  readonly #segments: Tensor;

  constructor(arena: ParameterArena, options: AdamWOptions = {}) {
    const { betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, maxGradNorm = 0 } = options;
    this.#options = { betas, eps, weightDecay, maxGradNorm };
    this.arena = arena;
    const { device } = arena;
    [this.#expAvg, this.#expAvgSq, this.#header, this.#segments] = detached(() => [
      Tensor.zeros(arena.values.shape, { device }),
      Tensor.zeros(arena.values.shape, { device }),
      Tensor.from(new Uint8Array(HEADER_BYTES), [HEADER_BYTES], { device }),
      Tensor.from(segmentBytes(arena, weightDecay), [arena.segments.length * SEGMENT_BYTES], { device }),
    ]);
  }

  /** Enqueues one step from the arena's gradients. `loss` (float32 [1]) is checked for being finite too. */
  step(lr: number, loss?: Tensor): void {
    const { arena } = this;
    const { gradients, values, device } = arena;
    if (!gradients) throw new LowrankError("INVALID_ARGUMENT", "[adamw] the arena is frozen: it has no gradients");
    const { betas, eps, maxGradNorm } = this.#options;
    const { kernels, number } = device;
    native(() => {
      kernels.gradStats(number, this.#header.handle, gradients.handle, loss?.handle ?? 0);
      kernels.adamw(
        number,
        values.handle,
        gradients.handle,
        this.#expAvg.handle,
        this.#expAvgSq.handle,
        this.#header.handle,
        this.#segments.handle,
        lr,
        betas[0],
        betas[1],
        eps,
        maxGradNorm,
      );
    });
  }

  /** The device's report once all enqueued steps are done. */
  async report(): Promise<OptimizerReport> {
    const bytes = (await this.#header.read()) as Uint8Array;
    const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
    return {
      step: Number(view.getBigInt64(0, true)),
      skipped: Number(view.getBigInt64(8, true)),
      gradNorm: Math.sqrt(view.getFloat64(16, true)),
      finite: view.getInt32(24, true) !== 0,
      consecutive: view.getInt32(28, true),
    };
  }

  /** The optimizer's whole state by name, for saving and restoring: both moments and the header. */
  get state(): Readonly<Record<"exp_avg" | "exp_avg_sq" | "header", Tensor>> {
    return { exp_avg: this.#expAvg, exp_avg_sq: this.#expAvgSq, header: this.#header };
  }

  dispose(): void {
    for (const tensor of [this.#expAvg, this.#expAvgSq, this.#header, this.#segments]) tensor.dispose();
  }
}

/** The table of `lr_optim_segment` as bytes. */
function segmentBytes(arena: ParameterArena, weightDecay: number): Uint8Array {
  const bytes = new Uint8Array(arena.segments.length * SEGMENT_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [i, segment] of arena.segments.entries()) {
    const at = i * SEGMENT_BYTES;
    view.setBigInt64(at, BigInt(segment.begin), true);
    view.setBigInt64(at + 8, BigInt(segment.end), true);
    view.setFloat32(at + 16, segment.lrScale ?? 1, true);
    view.setFloat32(at + 20, segment.weightDecay ?? weightDecay, true);
    view.setInt32(at + 24, 32, true);
  }
  return bytes;
}
