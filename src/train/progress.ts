import type { StepEvent, TrainResult, WarningEvent } from "./events.js";
import type { RunIdentity, RunState } from "./run-state.js";
import type { StepReport } from "./step.js";

/** A step that runs on the device. */
export interface EnqueuedStep {
  index: number;
  lr: number;
  tokens: number;
  targetTokens: number;
}

/** Steps that tokensPerSecond is measured over. */
const RATE_WINDOW = 10;

/** How far a run is: the state that checkpoints keep, and what its events say of its speed. */
export class Progress {
  state: RunState;
  readonly #totalSteps: number;
  readonly #stepsPerEpoch: number;
  readonly #startedAt = performance.now();
  #lastStepAt = performance.now();
  /** Tokens and seconds of the last steps: single ones are uneven, because a step is enqueued while the one before runs. */
  readonly #recent: { tokens: number; seconds: number }[] = [];

  constructor(identity: RunIdentity, totalSteps: number, stepsPerEpoch: number) {
    this.#totalSteps = totalSteps;
    this.#stepsPerEpoch = stepsPerEpoch;
    this.state = {
      step: 0,
      trainedTokens: 0,
      targetTokens: 0,
      lossSum: 0,
      runtimeSeconds: 0,
      skippedSteps: 0,
      bestMetric: null,
      bestGlobalStep: null,
      logHistory: [],
      identity,
    };
  }

  get epoch(): number {
    return this.state.step / this.#stepsPerEpoch;
  }

  /** What was done since the last step, an evaluation or a save, is no part of the next one's time. */
  startClock(): void {
    this.#lastStepAt = performance.now();
  }

  record(step: EnqueuedStep, report: StepReport): StepEvent {
    const { state } = this;
    const now = performance.now();
    const seconds = (now - this.#lastStepAt) / 1000;
    this.#lastStepAt = now;
    this.#recent.push({ tokens: step.tokens, seconds });
    if (this.#recent.length > RATE_WINDOW) this.#recent.shift();
    const total = (key: "tokens" | "seconds") => this.#recent.reduce((sum, recent) => sum + recent[key], 0);
    state.step = step.index + 1;
    state.trainedTokens += step.tokens;
    state.skippedSteps = report.skipped;
    if (report.finite) {
      state.targetTokens += step.targetTokens;
      state.lossSum += report.loss * step.targetTokens;
    }
    state.runtimeSeconds += seconds;
    const done = state.step;
    return {
      type: "step",
      step: done,
      totalSteps: this.#totalSteps,
      epoch: this.epoch,
      loss: report.loss,
      gradNorm: report.gradNorm,
      lr: step.lr,
      targetTokens: step.targetTokens,
      tokensPerSecond: total("tokens") / total("seconds"),
      etaSeconds: (state.runtimeSeconds / done) * (this.#totalSteps - done),
      ...(report.finite ? {} : { skipped: true as const }),
    };
  }

  /** What is not finite is never the best, and JSON could not keep it. */
  evaluated(loss: number, step: number): void {
    const { state } = this;
    if (!Number.isFinite(loss) || (state.bestMetric !== null && loss >= state.bestMetric)) return;
    state.bestMetric = loss;
    state.bestGlobalStep = step;
  }

  result(warnings: WarningEvent[], outputDir: string | undefined): TrainResult {
    const { step, lossSum, targetTokens, bestMetric, skippedSteps } = this.state;
    return {
      steps: step,
      epochs: this.epoch,
      trainLoss: targetTokens > 0 ? lossSum / targetTokens : 0,
      ...(bestMetric === null ? {} : { evalLoss: bestMetric }),
      runtimeSeconds: (performance.now() - this.#startedAt) / 1000,
      targetTokens,
      skippedSteps,
      warnings,
      ...(outputDir === undefined ? {} : { outputDir }),
    };
  }
}
