/** Every silent mistake that can be seen before a step is run. Each check is a small function that yields findings. */

import type { Sequences } from "../../data/batches.js";
import { countTargets } from "../../data/collate.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { checkEnds } from "./ends.js";
import type { ModelFacts } from "./facts.js";
import type { Finding } from "./finding.js";
import { checkLabels } from "./labels.js";
import { checkOverlap } from "./overlap.js";
import { checkAdapter, checkRun, type PairShape, type RunContext } from "./run.js";
import { turnTokens } from "./turns.js";

export interface ExamplesContext {
  train: Sequences;
  evaluation: Sequences | undefined;
  facts: ModelFacts;
  tokenizer: Tokenizer | undefined;
  chatTemplate: string | undefined;
  /** The examples are known to be answers. */
  answers: boolean;
}

/** Checks tokenised examples, wherever they come from. */
export async function checkExamples(context: ExamplesContext): Promise<Finding[]> {
  const { train, evaluation, facts, tokenizer, answers } = context;
  const labels = [
    ...checkLabels(train, facts.vocabSize),
    ...(evaluation ? checkLabels(evaluation, facts.vocabSize, "Evaluation set: ") : []),
  ];
  // What follows reads ids and labels side by side.
  if (labels.some(({ code }) => code === "malformed-labels")) return labels;
  return [
    ...labels,
    ...checkEnds(train, { facts, tokenizer, answers, turnTokens: await turnTokens(tokenizer, context.chatTemplate, facts) }),
    ...(evaluation ? checkOverlap(train, evaluation, tokenizer) : []),
  ];
}

/** Checks the settings of a run, and its adapter where it trains one. */
export function checkSettings(
  run: RunContext,
  adapter: { pairs: readonly PairShape[]; dropout: number } | undefined,
  train: Sequences,
  vocabSize: number,
): Finding[] {
  const targetTokens = train.reduce((sum, { labels }) => sum + countTargets(labels), 0);
  return [...checkRun(run), ...(adapter ? checkAdapter(adapter.pairs, adapter.dropout, { targetTokens, vocabSize }) : [])];
}
