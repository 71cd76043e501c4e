import type { ResolvedArguments } from "../arguments.js";
import { comma, type Finding, type FindingCode, finding } from "./finding.js";

/** One LoRA pair as its shapes say. */
export interface PairShape {
  module: string;
  rank: number;
  in: number;
  out: number;
  scale: number;
}

export interface RunContext {
  args: Pick<ResolvedArguments, "learningRate" | "warmupSteps" | "optim" | "maxSteps" | "evalStrategy">;
  totalSteps: number;
  hasEval: boolean;
}

/** What this file finds: of no interest to who looks at data only. */
export const ABOUT_SETTINGS: ReadonlySet<FindingCode> = new Set([
  "learning-rate-zero",
  "learning-rate-high",
  "warmup-too-long",
  "one-step",
  "eval-unused",
  "scale-zero",
  "dropout-one",
  "rank-above-matrix",
  "rank-above-data",
]);

/** All but SGD move each weight by about the learning rate a step, and weights of networks are below this. */
const ADAM_RATE = 0.1;

/** Settings of a run with which little or nothing would be learnt. */
export function checkRun({ args, totalSteps, hasEval }: RunContext): Finding[] {
  const found: Finding[] = [];
  const { learningRate: rate } = args;
  if (rate === 0)
    found.push(
      finding("warning", "learning-rate-zero", "The learning rate is 0: nothing changes", "Set learning_rate, e.g. 2e-4."),
    );
  if (rate >= ADAM_RATE && args.optim !== "sgd")
    found.push(
      finding(
        "warning",
        "learning-rate-high",
        `The learning rate ${rate} lets ${args.optim} change every weight by up to ${rate} a step, more than most weights are`,
        "Adapters train at 1e-5 to 1e-2, whole models at 1e-6 to 1e-3.",
      ),
    );
  if (args.warmupSteps >= 1 && args.warmupSteps >= totalSteps && totalSteps > 1)
    found.push(
      finding(
        "warning",
        "warmup-too-long",
        `Warmup takes ${comma(args.warmupSteps)} steps of ${comma(totalSteps)}: the learning rate is never reached`,
        "Lower warmup_steps, or train longer.",
      ),
    );
  if (totalSteps === 1 && args.maxSteps !== 1)
    found.push(
      finding(
        "warning",
        "one-step",
        "The run has a single step",
        "Raise num_train_epochs, or lower batch size and accumulation; max_steps: 1 says that it is meant.",
      ),
    );
  if (hasEval && args.evalStrategy === "no")
    found.push(
      finding(
        "warning",
        "eval-unused",
        "An evaluation set is set aside and never used: eval_strategy is no",
        "Set eval_strategy: steps or epoch, or give all rows to training.",
      ),
    );
  return found;
}

/** Bits that a parameter holds: Allen-Zhu and Li, "Knowledge Capacity Scaling Laws" (2024). */
const BITS_A_PARAMETER = 2;
/** An adapter may hold this many times what its targets could tell at most; far beyond it, it is oversized whatever the data are like. */
const SPARE = 1000;

/** An adapter that cannot train, or that is larger than its matrices or its data can use. */
export function checkAdapter(
  pairs: readonly PairShape[],
  dropout: number,
  data: { targetTokens: number; vocabSize: number },
): Finding[] {
  const found: Finding[] = [];
  if (pairs.length > 0 && pairs.every(({ scale }) => scale === 0))
    found.push(
      finding(
        "error",
        "scale-zero",
        "lora_alpha is 0: the adapter adds nothing and gets no gradient",
        "Set lora_alpha, e.g. twice the rank.",
      ),
    );
  if (dropout === 1)
    found.push(
      finding(
        "error",
        "dropout-one",
        "lora_dropout is 1: every input of the adapter is dropped",
        "Set lora_dropout to 0.1 or less.",
      ),
    );
  const wide = pairs.filter((pair) => pair.rank > Math.min(pair.in, pair.out));
  if (wide.length > 0) {
    const [{ module, rank, in: width, out }] = wide as [PairShape];
    found.push(
      finding(
        "warning",
        "rank-above-matrix",
        `Rank ${rank} is above what ${wide.length} of ${pairs.length} target matrices have (${module} is ${out} × ${width}, rank at most ${Math.min(width, out)})`,
        `Set lora_rank to ${Math.min(...wide.map((pair) => Math.min(pair.in, pair.out)))} or less: more costs memory and time and can express nothing more.`,
      ),
    );
  }
  const parameters = pairs.reduce((sum, pair) => sum + pair.rank * (pair.in + pair.out), 0);
  const told = data.targetTokens * Math.log2(data.vocabSize);
  const rank = Math.max(0, ...pairs.map((pair) => pair.rank));
  if (rank > 1 && BITS_A_PARAMETER * parameters > SPARE * told)
    found.push(
      finding(
        "warning",
        "rank-above-data",
        `Rank ${rank} makes ${comma(parameters)} trainable parameters for ${comma(data.targetTokens)} target tokens: ${comma(Math.round((BITS_A_PARAMETER * parameters) / told))} times the room that all of them could fill`,
        "Lower lora_rank or the number of targets, or train on more rows.",
      ),
    );
  return found;
}
