import { Command } from "commander";
import { escapeControls } from "../../data/escape.js";
import { LowrankError } from "../../errors.js";
import type { TrainEvent } from "../../train/events.js";
import { type PreparedRun, prepareRun } from "../../train/run-config.js";
import { Trainer } from "../../train/trainer.js";
import { readConfig } from "../config.js";
import { dryRun } from "../dry-run.js";
import { interruptible } from "../interrupt.js";
import { formatDuration, ProgressBar, paint, printJson, say } from "../output.js";
import { loadingBar, startingBar } from "../progress.js";

interface TrainOptions {
  resume?: true | string;
  dryRun?: true;
  allowChange: string[];
  allow: string[];
  json?: true;
  ignoreMismatchedBase?: true;
}

/** `lowrank train CONFIG.yaml`: trains what a configuration in LLaMA-Factory's keys says. */
export function trainCommand(): Command {
  return new Command("train")
    .description("train an adapter or a model as a YAML file in LLaMA-Factory's keys says")
    .argument("<config>", "the YAML file")
    .argument("[overrides...]", "key=value texts that win over the file")
    .option("--resume [path]", "continue from the newest checkpoint that verifies, or from this one")
    .option("--dry-run", "show counts, one example, memory and trainable parameters, then stop")
    .option(
      "--allow-change <key>",
      "accept a difference from the resumed run (again for each)",
      (key: string, keys: string[]) => [...keys, key],
      [],
    )
    .option("--ignore-mismatched-base", "continue the adapter of adapter_name_or_path though it was trained on another base")
    .option(
      "--allow <code>",
      "train in spite of an error that the data checks found (again for each)",
      (code: string, codes: string[]) => [...codes, code],
      [],
    )
    .option("--json", "print the events of the run, one JSON line each")
    .action(async (file: string, overrides: string[], options: TrainOptions) => {
      const config = await readConfig(file, overrides);
      if (options.resume !== undefined) config.resumeFromCheckpoint = options.resume;
      if (options.dryRun) return dryRun(config, { json: options.json === true, allow: options.allow });
      await interruptible(
        "Stopping after this step; a checkpoint is saved. Ctrl-C again ends at once, without.",
        async (signal) => {
          const bar = loadingBar(config.modelNameOrPath);
          let starting: ReturnType<typeof startingBar> | undefined;
          const run = await prepareRun(config, {
            signal,
            onLoad: bar.onProgress,
            onStart: (progress) => {
              if (!starting) bar.finish();
              starting ??= startingBar();
              starting.onProgress(progress);
            },
            allowChange: options.allowChange,
            ignoreMismatchedBase: options.ignoreMismatchedBase === true,
            allow: options.allow,
          });
          (starting ?? bar).finish();
          try {
            await follow(run, signal, options.json === true, file);
          } finally {
            run.model.dispose();
          }
        },
      );
    });
}

/** Runs the trainer and shows its events. */
async function follow(run: PreparedRun, signal: AbortSignal, json: boolean, file: string): Promise<void> {
  const bar = new ProgressBar("Training");
  let saved: string | undefined;
  try {
    for await (const event of new Trainer(run.trainer).run({ signal })) {
      if (json) printJson(event);
      if (event.type === "checkpoint") saved = event.path;
      show(event, bar);
    }
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    if (saved === undefined) throw new LowrankError("ABORTED", "Interrupted before the first step: there was nothing to save");
    throw new LowrankError("ABORTED", `Interrupted; the run is saved in ${saved}`, {
      hint: `Continue it with: lowrank train ${file} --resume`,
    });
  }
}

const comma = (n: number) => n.toLocaleString("en-US");

function show(event: TrainEvent, bar: ProgressBar): void {
  switch (event.type) {
    case "start":
      say(
        `${comma(event.examples)} examples, ${comma(event.targetTokensPerEpoch)} tokens to learn an epoch, ${comma(event.totalSteps)} steps; ` +
          `${comma(event.trainableParameters)} of ${comma(event.allParameters)} parameters train`,
      );
      break;
    case "step":
      bar.update(
        event.step / event.totalSteps,
        `step ${event.step}/${event.totalSteps} loss ${event.loss.toFixed(4)} ${event.tokensPerSecond.toFixed(0)} tokens/s ${formatDuration(event.etaSeconds)} left`,
      );
      break;
    case "eval":
      bar.finish(
        `step ${event.step} eval loss ${event.loss.toFixed(4)} perplexity ${event.perplexity.toFixed(2)} accuracy ${(100 * event.meanTokenAccuracy).toFixed(1)} %`,
      );
      break;
    case "checkpoint":
      bar.finish(`step ${event.step} saved ${event.path}`);
      break;
    case "warning":
      say(`${paint("yellow", "warning:")} ${escapeControls(event.message)}${event.code === undefined ? "" : ` [${event.code}]`}`);
      if (event.hint !== undefined) say(`  → ${event.hint}`);
      break;
    case "done": {
      const { steps, trainLoss, runtimeSeconds, outputDir } = event.result;
      bar.finish(`done: ${comma(steps)} steps in ${formatDuration(runtimeSeconds)}, mean loss ${trainLoss.toFixed(4)}`);
      if (outputDir !== undefined) say(`Saved in ${outputDir}. Talk to it: lowrank chat --adapter ${outputDir}`);
      break;
    }
  }
}
