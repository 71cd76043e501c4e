import { join } from "node:path";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { loadAddon } from "../../src/native/load.js";
import type { LoraConfigOptions } from "../../src/peft/config.js";
import { getPeftModel, type PeftModel } from "../../src/peft/peft-model.js";
import { Device, getDevice } from "../../src/tensor/device.js";
import type { TrainingArguments } from "../../src/train/arguments.js";
import type { TrainEvent } from "../../src/train/events.js";
import { Trainer, type TrainerOptions } from "../../src/train/trainer.js";

/** A Llama of two layers, vocabulary of 320. */
export const TINY = join(import.meta.dirname, "../golden/cases/train/bases/llama");

/** The default device with another number of threads. */
export const deviceWith = (threads: number): Device => new Device(`cpu:${getDevice().info.isa}:${threads}`, loadAddon());

export const loadTiny = (device?: Device): Promise<CausalLM> =>
  AutoModelForCausalLM.fromPretrained(TINY, { dtype: "float32", ...(device && { device }) });

export async function tinyPeft(lora: LoraConfigOptions = {}, device?: Device): Promise<PeftModel<CausalLM>> {
  return getPeftModel(await loadTiny(device), { r: 4, loraAlpha: 8, targetModules: "all-linear", ...lora });
}

/** Counting sequences of several lengths: each token is the one before plus a step of the row's own. The first third is not learnt. */
export function countingExamples(count = 12): { inputIds: Int32Array; labels: Int32Array }[] {
  return Array.from({ length: count }, (_, row) => {
    const inputIds = Int32Array.from({ length: 6 + ((row * 5) % 17) }, (_, i) => 10 + ((row * 29 + i * (1 + (row % 3))) % 300));
    return { inputIds, labels: inputIds.map((id, i) => (i < inputIds.length / 3 ? -100 : id)) };
  });
}

/** Runs to the end; `each` sees every event and may break off by returning true. */
export async function collect(
  options: TrainerOptions,
  signal?: AbortSignal,
  each: (event: TrainEvent) => unknown = () => false,
): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of new Trainer(options).run(signal ? { signal } : {})) {
    events.push(event);
    if (each(event) === true) break;
  }
  return events;
}

export const losses = (events: readonly TrainEvent[]): number[] =>
  events.flatMap((event) => (event.type === "step" ? [event.loss] : []));

export const ARGS: TrainingArguments = {
  perDeviceTrainBatchSize: 2,
  learningRate: 5e-3,
  lrSchedulerType: "cosine",
  warmupSteps: 1,
  seed: 3,
};
