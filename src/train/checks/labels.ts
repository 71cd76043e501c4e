import type { Sequences } from "../../data/batches.js";
import { countTargets, IGNORE } from "../../data/collate.js";
import { countOf, type Finding, finding } from "./finding.js";

export type Sequence = Sequences[number];

/** Numbers, from 1, of the examples for which something holds. */
export function numbersOf(examples: Sequences, holds: (example: Sequence) => boolean): number[] {
  const numbers: number[] = [];
  for (const [i, example] of examples.entries()) if (holds(example)) numbers.push(i + 1);
  return numbers;
}

/**
 * Labels that teach nothing, or not what the inputs say.
 *
 * @param what "examples" or how a second set is called in sentences
 */
export function checkLabels(examples: Sequences, vocabSize: number, what = ""): Finding[] {
  const malformed = numbersOf(examples, ({ inputIds, labels }) => inputIds?.length !== labels?.length || inputIds === undefined);
  if (malformed.length > 0)
    return [
      finding(
        "error",
        "malformed-labels",
        `${what}${countOf(malformed, examples.length)} have another number of labels than of ids`,
        "Give one label for each id: the id itself where it is learnt, -100 elsewhere.",
        malformed,
      ),
    ];
  return [...checkMasks(examples, what), ...checkAlignment(examples, what), ...checkIds(examples, vocabSize, what)];
}

function checkMasks(examples: Sequences, what: string): Finding[] {
  const masked = numbersOf(examples, ({ labels }) => countTargets(labels) === 0);
  if (masked.length === 0) return [];
  const all = masked.length === examples.length;
  return [
    finding(
      all ? "error" : "warning",
      all ? "no-targets" : "masked-rows",
      `${what}${countOf(masked, examples.length)} have no token to learn: every label is -100 (the first token is never a target)`,
      all
        ? "Look at the masks: labels hold the id where a token is learnt, and are not shifted."
        : "Leave these rows out, or mend their masks.",
      masked,
    ),
  ];
}

/** Labels stand at the place of their id; shifting them is the model's work. */
function checkAlignment(examples: Sequences, what: string): Finding[] {
  let shifted = 0;
  let foreign = 0;
  let own = 0;
  const numbers: number[] = [];
  for (const [n, { inputIds, labels }] of examples.entries()) {
    let differs = false;
    for (let i = 0; i < labels.length; i++) {
      const label = labels[i]!;
      if (label === IGNORE) continue;
      if (label === inputIds[i]) own++;
      else {
        differs = true;
        foreign++;
        if (label === inputIds[i + 1] || i + 1 === labels.length) shifted++;
      }
    }
    if (differs) numbers.push(n + 1);
  }
  if (foreign === 0) return [];
  // A repeated token equals its neighbour, so a few labels of shifted rows look right.
  if (shifted === foreign && foreign > own)
    return [
      finding(
        "error",
        "shifted-labels",
        `${what}${countOf(numbers, examples.length)} have labels that are shifted by one: each is the id after its own`,
        "Give labels at the place of their id; they are shifted here.",
        numbers,
      ),
    ];
  return [
    finding(
      "warning",
      "foreign-labels",
      `${what}${countOf(numbers, examples.length)} have labels that are not the id at their place`,
      "Labels hold the id itself where it is learnt, -100 elsewhere.",
      numbers,
    ),
  ];
}

function checkIds(examples: Sequences, vocabSize: number, what: string): Finding[] {
  let worst = 0;
  const outside = (id: number) => {
    if (id >= 0 && id < vocabSize) return false;
    worst = id;
    return true;
  };
  const numbers = numbersOf(
    examples,
    ({ inputIds, labels }) => inputIds.some(outside) || labels.some((label) => label !== IGNORE && outside(label)),
  );
  if (numbers.length === 0) return [];
  return [
    finding(
      "error",
      "outside-vocabulary",
      `${what}${countOf(numbers, examples.length)} hold ids such as ${worst}, which the embedding of ${vocabSize} rows does not have`,
      "Use the tokenizer of this model; tokens that were added to it have no row in the embedding.",
      numbers,
    ),
  ];
}
