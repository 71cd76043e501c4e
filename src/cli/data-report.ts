import { escapeControls } from "../data/escape.js";
import { type LengthBin, lengthBins } from "../data/lengths.js";
import { previewSegments, renderPreview } from "../data/preview.js";
import type { Finding } from "../train/checks/finding.js";
import { countRepeats } from "../train/checks/overlap.js";
import type { TrainConfig } from "../train/config.js";
import { type PreparedData, type PrepareOptions, prepareData } from "../train/run-config.js";
import { ProgressBar, paint, print, sayNote } from "./output.js";
import { loadingBar } from "./progress.js";

const comma = (n: number) => n.toLocaleString("en-US");
const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
const BAR = 40;

/** `prepareData` with its progress on stderr. */
export async function prepareShown(config: TrainConfig, options: PrepareOptions = {}): Promise<PreparedData> {
  const loading = loadingBar(config.modelNameOrPath);
  const bar = new ProgressBar("Tokenising");
  let begun = false;
  const data = await prepareData(config, {
    onLoad: loading.onProgress,
    onTokenize: (done, total) => {
      if (!begun) loading.finish();
      begun = true;
      bar.update(done / total, `${comma(done)} of ${comma(total)} rows`);
    },
    ...options,
  });
  bar.finish(`done: ${comma(data.stats.rows)} rows`);
  for (const note of data.notes) sayNote(note);
  return data;
}

/** Counts, lengths and findings of a data set as one JSON object. */
export function reportOf(data: PreparedData, findings: readonly Finding[]): Record<string, unknown> {
  const { stats, validation } = data;
  return {
    rows: stats.rows,
    examples: stats.examples,
    tokens: stats.tokens,
    target_tokens: stats.targetTokens,
    target_share: stats.targetTokens / stats.tokens,
    longest: stats.longest,
    truncated: stats.truncated,
    answers_cut: answersCut(data),
    repeated: countRepeats(data.train),
    dropped: stats.dropped,
    lengths: binsOf(data),
    findings,
    ...(validation && { eval_examples: validation.length }),
  };
}

/** The same for people. */
export function printReport(data: PreparedData, findings: readonly Finding[], cutoffLen: number): void {
  const { stats, validation } = data;
  print(
    `${comma(stats.rows)} rows, ${comma(stats.examples)} examples${validation ? `, ${comma(validation.length)} more for evaluation` : ""}`,
  );
  print(
    `${comma(stats.tokens)} tokens, ${comma(stats.targetTokens)} of them learnt (${percent(stats.targetTokens / stats.tokens)}); the longest example has ${comma(stats.longest)}`,
  );
  if (stats.truncated > 0)
    print(`${comma(stats.truncated)} examples were cut off at cutoff_len, ${comma(answersCut(data))} of them in an answer`);
  const repeated = countRepeats(data.train);
  if (repeated > 0) print(`${comma(repeated)} examples repeat an earlier one`);
  for (const [reason, n] of Object.entries(stats.dropped)) print(`${comma(n)} rows left out: ${escapeControls(reason)}`);
  print("");
  print("tokens of an example, before it is cut:");
  for (const line of bars(binsOf(data), cutoffLen)) print(line);
  for (const found of findings) printFinding(found);
}

function printFinding({ severity, code, message, hint }: Finding): void {
  print("");
  print(`${paint(severity === "error" ? "red" : "yellow", `${severity}:`)} ${escapeControls(message)} [${code}]`);
  print(`  → ${escapeControls(hint)}`);
}

const binsOf = ({ train }: PreparedData) => lengthBins(train.map(({ fullLength }) => fullLength));
const answersCut = ({ train }: PreparedData) => train.filter(({ lostTargets }) => lostTargets > 0).length;

function bars(bins: readonly LengthBin[], cutoffLen: number): string[] {
  const most = Math.max(...bins.map(({ count }) => count));
  const label = ({ from, to }: LengthBin) => (to - from === 1 ? comma(from) : `${comma(from)}–${comma(to - 1)}`);
  const width = Math.max(...bins.map((bin) => label(bin).length));
  return bins.map((bin) => {
    const bar = "█".repeat(bin.count === 0 ? 0 : Math.max(1, Math.round((BAR * bin.count) / most)));
    return `${label(bin).padStart(width)} ${bar} ${comma(bin.count)}${bin.from >= cutoffLen ? " (cut)" : ""}`;
  });
}

/** Which examples to show, from 0, and why. */
export interface Shown {
  index: number;
  why: string;
}

/** The first ones, the longest, and one whose answer is cut off. */
export function worthShowing({ train }: PreparedData, first: number): Shown[] {
  const shown: Shown[] = Array.from({ length: Math.min(first, train.length) }, (_, index) => ({ index, why: "" }));
  const add = (index: number, why: string) => {
    if (index >= 0 && !shown.some((other) => other.index === index)) shown.push({ index, why });
  };
  const longest = train.reduce((best, { fullLength }, i) => (fullLength > train[best]!.fullLength ? i : best), 0);
  add(longest, "the longest");
  add(
    train.findIndex(({ lostTargets }) => lostTargets > 0),
    "its answer is cut off",
  );
  return shown;
}

/** Examples as the model sees them, what is learnt in colour or between ⟦ and ⟧. */
export function printShown(data: PreparedData, shown: readonly Shown[]): void {
  for (const { index, why } of shown) {
    print("");
    print(`example ${comma(index + 1)}${why === "" ? "" : ` (${why})`}:`);
    print(previewOf(data, process.stdout.isTTY === true, index));
  }
}

export function previewOf({ tokenizer, train }: PreparedData, color: boolean, index = 0): string {
  return renderPreview(previewSegments(tokenizer, train[index]!), color);
}
