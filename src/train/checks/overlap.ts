import { createHash } from "node:crypto";
import type { Sequences } from "../../data/batches.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { comma, countOf, type Finding, finding } from "./finding.js";
import { numbersOf, type Sequence } from "./labels.js";

const digest = (data: string | Uint8Array) => createHash("sha1").update(data).digest("base64");
const exactKey = ({ inputIds }: Sequence) => digest(new Uint8Array(Int32Array.from(inputIds).buffer));

/** How many examples an earlier one equals, token by token. */
export function countRepeats(examples: Sequences): number {
  return examples.length - new Set(examples.map(exactKey)).size;
}

/** Evaluation rows that are trained on: exactly, or but for case and white space where a tokenizer gives their text. */
export function checkOverlap(train: Sequences, evaluation: Sequences, tokenizer: Tokenizer | undefined): Finding[] {
  const exact = new Set(train.map(exactKey));
  const textKey = (example: Sequence) =>
    digest(tokenizer!.decode(example.inputIds).normalize("NFKC").replace(/\s+/gu, "").toLowerCase());
  const texts = tokenizer ? new Set(train.map(textKey)) : undefined;
  const numbers = numbersOf(evaluation, (example) => exact.has(exactKey(example)) || (texts?.has(textKey(example)) ?? false));
  if (numbers.length === 0) return [];
  const same = evaluation.filter((example) => exact.has(exactKey(example))).length;
  const rest = numbers.length - same;
  return [
    finding(
      "warning",
      "eval-overlap",
      `Evaluation set: ${countOf(numbers, evaluation.length)} stand in the training set too${rest > 0 ? `, ${comma(rest)} of them but for case and white space` : ""}: its loss would flatter the model`,
      "Remove duplicates before the split, or take other rows for evaluation.",
      numbers,
    ),
  ];
}
