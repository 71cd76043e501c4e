import {
  collatePadded,
  completionExamples,
  type Example,
  IGNORE,
  labelsFromMasks,
  type PromptCompletion,
  packTokens,
  truncate,
} from "../../../src/data/collate.js";
import { packRows } from "../../../src/data/packing.js";
import { type GoldenCase, type GoldenHandler, type GoldenOutcome, skipped } from "../types.js";
import { Differences, type Json } from "./text.js";

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

async function packing(c: GoldenCase): Promise<GoldenOutcome> {
  if (!c.spec.entries) return skipped("LLaMA-Factory's packing is not done yet");
  const diff = new Differences(c.spec.entries.length);
  for (const e of c.spec.entries) {
    const packs = packRows(e.lengths, e.maxLength, e.strategy);
    const label = `${e.name} ${e.strategy}`;
    diff.check(
      `${label} rows`,
      packs.map((pack) => pack.flatMap((s) => range(s.end - s.start).map((i) => 1000 * s.row + s.start + i))),
      e.rows,
    );
    if (!e.seqLengths) continue;
    const lengths = packs.map((pack) => pack.map((s) => s.end - s.start));
    diff.check(`${label} seqLengths`, lengths, e.seqLengths);
    diff.check(
      `${label} positionIds`,
      lengths.map((l) => l.flatMap(range)),
      e.positionIds,
    );
  }
  return diff.outcome();
}
const examples = (rows: Json[]): Example[] => rows.map((r) => ({ inputIds: r.input_ids, labels: r.labels ?? r.input_ids }));

/** What TRL's padding-free collator hands over, from packed tokens: labels unshifted, each sequence's first one ignored. */
function paddingFree(list: readonly Example[], multipleOf: number) {
  const packed = packTokens(list);
  const ids = [...packed.inputIds];
  const labels = ids.map((_, t) => (packed.positions[t] === 0 ? IGNORE : packed.labels[t - 1]!));
  const positions = [...packed.positions];
  const borders = [...packed.cuSeqlens];
  while (ids.length % multipleOf !== 0) {
    ids.push(0);
    labels.push(IGNORE);
    positions.push(0);
    borders.push(ids.length);
  }
  const longest = Math.max(...borders.slice(1).map((b, i) => b - borders[i]!));
  let sequence = -1;
  const seq_idx = positions.map((p) => (p === 0 ? ++sequence : sequence));
  return {
    input_ids: [ids],
    labels: [labels],
    position_ids: [positions],
    cu_seq_lens_q: borders,
    cu_seq_lens_k: borders,
    max_length_q: longest,
    max_length_k: longest,
    seq_idx: [seq_idx],
  };
}

function padded(list: readonly Example[], multipleOf = 1) {
  const out = collatePadded(list, 0, multipleOf);
  return { input_ids: out.inputIds, labels: out.labels, attention_mask: out.attentionMask };
}

/** Ids, attention and completion mask of rows of prompt and completion. */
function completions(rows: PromptCompletion[], maxLength: number | null, mode: "keep_start" | "keep_end") {
  const { input_ids, attention_mask, labels } = padded(completionExamples(rows, maxLength, mode));
  return { input_ids, attention_mask, completion_mask: labels.map((row) => row.map((l) => (l === IGNORE ? 0 : 1))) };
}
const pairs = (rows: Json[], key: string): PromptCompletion[] =>
  rows.map((r) => ({ promptIds: r.prompt_ids, completionIds: r[key] }));
const TASKS: Record<string, (e: Json, diff: Differences, label: string) => void> = {
  labels: (e, diff, label) => diff.check(label, [...labelsFromMasks(e.inputIds, e.completionMask, e.assistantMask)], e.labels),
  truncate: (e, diff, label) => {
    const labels = truncate(e.labels as number[], e.maxLength, e.mode);
    diff.check(
      label,
      [truncate(e.inputIds as number[], e.maxLength, e.mode), labels, labels.every((l) => l === IGNORE)],
      [e.outInputIds, e.outLabels, e.dropped],
    );
  },
  collate_sft: (e, diff, label) => {
    const multiple = e.padToMultipleOf ?? 1;
    diff.check(label, e.paddingFree ? paddingFree(examples(e.rows), multiple) : padded(examples(e.rows), multiple), e.out);
  },
  collate_packed: (e, diff, label) => {
    const parts = examples(e.rows).flatMap(({ inputIds, labels }, i) => {
      let at = 0;
      return (e.rows[i].seq_lengths as number[]).map((n) => {
        at += n;
        return { inputIds: Array.from(inputIds).slice(at - n, at), labels: Array.from(labels).slice(at - n, at) };
      });
    });
    diff.check(label, paddingFree(parts, 1), e.out);
  },
  collate_preference: (e, diff, label) => {
    diff.check(
      label,
      completions([...pairs(e.rows, "chosen_ids"), ...pairs(e.rows, "rejected_ids")], e.maxLength, e.mode),
      e.out,
    );
  },
  collate_kto: (e, diff, label) => {
    const own = completions(pairs(e.rows, "completion_ids"), e.maxLength, "keep_start");
    const kl = completions(pairs(e.rows, "KL_completion_ids"), e.maxLength, "keep_start");
    const out = {
      ...own,
      KL_input_ids: kl.input_ids,
      KL_attention_mask: kl.attention_mask,
      KL_completion_mask: kl.completion_mask,
    };
    diff.check(label, { ...out, label: e.rows.map((r: Json) => Number(r.label)) }, e.out);
  },
};

async function collate(c: GoldenCase): Promise<GoldenOutcome> {
  const diff = new Differences(c.spec.entries.length);
  for (const [i, e] of c.spec.entries.entries()) {
    const task = TASKS[e.task];
    if (!task) return skipped(`the collate task ${e.task} is not known`);
    task(e, diff, `entry ${i} ${e.task}`);
  }
  return diff.outcome();
}

export const handlers: Record<string, GoldenHandler> = { packing, collate };
