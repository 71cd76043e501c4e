import { ActivationOffload } from "../autograd/offload.js";
import { type PassWatch, valueAndGrad } from "../autograd/tape.js";
import type { PackedTokens } from "../data/collate.js";
import type { Batch } from "../models/batch.js";
import type { CausalLM } from "../models/causal-lm.js";
import { copyInto } from "../ops/copy.js";
import { weightedSum } from "../ops/elementwise.js";
import type { Optimizer, OptimizerReport } from "../optim/optimizer.js";
import type { Device } from "../tensor/device.js";
import { startMicroStep } from "../tensor/random.js";
import { detached, scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { ResolvedArguments } from "./arguments.js";
import { type EmbeddingNoise, neftune } from "./neftune.js";

export interface StepOptions {
  /** Seed of dropout masks. */
  seed: number;
  /** Recompute each layer in the backward pass instead of keeping its activations. */
  gradientCheckpointing?: boolean;
  /** Keep what recomputation starts from in the host's memory, on a device that has memory of its own. */
  activationOffloading?: boolean;
  /** Label smoothing e: a token's loss is (1 - e) of its own and e of the mean over the vocabulary. */
  labelSmoothing?: number;
  /** NEFTune. */
  embeddingNoise?: EmbeddingNoise | undefined;
}

/** What a run's arguments say about its steps. */
export function stepOptions(
  args: Pick<
    ResolvedArguments,
    "seed" | "gradientCheckpointing" | "activationOffloading" | "labelSmoothingFactor" | "neftuneNoiseAlpha"
  >,
): StepOptions {
  const { seed, gradientCheckpointing, activationOffloading, labelSmoothingFactor, neftuneNoiseAlpha: alpha } = args;
  const embeddingNoise = alpha ? neftune(alpha, seed) : undefined;
  return { seed, gradientCheckpointing, activationOffloading, labelSmoothing: labelSmoothingFactor, embeddingNoise };
}

export interface StepReport extends OptimizerReport {
  /** Sum of the token losses of the step divided by its target tokens, in nats; 0 when it has none. */
  loss: number;
  /** What each micro-batch adds to `loss`. */
  microLosses: number[];
}

/** A micro-batch in the memory of a device. */
export function toDevice(tokens: PackedTokens, device: Device): { batch: Batch; labels: Tensor } {
  const ints = (values: Int32Array) => Tensor.from(values, [values.length], { device });
  let maxSeqlen = 0;
  const sequences: { tokens: number; context: number }[] = [];
  for (let i = 1; i < tokens.cuSeqlens.length; i++) {
    const [begin, end] = [tokens.cuSeqlens[i - 1]!, tokens.cuSeqlens[i]!];
    maxSeqlen = Math.max(maxSeqlen, end - begin);
    sequences.push({ tokens: end - begin, context: end > begin ? tokens.positions[end - 1]! + 1 : 0 });
  }
  return {
    batch: {
      inputIds: ints(tokens.inputIds),
      positions: ints(tokens.positions),
      cuSeqlens: ints(tokens.cuSeqlens),
      maxSeqlen,
      sequences,
    },
    labels: ints(tokens.labels),
  };
}

/**
 * One optimizer step: forward and backward of every micro-batch, gradients accumulated, then the optimizer. Each token's loss is divided by
 * the target tokens of the whole step, so micro-batches of unequal size count by their tokens, not by their number.
 */
export class TrainStep {
  readonly #model: CausalLM;
  readonly #optimizer: Optimizer;
  readonly #options: StepOptions;

  constructor(model: CausalLM, optimizer: Optimizer, options: StepOptions) {
    this.#model = model;
    this.#optimizer = optimizer;
    this.#options = options;
  }

  /**
   * Enqueues the whole step and returns at once; the report comes when the device is done. `microStep` is the number of the first
   * micro-batch within the run, from which dropout masks are drawn.
   */
  run(microBatches: readonly PackedTokens[], lr: number, microStep: number): Promise<StepReport> {
    const { arena } = this.#optimizer;
    const targets = microBatches.reduce((sum, { targetTokens }) => sum + targetTokens, 0);
    const losses = detached(() => Tensor.zeros([Math.max(1, microBatches.length)], { device: arena.device }));
    try {
      arena.zeroGrad();
      // Without a target there is neither loss nor gradient.
      const used = [...microBatches.keys()].filter((i) => microBatches[i]!.targetTokens > 0);
      for (const i of used) {
        const watch = this.#watch(i === used[0], i === used.at(-1));
        scope(() => this.#micro(microBatches[i]!, targets, microStep + i, losses.slice(i, i + 1), watch));
      }
      scope(() => this.#optimizer.step(lr, weightedSum(losses)));
      return this.#report(losses);
    } catch (error) {
      // Nothing half done stays: the optimizer's launch comes last, so weights and moments are as they were.
      this.#optimizer.paging?.abandon();
      arena.zeroGrad();
      losses.dispose();
      throw error;
    }
  }

  #watch(first: boolean, last: boolean): PassWatch {
    const { paging } = this.#optimizer;
    return {
      ...(paging && first && { recorded: () => paging.forward() }),
      ...(paging && last && { undone: () => paging.backward() }),
    };
  }

  #micro(tokens: PackedTokens, targets: number, microStep: number, into: Tensor, watch: PassWatch): void {
    const { seed, gradientCheckpointing, activationOffloading, labelSmoothing = 0, embeddingNoise } = this.#options;
    const { device } = into;
    using offload =
      gradientCheckpointing && activationOffloading && device.info.separate ? new ActivationOffload(device) : undefined;
    const { batch, labels } = toDevice(tokens, device);
    startMicroStep(seed, microStep);
    const loss = valueAndGrad(() => {
      const noise = embeddingNoise?.(tokens, microStep, this.#model.config.hiddenSize, device);
      const hidden = this.#model.hiddenStates(batch, {
        training: true,
        checkpointing: gradientCheckpointing,
        offload,
        embeddingNoise: noise,
      });
      const { value } = this.#model.tokenLogProb(hidden, labels, { training: true, smoothing: labelSmoothing });
      return weightedSum(value, -1 / targets);
    }, watch);
    copyInto(into, loss);
  }

  /** Both reads are enqueued now, so they see this step and not the next one. */
  async #report(losses: Tensor): Promise<StepReport> {
    try {
      const [values, report] = await Promise.all([losses.readFloat32(), this.#optimizer.report()]);
      const microLosses = [...values];
      return { ...report, microLosses, loss: microLosses.reduce((sum, loss) => sum + loss, 0) };
    } finally {
      losses.dispose();
    }
  }
}
