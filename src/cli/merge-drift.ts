import { packSequences } from "../models/batch.js";
import type { CausalLM } from "../models/causal-lm.js";
import type { MergeDrift } from "../peft/merge-check.js";
import { scope } from "../tensor/scope.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { paint, say } from "./output.js";

const TEXTS = [
  "The tide was out, and the boats lay in the mud of the harbour.",
  "Question: what is seven times six? Answer: 42.",
];
const MOST_TOKENS = 32;
const MOST_IS_KEPT = 0.9;

/** Logits [tokens, vocabulary] of two short texts. */
export interface Probe {
  logits: Float32Array;
  vocabSize: number;
}

/** What a model with its active adapters makes of two short texts. */
export async function probe(model: CausalLM, tokenizer: Tokenizer | undefined): Promise<Probe> {
  const { vocabSize } = model;
  const ids = TEXTS.map((text) =>
    (tokenizer?.encode(text) ?? [...Buffer.from(text)]).filter((id) => id < vocabSize).slice(0, MOST_TOKENS / TEXTS.length),
  );
  using logits = scope(() => model.logits(model.hiddenStates(packSequences(ids, model.device))));
  return { logits: await logits.readFloat32(), vocabSize };
}

const percent = (share: number) => `${share < 1 ? (100 * share).toPrecision(2) : Math.round(100 * share)} %`;

/** Says how far the merged weights are from base and adapter, and warns where the adapter is lost. */
export function sayDrift(drift: MergeDrift, dtype: string): void {
  const rounding = `rounding to ${dtype} changes their outputs by ${percent(drift.rounding)}, at most ${percent(drift.worst.rounding)} (${drift.worst.path})`;
  if (Number.isNaN(drift.kept)) {
    say(`${paint("yellow", "warning:")} The adapter changes nothing: its product is zero in every linear`);
    say("  → See whether it was trained: a fresh adapter is zero.");
  } else say(`Merged ${drift.linears} linears: ${rounding}; ${percent(drift.kept)} of what the adapter changes is kept`);
  if (drift.kept < MOST_IS_KEPT) {
    say(`${paint("yellow", "warning:")} Rounding takes away much of what the adapter changes`);
    say("  → Merge with --dtype float32, or keep the adapter beside its base.");
  }
}

/** Says how far the merged model's logits are from the unmerged one's. */
export function sayLogits(unmerged: Probe, merged: Probe): void {
  const { largest, mean, same, places } = compare(unmerged, merged);
  say(
    `Merged against unmerged, on ${places} tokens of text: logits differ by ${mean.toPrecision(2)} on average, ${largest.toPrecision(2)} at most; the most likely token is the same in ${same} of ${places} places`,
  );
}

function compare(a: Probe, b: Probe): { largest: number; mean: number; same: number; places: number } {
  const places = a.logits.length / a.vocabSize;
  let [largest, sum, same] = [0, 0, 0];
  for (let t = 0; t < places; t++) {
    const [from, to] = [t * a.vocabSize, (t + 1) * a.vocabSize];
    let [bestA, bestB] = [from, from];
    for (let i = from; i < to; i++) {
      const difference = Math.abs(a.logits[i]! - b.logits[i]!);
      largest = Math.max(largest, difference);
      sum += difference;
      if (a.logits[i]! > a.logits[bestA]!) bestA = i;
      if (b.logits[i]! > b.logits[bestB]!) bestB = i;
    }
    if (bestA === bestB) same++;
  }
  return { largest, mean: sum / a.logits.length, same, places };
}
