/** What `Trainer.run()` yields and `lowrank train --json` prints, one object an event. Numbers that are not finite are null in JSON. */
export type TrainEvent =
  | StartEvent
  | StepEvent
  | EvalEvent
  | CheckpointEvent
  | WarningEvent
  | { type: "done"; result: TrainResult };

export interface StartEvent {
  type: "start";
  totalSteps: number;
  /** Step the run continues from; 0 for a new one. */
  step: number;
  examples: number;
  targetTokensPerEpoch: number;
  trainableParameters: number;
  allParameters: number;
}

export interface StepEvent {
  type: "step";
  step: number;
  totalSteps: number;
  epoch: number;
  /** Sum of the token losses of the whole accumulated step divided by its target tokens, in nats. */
  loss: number;
  /** Norm of the whole gradient before clipping. */
  gradNorm: number;
  /** Learning rate this step used. */
  lr: number;
  targetTokens: number;
  /** Tokens (targets or not, no padding) per second over the last steps, at most ten. */
  tokensPerSecond: number;
  etaSeconds: number;
  /** True when loss or gradient was not finite: the step changed nothing. */
  skipped?: true;
}

export interface EvalEvent {
  type: "eval";
  step: number;
  /** Mean loss over all target tokens, and its exponential. */
  loss: number;
  perplexity: number;
  targetTokens: number;
  /** Share of target positions whose most likely token is the target. */
  meanTokenAccuracy: number;
  /** Mean entropy of the predictions at target positions, in nats. */
  entropy: number;
}

export interface WarningEvent {
  type: "warning";
  message: string;
  /** Name of a silent mistake (docs/mistakes.md), and what to do about it. */
  code?: string;
  hint?: string;
}

export interface CheckpointEvent {
  type: "checkpoint";
  step: number;
  path: string;
}

export interface TrainResult {
  steps: number;
  epochs: number;
  /** Mean of the steps' losses weighted by target tokens. */
  trainLoss: number;
  evalLoss?: number;
  runtimeSeconds: number;
  targetTokens: number;
  skippedSteps: number;
  /** The silent mistakes that were seen. */
  warnings: readonly WarningEvent[];
  outputDir?: string;
}
