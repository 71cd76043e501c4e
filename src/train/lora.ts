import type { CausalLM } from "../models/causal-lm.js";
import { resolveConfig } from "../models/registry.js";
import type { OnNote } from "../notes.js";
import { LoraConfig } from "../peft/config.js";
import { getPeftModel, PeftModel } from "../peft/peft-model.js";
import { resolveTargets } from "../peft/targets.js";
import type { PairShape } from "./checks/run.js";
import type { TrainConfig } from "./config.js";

/** The adapter that a configuration asks for. */
export function loraConfigOf(config: TrainConfig): LoraConfig {
  return new LoraConfig({
    taskType: "CAUSAL_LM",
    r: config.loraRank,
    loraAlpha: config.loraAlpha,
    loraDropout: config.loraDropout,
    useRslora: config.useRslora,
    targetModules: config.loraTarget.length === 1 && config.loraTarget[0] === "all" ? "all-linear" : config.loraTarget,
  });
}

/** The model under the adapter that the configuration goes on with, or under a new one. */
export async function withAdapter(
  model: CausalLM,
  config: TrainConfig,
  { seed, ignoreMismatchedBase, onNote }: { seed: number; ignoreMismatchedBase: boolean; onNote?: OnNote | undefined },
): Promise<PeftModel<CausalLM>> {
  if (config.adapterNameOrPath === null) return getPeftModel(model, loraConfigOf(config), { seed });
  return PeftModel.fromPretrained(model, config.adapterNameOrPath, {
    isTrainable: true,
    ignoreMismatchedBase,
    ...(onNote && { onNote }),
  });
}

/**
 * The pairs that a configuration puts on a model, from its config.json alone.
 *
 * @throws LowrankError ADAPTER_MISMATCH where a target names nothing
 */
export function pairShapes(config: TrainConfig, json: Readonly<Record<string, unknown>>): PairShape[] {
  const { family, config: model } = resolveConfig(json);
  const matrices = family.weights.tensors(model).flatMap(({ name, kind, shape: [out = 0, input = 0] }) => {
    return kind === "linear" || kind === "head" ? [{ module: name.replace(/\.weight$/, ""), in: input, out }] : [];
  });
  const modules = matrices.map(({ module }) => ({ name: module, kind: "Linear" }));
  if (model.tieWordEmbeddings) modules.push({ name: "lm_head", kind: "Linear" });
  const lora = loraConfigOf(config);
  const targeted = new Set(resolveTargets({ modules, modelType: model.modelType, outputEmbedding: "lm_head" }, lora).targeted);
  return matrices
    .filter(({ module }) => targeted.has(module))
    .map((matrix) => ({ ...matrix, rank: lora.rankOf(matrix.module), scale: lora.scalingOf(matrix.module) }));
}

/** The pairs of the adapter that trains. */
export function trainedShapes(peft: PeftModel): PairShape[] {
  const { plan } = peft.trainable;
  const shapes = new Map(plan.tensors.map(({ key, shape }) => [key, shape]));
  return plan.pairs.map(({ module, a, b, rank, scale, transposed }) => {
    const [input, out] = transposed ? [0, 1] : [1, 0];
    return { module, rank, in: shapes.get(a)![input]!, out: shapes.get(b)![out]!, scale };
  });
}
