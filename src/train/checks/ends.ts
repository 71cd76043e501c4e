import type { Sequences } from "../../data/batches.js";
import { IGNORE } from "../../data/collate.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { ModelFacts } from "./facts.js";
import { countOf, type Finding, finding } from "./finding.js";
import { numbersOf, type Sequence } from "./labels.js";

export interface EndsContext {
  facts: ModelFacts;
  tokenizer: Tokenizer | undefined;
  /** The examples are known to be answers; else those that mask a part of themselves are taken for such. */
  answers: boolean;
  /** Begin and end tokens that a conversation holds at each turn. */
  turnTokens: ReadonlySet<number>;
}

/** Whether answers are learnt with their end, and rows begin and end once. */
export function checkEnds(examples: Sequences, context: EndsContext): Finding[] {
  return [
    ...checkEndToken(examples, context),
    ...checkDoubleBegin(examples, context),
    ...checkDocuments(examples, context),
    ...checkEmptyAnswers(examples, context),
  ];
}

const isTarget = ({ labels }: Sequence, i: number) => i > 0 && labels[i] !== IGNORE;

/** An end token that stands right behind the learnt text of an answer and is not learnt itself. Padding behind a learnt end is none. */
const masksEnd = (example: Sequence, { endIds }: ModelFacts) =>
  example.inputIds.some(
    (id, i) => endIds.has(id) && !isTarget(example, i) && isTarget(example, i - 1) && !endIds.has(example.inputIds[i - 1]!),
  );
const learnsEnd = (example: Sequence, { endIds }: ModelFacts) =>
  example.inputIds.some((id, i) => endIds.has(id) && isTarget(example, i));
const isAnswer = (example: Sequence) => {
  const first = example.labels.findIndex((label, i) => i > 0 && label !== IGNORE);
  return first > 1;
};

function checkEndToken(examples: Sequences, { facts, tokenizer, answers }: EndsContext): Finding[] {
  const masking = numbersOf(examples, (example) => masksEnd(example, facts));
  const learning = examples.some((example) => learnsEnd(example, facts));
  const names = nameOf([...facts.endIds], tokenizer);
  if (masking.length > 0)
    return [
      finding(
        learning ? "warning" : "error",
        "end-token-masked",
        `${countOf(masking, examples.length)} mask the end token (${names}) behind a learnt answer${learning ? "" : "; none learns it: the model would never learn to stop"}`,
        "Mask padding by position, not by id: the end token of an answer is a target. In a chat template it belongs inside {% generation %}.",
        masking,
      ),
    ];
  // Without a tokenizer these may be pieces of any text; whether an end belongs there cannot be known.
  const judged = tokenizer === undefined ? [] : numbersOf(examples, (example) => answers || isAnswer(example));
  if (learning || judged.length === 0) return [];
  return [
    finding(
      "warning",
      "end-token-untrained",
      `No example teaches the model to stop: its end token (${names || "it names none"}) is never a target${lastTargets(examples, tokenizer!)}`,
      "End answers with the model's end token: see the template, and whether cutoff_len cuts every answer; a token that ends turns must stand in eos_token_id of generation_config.json.",
      judged,
    ),
  ];
}

/** "; answers end with X", where they all do. */
function lastTargets(examples: Sequences, tokenizer: Tokenizer): string {
  const lasts = new Set(examples.map(({ labels }) => labels.findLast((label) => label !== IGNORE) ?? IGNORE));
  const [last] = lasts;
  return lasts.size === 1 && last !== IGNORE ? `; all answers end with ${nameOf([last!], tokenizer)}` : "";
}

function nameOf(ids: readonly number[], tokenizer: Tokenizer | undefined): string {
  return ids.map((id) => tokenizer?.idToToken(id) ?? `id ${id}`).join(", ");
}

function checkDoubleBegin(examples: Sequences, { facts: { bosId, endIds }, tokenizer }: EndsContext): Finding[] {
  if (bosId === undefined || endIds.has(bosId)) return [];
  const doubled = numbersOf(examples, ({ inputIds }) => inputIds[0] === bosId && inputIds[1] === bosId);
  if (doubled.length === 0) return [];
  return [
    finding(
      2 * doubled.length >= examples.length ? "error" : "warning",
      "double-bos",
      `${countOf(doubled, examples.length)} begin with two begin tokens (${nameOf([bosId], tokenizer)})`,
      "The template prints it and the tokenizer adds it: encode rendered text with addSpecialTokens: false.",
      doubled,
    ),
  ];
}

/** Rows are kept apart from each other, but not what stands inside one row. */
function checkDocuments(examples: Sequences, { facts, tokenizer, turnTokens }: EndsContext): Finding[] {
  const { bosId, endIds } = facts;
  const begins = (id: number) => id === bosId && !endIds.has(id) && !turnTokens.has(id);
  const ends = (id: number | undefined) => id !== undefined && endIds.has(id) && !turnTokens.has(id);
  const several = (example: Sequence) =>
    example.inputIds.some((id, i) => {
      if (i === 0) return false;
      if (begins(id)) return example.inputIds[i - 1] !== bosId;
      // Behind the end of an answer a masked token opens the next turn, a learnt one the next document. A template may close with a line end.
      const learnt = isTarget(example, i) && !endIds.has(id) && i + 1 < example.inputIds.length;
      return tokenizer !== undefined && learnt && ends(example.inputIds[i - 1]);
    });
  const numbers = numbersOf(examples, several);
  if (numbers.length === 0) return [];
  return [
    finding(
      "warning",
      "documents-in-a-row",
      `${countOf(numbers, examples.length)} hold several documents in one row: their tokens see each other`,
      "Give each document as an example of its own; packing: true lays them side by side without letting them see each other.",
      numbers,
    ),
  ];
}

/** Answers that are nothing but an end token or white space. */
function checkEmptyAnswers(examples: Sequences, { facts, tokenizer }: EndsContext): Finding[] {
  if (tokenizer === undefined) return [];
  const known = new Map<number, boolean>();
  const isBlank = (id: number) => {
    const blank = known.get(id) ?? (facts.endIds.has(id) || tokenizer.isSpecial(id) || tokenizer.decode([id]).trim() === "");
    known.set(id, blank);
    return blank;
  };
  const hasEmpty = (example: Sequence) => {
    let blank = true;
    for (let i = 1; i <= example.labels.length; i++) {
      if (i < example.labels.length && isTarget(example, i)) blank &&= isBlank(example.labels[i]!);
      else {
        if (isTarget(example, i - 1) && blank) return true;
        blank = true;
      }
    }
    return false;
  };
  const empty = numbersOf(examples, hasEmpty);
  if (empty.length === 0) return [];
  const all = empty.length === examples.length;
  return [
    finding(
      all ? "error" : "warning",
      "empty-answers",
      `${countOf(empty, examples.length)} have an empty answer: the model learns to say nothing`,
      "Leave these rows out, or name the column that holds the answers.",
      empty,
    ),
  ];
}
