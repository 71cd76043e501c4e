import { formatBytes } from "../io/space.js";
import { parametersText } from "../peft/count.js";
import { assertSound } from "../train/checks/finding.js";
import type { TrainConfig } from "../train/config.js";
import { estimateRun } from "../train/estimate.js";
import { assertUsable } from "../train/run-folder.js";
import { prepareShown, previewOf, printReport, printShown, reportOf, worthShowing } from "./data-report.js";
import { print, printJson, sayNote } from "./output.js";

/** `train --dry-run`: all that can be known without the model's weights. Fails, once all is shown, where training would refuse. */
export async function dryRun(config: TrainConfig, options: { json: boolean; allow: readonly string[] }): Promise<void> {
  await assertUsable(config.outputDir, config);
  const data = await prepareShown(config);
  const estimate = await estimateRun(config, data.folder, data.stats.longest, sayNote);
  if (options.json) {
    printJson({ ...reportOf(data, data.findings), ...estimate, preview: previewOf(data, false) });
  } else {
    printReport(data, data.findings, config.cutoffLen);
    print("");
    print(parametersText(estimate.trainableParameters, estimate.allParameters));
    print(
      `about ${formatBytes(estimate.totalBytes)} of memory at the longest micro-batch (${estimate.tokens.toLocaleString("en-US")} tokens)`,
    );
    printShown(data, worthShowing(data, 1));
  }
  assertSound(data.findings, options.allow);
}
