import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import type { LoraConfigOptions } from "../../src/peft/config.js";
import { getPeftModel } from "../../src/peft/peft-model.js";
import type { TrainingArguments } from "../../src/train/arguments.js";
import type { EvalEvent, StepEvent, TrainEvent } from "../../src/train/events.js";
import { ARGS, collect, countingExamples, deviceWith, TINY } from "./tiny.js";

/** A run that can be repeated: what trains, on which base, with which arguments. */
export interface Case {
  args: TrainingArguments;
  /** Absent: all parameters train. */
  lora?: LoraConfigOptions;
  loadIn4bit?: boolean;
  dtype?: "float32" | "bfloat16";
  evaluates?: boolean;
  examples?: number;
}

export interface RunOptions {
  threads: number;
  /** Aborts when the report of this step is read; 0: at the start. */
  abortAt?: number | undefined;
  resume?: true | string;
}

export async function runCase(job: Case, outputDir: string, { threads, abortAt, resume }: RunOptions): Promise<TrainEvent[]> {
  const { loadIn4bit = false, dtype = "float32", lora } = job;
  await using model = await AutoModelForCausalLM.fromPretrained(TINY, { dtype, loadIn4bit, device: deviceWith(threads) });
  const dataset = countingExamples(job.examples ?? 7);
  const args: TrainingArguments = {
    ...ARGS,
    saveSteps: 1000,
    ...job.args,
    ...(job.evaluates && { evalStrategy: "steps", evalSteps: 2 }),
    outputDir,
    ...(resume !== undefined && { resumeFromCheckpoint: resume }),
  };
  const peft = lora && getPeftModel(model, { r: 4, loraAlpha: 8, targetModules: "all-linear", ...lora }, { seed: 5 });
  const controller = new AbortController();
  const reason = new Error("stop");
  const events: TrainEvent[] = [];
  const options = { model: peft ?? model, dataset, args, ...(job.evaluates && { evalDataset: countingExamples(2) }) };
  try {
    await collect(options, controller.signal, (event) => {
      events.push(event);
      if ((event.type === "step" ? event.step : event.type === "start" ? 0 : -1) === abortAt) controller.abort(reason);
    });
  } catch (error) {
    if (error !== reason) throw error;
  } finally {
    peft?.unload();
  }
  return events;
}

type Reported = EvalEvent | Omit<StepEvent, "tokensPerSecond" | "etaSeconds">;

/** Steps with all they report but speed. */
export const stepsOf = (events: readonly TrainEvent[]): Reported[] =>
  events.flatMap((event): Reported[] => {
    if (event.type === "eval") return [event];
    if (event.type !== "step") return [];
    const { tokensPerSecond: _, etaSeconds: __, ...rest } = event;
    return [rest];
  });

const TIMES = new Set([
  "runtimeSeconds",
  "eval_runtime",
  "elapsed_time",
  "remaining_time",
  "throughput",
  "train_runtime",
  "train_steps_per_second",
]);
const withoutTimes = (_: string, value: unknown) =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([key]) => !TIMES.has(key)))
    : value;
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"), withoutTimes);

/** Everything a finished run leaves, but for times: weights and optimizer byte for byte, state, log and results as values. */
export function outcome(outputDir: string): Record<string, unknown> {
  const last = readdirSync(outputDir)
    .filter((name) => name.startsWith("checkpoint-"))
    .sort((a, b) => Number(b.split("-")[1]) - Number(a.split("-")[1]))[0]!;
  const found: Record<string, unknown> = { last };
  for (const folder of ["", last]) {
    for (const name of readdirSync(join(outputDir, folder))) {
      const path = join(outputDir, folder, name);
      if (name.endsWith(".safetensors")) found[`${folder}/${name}`] = readFileSync(path).toString("base64");
      else if (["trainer_state.json", "lowrank_state.json", "all_results.json"].includes(name))
        found[`${folder}/${name}`] = json(path);
      else if (name === "trainer_log.jsonl")
        found[name] = readFileSync(path, "utf8")
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line, withoutTimes));
    }
  }
  expect(Object.keys(found).length).toBeGreaterThan(7);
  return found;
}

/**
 * Runs a case as a whole, and in parts that are each cut off when the report of a step of `cuts` is read and then resumed; `threads[i]` is
 * the number of threads of part i. All they leave must be equal, and so must all that the steps reported.
 */
export async function cutAndResume(
  job: Case,
  folder: string,
  cuts: readonly number[],
  threads: readonly number[],
): Promise<void> {
  const whole = join(folder, "whole");
  const expected = stepsOf(await runCase(job, whole, { threads: threads[0]! }));
  const parts = join(folder, `parts-${cuts.join("-")}`);
  const seen = new Map<string, unknown>();
  for (const [i, abortAt] of [...cuts, undefined].entries()) {
    const events = await runCase(job, parts, {
      threads: threads[(i + 1) % threads.length]!,
      abortAt,
      ...(i > 0 && { resume: true as const }),
    });
    for (const step of stepsOf(events)) seen.set(`${step.type} ${step.step}`, step);
    // Each part but the last ends with its checkpoint.
    if (abortAt !== undefined) expect(events.at(-1)?.type, `cut at ${abortAt}`).toMatch(/checkpoint|done/);
    if (events.at(-1)?.type === "done") break;
  }
  expect([...seen.values()]).toEqual(expected);
  expect(outcome(parts)).toEqual(outcome(whole));
}
