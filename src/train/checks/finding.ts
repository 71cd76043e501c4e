import { LowrankError } from "../../errors.js";

/** Names of everything the checks can find; docs/mistakes.md has cause and remedy of each. */
export type FindingCode =
  // the examples
  | "no-targets"
  | "masked-rows"
  | "malformed-labels"
  | "shifted-labels"
  | "foreign-labels"
  | "outside-vocabulary"
  | "end-token-masked"
  | "end-token-untrained"
  | "double-bos"
  | "documents-in-a-row"
  | "empty-answers"
  | "beyond-positions"
  | "eval-overlap"
  // how they were made
  | "tokenizer-vocabulary"
  | "template-tokens"
  | "template-unused"
  | "thinking-unused"
  | "reasoning-dropped"
  | "answers-cut"
  | "answers-cut-away"
  | "rows-dropped"
  | "tools-unprinted"
  | "dataset-twice"
  | "eval-is-train"
  | "val-size"
  // the run
  | "eval-unused"
  | "one-step"
  | "warmup-too-long"
  | "learning-rate-zero"
  | "learning-rate-high"
  | "scale-zero"
  | "dropout-one"
  | "rank-above-matrix"
  | "rank-above-data"
  // while and after it trains
  | "diverging"
  | "gradient-exploding"
  | "loss-above-start"
  | "steps-skipped"
  | "untrained-adapter";

/** One silent mistake: what is wrong, and what to do. An error is one after which training would certainly be useless or wrong. */
export interface Finding {
  code: FindingCode;
  severity: "error" | "warning";
  message: string;
  hint: string;
  /** Numbers, from 1, of the examples it is about; the first hundred. */
  examples?: readonly number[];
}

/** Codes whose errors lie in the configuration; all others lie in the data. */
const OF_CONFIG: ReadonlySet<FindingCode> = new Set(["scale-zero", "dropout-one"]);
const MOST_EXAMPLES = 100;

export function finding(
  severity: Finding["severity"],
  code: FindingCode,
  message: string,
  hint: string,
  examples?: readonly number[],
): Finding {
  return { code, severity, message, hint, ...(examples && { examples: examples.slice(0, MOST_EXAMPLES) }) };
}

/** `3 of 40 examples`, with the numbers of the first ones. */
export function countOf(examples: readonly number[], all: number): string {
  if (examples.length === all) return all === 1 ? "The only example" : `All ${comma(all)} examples`;
  const first = examples.slice(0, 3).join(", ");
  return `${comma(examples.length)} of ${comma(all)} examples (${first}${examples.length > 3 ? ", …" : ""})`;
}

export const comma = (n: number): string => n.toLocaleString("en-US");

/** One sentence with its remedy and its name. */
export const sentenceOf = ({ code, message, hint }: Finding): string => `${message}. ${hint} [${code}]`;

/**
 * Throws when an error is among the findings, with all of them: INVALID_CONFIG when one lies in the configuration, else DATASET. Codes in
 * `allow` are accepted.
 */
export function assertSound(findings: readonly Finding[], allow: readonly string[] = []): void {
  const errors = findings.filter(({ severity, code }) => severity === "error" && !allow.includes(code));
  if (errors.length === 0) return;
  const [first] = errors;
  const single = errors.length === 1;
  throw new LowrankError(
    errors.some(({ code }) => OF_CONFIG.has(code)) ? "INVALID_CONFIG" : "DATASET",
    single
      ? `${first!.message} [${first!.code}]`
      : `training would be useless for ${errors.length} reasons:\n- ${errors.map(sentenceOf).join("\n- ")}`,
    {
      hint: `${single ? `${first!.hint} ` : ""}To train all the same: --allow ${errors.map(({ code }) => code).join(" --allow ")}.`,
      details: { findings: errors },
    },
  );
}
