import { Batches, makeUnits, type Sequences } from "../data/batches.js";
import type { PackedTokens } from "../data/collate.js";
import type { CausalLM } from "../models/causal-lm.js";
import { scope } from "../tensor/scope.js";
import { toDevice } from "./step.js";

export interface BatchEvaluation {
  targetTokens: number;
  /** Sum of the token losses, in nats. */
  lossSum: number;
  /** Target positions whose most likely token is the target. */
  correct: number;
  /** Sum of the entropies at target positions. */
  entropySum: number;
}

/** Losses of one batch with the adapters that are active, without dropout and gradients; smoothed as in training, as transformers does. */
export async function evaluateBatch(
  model: CausalLM,
  tokens: PackedTokens,
  { labelSmoothing = 0 }: { labelSmoothing?: number } = {},
): Promise<BatchEvaluation> {
  const result = scope(() => {
    const { batch, labels } = toDevice(tokens, model.device);
    const { value, entropy, argmax } = model.tokenLogProb(model.hiddenStates(batch), labels, {
      entropy: true,
      argmax: true,
      smoothing: labelSmoothing,
    });
    return [value, entropy!, argmax!] as const;
  });
  try {
    const [values, entropies, best] = await Promise.all([result[0].readFloat32(), result[1].readFloat32(), result[2].read()]);
    const evaluation = { targetTokens: tokens.targetTokens, lossSum: 0, correct: 0, entropySum: 0 };
    for (const [t, label] of tokens.labels.entries()) {
      if (label < 0) continue;
      evaluation.lossSum -= values[t]!;
      evaluation.entropySum += entropies[t]!;
      if (best[t] === label) evaluation.correct++;
    }
    return evaluation;
  } finally {
    for (const tensor of result) tensor.dispose();
  }
}

export interface Evaluation {
  targetTokens: number;
  /** Token-weighted over all batches. */
  loss: number;
  perplexity: number;
  meanTokenAccuracy: number;
  /** Mean entropy of the predictions at target positions, in nats. */
  entropy: number;
}

/** Sums over batches: every token counts the same, whatever batch it lies in. */
export function summarize(batches: readonly BatchEvaluation[]): Evaluation {
  const sum = (pick: (batch: BatchEvaluation) => number) => batches.reduce((total, batch) => total + pick(batch), 0);
  const targetTokens = sum((batch) => batch.targetTokens);
  const count = Math.max(1, targetTokens);
  const loss = sum((batch) => batch.lossSum) / count;
  return {
    targetTokens,
    loss,
    perplexity: Math.exp(loss),
    meanTokenAccuracy: sum((batch) => batch.correct) / count,
    entropy: sum((batch) => batch.entropySum) / count,
  };
}

/** A whole data set in its order; undefined when an abort cut it off. */
export async function evaluateDataset(
  model: CausalLM,
  dataset: Sequences,
  options: { batchSize: number; labelSmoothing: number; signal: AbortSignal | undefined },
): Promise<Evaluation | undefined> {
  const { batchSize, labelSmoothing, signal } = options;
  const batches = new Batches(makeUnits(dataset), { batchSize, accumulationSteps: 1, seed: 0, shuffle: false });
  const parts: BatchEvaluation[] = [];
  for (let i = 0; i < batches.stepsPerEpoch; i++) {
    for (const tokens of batches.at(batches.cursorAt(i)).microBatches) {
      if (signal?.aborted) return undefined;
      parts.push(await evaluateBatch(model, tokens, { labelSmoothing }));
    }
  }
  return summarize(parts);
}
