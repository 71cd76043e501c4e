import { previewSegments, renderPreview } from "../data/preview.js";
import { formatBytes } from "../io/space.js";
import { parametersText } from "../peft/count.js";
import type { TrainConfig } from "../train/config.js";
import { estimateRun } from "../train/estimate.js";
import { type PreparedData, prepareData } from "../train/run-config.js";
import { assertUsable } from "../train/run-folder.js";
import { print, printJson } from "./output.js";
import { loadingBar } from "./progress.js";

const comma = (n: number) => n.toLocaleString("en-US");

/** `train --dry-run`: all that can be known without the model's weights. */
export async function dryRun(config: TrainConfig, json: boolean): Promise<void> {
  await assertUsable(config.outputDir, config);
  const bar = loadingBar(config.modelNameOrPath);
  const data = await prepareData(config, { onLoad: bar.onProgress });
  bar.finish();
  const estimate = await estimateRun(config, data.folder, data.stats.longest);
  if (json) {
    printJson({ ...countsOf(data), ...estimate, preview: previewOf(data, false) });
    return;
  }
  for (const line of countLines(data)) print(line);
  print(parametersText(estimate.trainableParameters, estimate.allParameters));
  print(`about ${formatBytes(estimate.totalBytes)} of memory at the longest micro-batch (${comma(estimate.tokens)} tokens)`);
  print("");
  print(previewOf(data, process.stdout.isTTY === true));
}

/** Counts of a data set as one JSON object. */
export function countsOf({ stats, validation }: PreparedData): Record<string, unknown> {
  return {
    rows: stats.rows,
    examples: stats.examples,
    tokens: stats.tokens,
    target_tokens: stats.targetTokens,
    longest: stats.longest,
    truncated: stats.truncated,
    dropped: stats.dropped,
    ...(validation && { eval_examples: validation.length }),
  };
}

/** The same for people. */
export function countLines({ stats, validation }: PreparedData): string[] {
  const lines = [
    `${comma(stats.rows)} rows, ${comma(stats.examples)} examples${validation ? `, ${comma(validation.length)} more for evaluation` : ""}`,
    `${comma(stats.tokens)} tokens, ${comma(stats.targetTokens)} of them learnt; the longest example has ${comma(stats.longest)}`,
  ];
  if (stats.truncated > 0) lines.push(`${comma(stats.truncated)} examples were cut off at cutoff_len`);
  for (const [reason, n] of Object.entries(stats.dropped)) lines.push(`${comma(n)} rows left out: ${reason}`);
  return lines;
}

/** An example as the model sees it, what is learnt in colour or between ⟦ and ⟧. */
export function previewOf({ tokenizer, train }: PreparedData, color: boolean, index = 0): string {
  return renderPreview(previewSegments(tokenizer, train[index]!), color);
}
