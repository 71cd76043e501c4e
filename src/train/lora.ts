import type { CausalLM } from "../models/causal-lm.js";
import { resolveConfig } from "../models/registry.js";
import type { OnNote } from "../notes.js";
import { shapeOfSpecs } from "../peft/model-shape.js";
import { PeftModel } from "../peft/peft-model.js";
import { type AdapterPlan, planAdapter } from "../peft/plan.js";
import type { StartOptions } from "../peft/start.js";
import type { PairShape } from "./checks/run.js";
import type { TrainConfig } from "./config.js";
import { assertAsked, loraConfigOf } from "./lora-keys.js";

/** The model under the adapter that the configuration goes on with, or under a new one. */
export async function withAdapter(
  model: CausalLM,
  config: TrainConfig,
  options: StartOptions & { seed: number; ignoreMismatchedBase: boolean; onNote?: OnNote | undefined },
): Promise<PeftModel<CausalLM>> {
  if (config.adapterNameOrPath === null) return PeftModel.create(model, loraConfigOf(config), options);
  const { ignoreMismatchedBase, onNote, signal } = options;
  const peft = await PeftModel.fromPretrained(model, config.adapterNameOrPath, {
    isTrainable: true,
    ignoreMismatchedBase,
    ...(onNote && { onNote }),
    ...(signal && { signal }),
  });
  try {
    assertAsked(config, peft.trainable.config);
  } catch (error) {
    peft.unload();
    throw error;
  }
  return peft;
}

/**
 * The pairs that a configuration puts on a model, from its config.json alone.
 *
 * @throws LowrankError ADAPTER_MISMATCH or INVALID_CONFIG where the adapter does not fit the model
 */
export function pairShapes(config: TrainConfig, json: Readonly<Record<string, unknown>>): PairShape[] {
  const { family, config: model } = resolveConfig(json);
  const shape = shapeOfSpecs(family.weights.tensors(model), model.modelType, model.tieWordEmbeddings);
  return shapesOf(planAdapter(shape, loraConfigOf(config)));
}

/** The pairs of the adapter that trains. */
export const trainedShapes = (peft: PeftModel): PairShape[] => shapesOf(peft.trainable.plan);

function shapesOf({ tensors, pairs }: AdapterPlan): PairShape[] {
  const shapes = new Map(tensors.map(({ key, shape }) => [key, shape]));
  return pairs.map(({ module, a, b, rank, scale, transposed }) => {
    const [input, out] = transposed ? [0, 1] : [1, 0];
    return { module, rank, in: shapes.get(a)![input]!, out: shapes.get(b)![out]!, scale };
  });
}
