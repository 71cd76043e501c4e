import { packTokens } from "../data/collate.js";
import { LowrankError } from "../errors.js";
import { readGenerationConfig } from "../generate/options.js";
import type { JsonObject } from "../io/json.js";
import type { CausalLM } from "../models/causal-lm.js";
import { readConfigFile } from "../models/config-reader.js";
import { construct, usesBf16 } from "../models/from-pretrained.js";
import { emptyWeights } from "../models/from-shapes.js";
import { resolveConfig } from "../models/registry.js";
import { Keys, type OnNote } from "../notes.js";
import type { Optimizer } from "../optim/optimizer.js";
import { PeftModel } from "../peft/peft-model.js";
import { type Device, getDevice } from "../tensor/device.js";
import type { TrainConfig } from "./config.js";
import { withAdapter } from "./lora.js";
import { createOptimizer } from "./optimizer.js";
import { stepOptions, TrainStep } from "./step.js";
import { adapterTrainable, fullTrainable, type Trainable } from "./trainable.js";

/** Memory of a run in bytes, on the device that its configuration names. */
export interface Estimate {
  /** The base as it lies in memory: 4-bit linears with their statistics, embedding and norms. */
  weightBytes: number;
  /** Trainable values, gradients and what the optimizer keeps on the device. */
  optimizerBytes: number;
  /** What the step needs besides at its peak: activations, scratch of the kernels, pages of optimizer state, what is lost to rounding up. */
  activationBytes: number;
  /** The most bytes taken from the system; on the CPU with what the process itself needs. */
  totalBytes: number;
  /** Memory of the host that the device copies from and to: paged optimizer state, offloaded activations. */
  hostBytes: number;
  trainableParameters: number;
  allParameters: number;
  /** Tokens of the micro-batch it was computed for. */
  tokens: number;
}

/** What the process itself takes besides on the CPU: Node.js, code, thread stacks, GEMM panels. */
const PROCESS_BYTES = 150 << 20;
/** Of one micro-batch, whose ids the host holds. */
const MAX_TOKENS = 2 ** 24;

/** Estimates share the counters of a device: one after the other. */
let last: Promise<unknown> = Promise.resolve();

/**
 * Estimates a run from config.json, without weights: model, adapter and optimizer are made and a training step is run on a device that counts
 * memory and computes nothing, so that every allocation is the one of a real step.
 *
 * @param longest tokens of the longest example; every one of a micro-batch is taken to be as long
 * @param onNote told which keys of an adapter to go on with have no effect
 * @throws LowrankError DEVICE_NOT_FOUND where the device's plugin is missing (no driver and no GPU are needed); INVALID_CONFIG for a
 *   micro-batch of over 2^24 tokens
 */
export function estimateRun(config: TrainConfig, folder: string, longest: number, onNote?: OnNote): Promise<Estimate> {
  const estimate = last.then(async () =>
    dryRun(config, await readConfigFile(folder), longest, getDevice(`dry:${config.device}`), { onNote }),
  );
  last = estimate.catch(() => {});
  return estimate;
}

export interface DryRunOptions {
  onNote?: OnNote | undefined;
  /** Called before each step. */
  eachStep?: () => void;
  /** Whether products round their operands; default: as the device does. */
  bf16?: boolean;
}

/** Two training steps on a dry device, which nobody else uses meanwhile. `json` is the content of config.json. */
export async function dryRun(
  config: TrainConfig,
  json: JsonObject,
  longest: number,
  device: Device,
  { onNote, eachStep = () => {}, bf16 = usesBf16("auto", device) }: DryRunOptions = {},
): Promise<Estimate> {
  const model = emptyModel(config, json, device, bf16);
  let owner: CausalLM | PeftModel<CausalLM> = model;
  let trainable: Trainable | undefined;
  let optimizer: Optimizer | undefined;
  try {
    device.resetPeak();
    const weightBytes = device.memory.live;
    if (config.finetuningType === "lora")
      owner = await withAdapter(model, config, { seed: 0, ignoreMismatchedBase: true, onNote });
    trainable = owner instanceof PeftModel ? adapterTrainable(owner) : fullTrainable(owner);
    optimizer = createOptimizer(config, trainable);
    const ready = device.memory.live;
    const length = config.packing ? config.cutoffLen : Math.min(longest, config.cutoffLen);
    const rows = config.perDeviceTrainBatchSize;
    if (rows * length > MAX_TOKENS)
      throw new LowrankError(
        "INVALID_CONFIG",
        `per_device_train_batch_size ${rows} with rows of ${length} tokens makes a micro-batch of ${rows * length} tokens, at most ${MAX_TOKENS} are estimated`,
        { hint: "Lower per_device_train_batch_size or cutoff_len; gradient_accumulation_steps costs no memory." },
      );
    const ids = new Int32Array(length);
    const tokens = packTokens(Array.from({ length: rows }, () => ({ inputIds: ids, labels: ids })));
    const step = new TrainStep(model, optimizer, stepOptions(config));
    // State that is paged is on its way in the second step.
    for (let i = 0; i < 2; i++) {
      eachStep();
      await step.run(config.gradientAccumulationSteps > 1 ? [tokens, tokens] : [tokens], 0, 0);
    }
    const { mostHeld, hostPeak } = device.memory;
    return {
      // Full-parameter training takes the weights over.
      weightBytes: config.finetuningType === "full" ? 0 : weightBytes,
      optimizerBytes: config.finetuningType === "full" ? ready : ready - weightBytes,
      activationBytes: mostHeld - ready,
      totalBytes: mostHeld + (device.info.separate ? 0 : PROCESS_BYTES),
      hostBytes: hostPeak,
      trainableParameters: trainable.counts.trainable,
      allParameters: trainable.counts.all,
      tokens: length * rows,
    };
  } finally {
    optimizer?.dispose();
    trainable?.[Symbol.dispose]();
    owner.dispose();
    device.addon.trim(device.number);
    await device.synchronize();
  }
}

/** The model that the configuration loads, with nothing in its weights. */
export function emptyModel(config: TrainConfig, json: JsonObject, device: Device, bf16: boolean): CausalLM {
  const { family, config: model } = resolveConfig(json);
  const given = model.quantization;
  const asked =
    config.quantizationBit === 4 ? { quantType: config.quantizationType, doubleQuant: config.doubleQuantization } : undefined;
  const quantize = config.finetuningType === "full" ? undefined : (given ?? asked);
  const dense = json.torch_dtype === "float32" || json.dtype === "float32" || config.trainFromScratch ? "float32" : "bfloat16";
  return construct(family.model, {
    config: model,
    weights: emptyWeights(family.weights.tensors(model), device, dense, quantize && { ...quantize, round: bf16 }),
    device,
    bf16,
    generationConfig: readGenerationConfig(new Keys({}), model.eosTokenIds),
    nameOrPath: config.modelNameOrPath,
    tokenizer: () => Promise.resolve(undefined),
  });
}
