import { IGNORE } from "../../data/collate.js";
import { CUT_AWAY, EMPTY_TEXT, type ExampleStats, type TokenExample } from "../../data/examples.js";
import type { DataRow } from "../../data/rows.js";
import { templateMarkers } from "../../text/templates.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { TrainConfig } from "../config.js";
import type { ModelFacts } from "./facts.js";
import { comma, countOf, type Finding, finding } from "./finding.js";

export interface PreparedContext {
  config: TrainConfig;
  facts: ModelFacts;
  tokenizer: Tokenizer;
  chatTemplate: string | undefined;
  rows: readonly DataRow[];
  examples: readonly TokenExample[];
  stats: ExampleStats;
}

/** What went wrong on the way from a data set to its examples. */
export function checkPrepared(context: PreparedContext): Finding[] {
  return [
    ...checkNames(context.config),
    ...checkTemplate(context),
    ...checkVocabulary(context),
    ...checkCuts(context),
    ...checkDropped(context),
    ...checkReasoning(context),
  ];
}

function checkNames({ dataset, evalDataset, valSize }: TrainConfig): Finding[] {
  const found: Finding[] = [];
  const twice = dataset.find((name, i) => dataset.indexOf(name) < i);
  if (twice !== undefined)
    found.push(
      finding(
        "warning",
        "dataset-twice",
        `dataset names ${twice} twice: its rows count double`,
        "Name it once; num_train_epochs repeats all rows.",
      ),
    );
  const both = evalDataset?.find((name) => dataset.includes(name));
  if (both !== undefined)
    found.push(
      finding(
        "warning",
        "eval-is-train",
        `${both} is both trained on and evaluated`,
        "Set val_size to set rows aside, or name another eval_dataset.",
      ),
    );
  if (valSize === 1)
    found.push(
      finding(
        "warning",
        "val-size",
        "val_size: 1 sets a single row aside; from 1 on it is a count",
        "For a share write it below 1, e.g. 0.1.",
      ),
    );
  return found;
}

function checkTemplate({ config, tokenizer, chatTemplate, rows }: PreparedContext): Finding[] {
  const found: Finding[] = [];
  const chats = rows.some(({ kind }) => kind === "chat");
  if (config.template !== null && !chats)
    found.push(
      finding(
        "warning",
        "template-unused",
        `template: ${config.template} is not used: no row is a conversation`,
        "Leave it out, or set stage: sft for conversations.",
      ),
    );
  // Where the model has a template of its own, that one is used.
  if (config.template !== null && chats && tokenizer.chatTemplate === undefined) {
    const missing = templateMarkers(config.template).filter((text) => tokenizer.tokenToId(text) === undefined);
    if (missing.length > 0)
      found.push(
        finding(
          "warning",
          "template-tokens",
          `template: ${config.template} does not match this model: its tokenizer has no ${missing.join(", ")}, each is cut into pieces and ends nothing`,
          "Choose a template of the model's family; alpaca and default need no tokens of their own.",
        ),
      );
  }
  // true is the default, and what most templates do.
  if (config.enableThinking === false && chats && !chatTemplate?.includes("enable_thinking"))
    found.push(
      finding(
        "warning",
        "thinking-unused",
        "enable_thinking: false is not used: the chat template does not ask for it",
        "Leave it out.",
      ),
    );
  return found;
}

/** Tokens of the tokenizer without a row in the embedding; those that the examples use are an error of their own. */
function checkVocabulary({ facts: { vocabSize }, tokenizer }: PreparedContext): Finding[] {
  const { largestId } = tokenizer;
  if (largestId < vocabSize) return [];
  return [
    finding(
      "warning",
      "tokenizer-vocabulary",
      `The tokenizer has ids up to ${largestId} (${tokenizer.idToToken(largestId)}), the embedding only ${vocabSize} rows`,
      "Tokens without a row cannot be used: take the tokenizer of this model, or a model whose embedding was resized.",
    ),
  ];
}

function checkCuts({ config, facts, examples, stats }: PreparedContext): Finding[] {
  const found: Finding[] = [];
  const cut = examples.flatMap(({ lostTargets }, i) => (lostTargets > 0 ? [i + 1] : []));
  if (cut.length > 0 && config.stage === "sft")
    found.push(
      finding(
        "warning",
        "answers-cut",
        `${countOf(cut, examples.length)} have their answer cut off at cutoff_len ${comma(config.cutoffLen)}: its end is never learnt`,
        "Raise cutoff_len, or leave long rows out.",
        cut,
      ),
    );
  const cutAway = stats.dropped[CUT_AWAY] ?? 0;
  if (cutAway > 0)
    found.push(
      finding(
        "warning",
        "answers-cut-away",
        `${comma(cutAway)} of ${comma(stats.rows)} rows are left out: cutoff_len ${comma(config.cutoffLen)} ends before their answer begins`,
        "Raise cutoff_len: it counts system text and question too.",
      ),
    );
  if (stats.longest > facts.maxPositions)
    found.push(
      finding(
        "warning",
        "beyond-positions",
        `The longest example has ${comma(stats.longest)} tokens, the model was made for ${comma(facts.maxPositions)}`,
        `Set cutoff_len to ${facts.maxPositions} or less.`,
      ),
    );
  return found;
}

function checkDropped({ stats }: PreparedContext): Finding[] {
  const found: Finding[] = [];
  const reasons = Object.entries(stats.dropped).filter(([reason]) => reason !== CUT_AWAY && reason !== EMPTY_TEXT);
  const count = reasons.reduce((sum, [, n]) => sum + n, 0);
  const other = reasons.map(([reason, n]) => `${comma(n)} × ${reason}`);
  if (count > 0)
    found.push(
      finding(
        "warning",
        "rows-dropped",
        `${comma(count)} of ${comma(stats.rows)} rows are left out: ${other.join("; ")}`,
        "Mend these rows, or remove them.",
      ),
    );
  if (stats.unprintedTools > 0)
    found.push(
      finding(
        "warning",
        "tools-unprinted",
        `${comma(stats.unprintedTools)} conversations have tools, which the chat template does not print`,
        "Use a model whose template knows tools, or leave these rows out.",
      ),
    );
  return found;
}

const THOUGHT = /<\/think(ing)?>/;

/** Reasoning in answers that the template left out, so that it is learnt nowhere. */
function checkReasoning({ rows, examples, tokenizer }: PreparedContext): Finding[] {
  const thinking = new Set<number>();
  for (const [i, row] of rows.entries()) {
    if (row.kind !== "chat") continue;
    if (
      row.messages.some(
        ({ role, content, reasoning_content: thought }) =>
          role === "assistant" && (isText(thought) || (typeof content === "string" && THOUGHT.test(content))),
      )
    )
      thinking.add(i);
  }
  if (thinking.size === 0) return [];
  const learnt = new Set<number>();
  const at = new Map<number, number>();
  for (const [i, { row, labels }] of examples.entries()) {
    if (!thinking.has(row)) continue;
    at.set(row, i + 1);
    if (THOUGHT.test(tokenizer.decode(labels.filter((label) => label !== IGNORE)))) learnt.add(row);
  }
  const lost = [...at].filter(([row]) => !learnt.has(row)).map(([, number]) => number);
  if (lost.length === 0) return [];
  return [
    finding(
      "warning",
      "reasoning-dropped",
      `${countOf(lost, examples.length)} have reasoning in their answers, which the chat template leaves out: it is never learnt`,
      "Use a template that keeps it, or remove the reasoning so that the data show what is trained.",
      lost,
    ),
  ];
}

const isText = (value: unknown) => typeof value === "string" && value.trim() !== "";
