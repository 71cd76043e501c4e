import { Command } from "commander";
import { formatBytes } from "../../io/space.js";
import { resolveFolder } from "../../models/from-pretrained.js";
import { parametersText } from "../../peft/count.js";
import { estimateRun } from "../../train/estimate.js";
import { readConfig } from "../config.js";
import { print, printJson, sayNote } from "../output.js";

/** `lowrank estimate CONFIG.yaml`: memory of a run on its device, from the model's config alone, at the configuration's cutoff_len. */
export function estimateCommand(): Command {
  return new Command("estimate")
    .description("estimate the memory of a training run")
    .argument("<config>", "the YAML file")
    .argument("[overrides...]", "key=value texts that win over the file")
    .option("--json", "one JSON line on stdout")
    .action(async (file: string, overrides: string[], options: { json?: true }) => {
      const config = await readConfig(file, overrides);
      const folder = await resolveFolder(config.modelNameOrPath, {
        revision: config.modelRevision,
        ...(config.cacheDir !== null && { cacheDir: config.cacheDir }),
      });
      const estimate = await estimateRun(config, folder, config.cutoffLen, sayNote);
      if (options.json) return printJson(estimate);
      print(parametersText(estimate.trainableParameters, estimate.allParameters));
      print(`weights      ${formatBytes(estimate.weightBytes)}`);
      print(`optimizer    ${formatBytes(estimate.optimizerBytes)}`);
      print(`activations  ${formatBytes(estimate.activationBytes)} (${estimate.tokens.toLocaleString("en-US")} tokens)`);
      print(`in all       ${formatBytes(estimate.totalBytes)} on ${config.device}`);
      if (estimate.hostBytes > 0) print(`of the host  ${formatBytes(estimate.hostBytes)}, for background copies`);
      if (config.memoryBudget !== null && estimate.totalBytes > config.memoryBudget)
        print(`more than memory_budget, ${formatBytes(config.memoryBudget)}`);
    });
}
