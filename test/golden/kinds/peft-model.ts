/** What the kinds of golden/peft share: a model with adapters, what it answers, and what is checked of it. */
import { join } from "node:path";
import { valueAndGrad } from "../../../src/autograd/tape.js";
import { LowrankError } from "../../../src/errors.js";
import type { CausalLM } from "../../../src/models/causal-lm.js";
import type { FromPretrainedOptions } from "../../../src/models/from-pretrained.js";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import type { AdapterSelection } from "../../../src/nn/adapter-slot.js";
import type { Linear } from "../../../src/nn/linear.js";
import { weightedSum } from "../../../src/ops/elementwise.js";
import type { PeftModel } from "../../../src/peft/peft-model.js";
import { scope } from "../../../src/tensor/scope.js";
import { toDevice } from "../../../src/train/step.js";
import type { Errors } from "../errors.js";
import { microBatch, tokenPlaces } from "../micro-batch.js";
import { type GoldenTensor, readTensors } from "../tensors.js";
import type { GoldenCase } from "../types.js";

export type Tensors = ReadonlyMap<string, GoldenTensor>;

/** A path of case.json, which is relative to the group's folder. */
export const inGroup = (c: GoldenCase, path: string) => join(c.dir, "..", path);

export const load = (c: GoldenCase, path: string, options: FromPretrainedOptions = {}) =>
  AutoModelForCausalLM.fromPretrained(inGroup(c, path), { device: c.options.device, dtype: "float32", ...options });

/** Logits of the tokens that are not padding, [T, vocab]. */
export async function logitsOf(model: CausalLM, inputs: Tensors, adapters?: AdapterSelection): Promise<Float32Array> {
  const logits = scope(() => {
    const { batch } = toDevice(
      microBatch((name) => inputs.get(name)),
      model.device,
    );
    const mode = adapters ? { adapters } : {};
    return model.logits(model.hiddenStates(batch, mode), mode);
  });
  try {
    return await logits.readFloat32();
  } finally {
    logits.dispose();
  }
}

/** The rows of a file's [B, T, V] that are not padding. */
export function tokenRows({ shape, data }: GoldenTensor, inputs: Tensors): Float32Array {
  const vocab = shape.at(-1)!;
  const places = tokenPlaces(inputs.get("attention_mask")!);
  const rows = new Float32Array(places.length * vocab);
  for (const [i, place] of places.entries())
    rows.set(data.subarray(place * vocab, (place + 1) * vocab) as Float32Array, i * vocab);
  return rows;
}

/** What a case feeds the model, and what comes out. */
export const tensorsOf = (c: GoldenCase): { inputs: Tensors; expected: Tensors } => ({
  inputs: readTensors(join(c.dir, "inputs.safetensors")),
  expected: readTensors(join(c.dir, "expected.safetensors")),
});

/** Loss of the batch, its mean over the targets, and the gradients it leaves in the active adapter. */
async function lossAndGrad(peft: PeftModel<CausalLM>, inputs: Tensors): Promise<number> {
  const tokens = microBatch((name) => inputs.get(name));
  const loss = scope(() => {
    const { batch, labels } = toDevice(tokens, peft.base.device);
    return valueAndGrad(() => {
      const hidden = peft.base.hiddenStates(batch);
      return weightedSum(peft.base.tokenLogProb(hidden, labels).value, -1 / tokens.targetTokens);
    });
  });
  try {
    return await loss.item();
  } finally {
    loss.dispose();
  }
}

/** Logits, loss and gradients of the active adapter. */
export async function checkForward(
  c: GoldenCase,
  peft: PeftModel<CausalLM>,
  inputs: Tensors,
  expected: Tensors,
  errors: Errors,
): Promise<void> {
  const { tolerance } = c.spec;
  // Cases that carry the note "relative 1e-3 is fine for values above 1".
  const relative = /relative 1e-3/.test(tolerance.note ?? "") ? 1e-3 : 0;
  const compare = (name: string, got: ArrayLike<number>, want: ArrayLike<number>, allowed: number) =>
    errors.compareScaled(name, got, want, allowed, relative);
  compare("logits", await logitsOf(peft.base, inputs), tokenRows(expected.get("logits")!, inputs), tolerance.logits);
  errors.compareScaled("loss", [await lossAndGrad(peft, inputs)], [c.spec.loss], tolerance.loss, tolerance.loss);
  const { arena } = peft.trainable;
  const grads = [...expected].filter(([key]) => key.startsWith("grad."));
  errors.same("trained tensors", arena.segments.map(({ name }) => `grad.${name}`).sort(), grads.map(([key]) => key).sort());
  for (const [key, want] of grads) compare(key, await arena.get(key.slice(5)).grad!.readFloat32(), want.data, tolerance.grad);
  errors.same("trainableParameters", peft.parameterCounts(), {
    trainable: c.spec.trainableParameters,
    all: c.spec.allParameters,
  });
  errors.same("printTrainableParameters", peft.trainableParametersText(), c.spec.printTrainableParameters);
}

/** With every adapter off the base must answer, to the bit. */
export async function checkDisabled(
  peft: PeftModel<CausalLM>,
  inputs: Tensors,
  base: Float32Array,
  errors: Errors,
): Promise<void> {
  using _ = peft.disableAdapter();
  errors.compare("logits with the adapter disabled", await logitsOf(peft.base, inputs), base, 0);
}

export const dequantized = (linear: Linear) => {
  const dense = linear.weight.dequantize("float32");
  return dense.readFloat32().finally(() => dense.dispose());
};

/** The typed error that `body` throws. */
export const refusalOf = async (body: () => unknown): Promise<LowrankError | undefined> => {
  try {
    await body();
    return undefined;
  } catch (error) {
    if (error instanceof LowrankError) return error;
    throw error;
  }
};

/** Biases of the model against the expected tensors whose keys are `prefix`, the module's name and `.bias`. */
export async function checkBiases(model: CausalLM, prefix: string, expected: Tensors, tolerance: number, errors: Errors) {
  const modules = new Map(model.modules());
  for (const [key, want] of expected) {
    if (!(key.startsWith(prefix) && key.endsWith(".bias"))) continue;
    const { bias } = modules.get(key.slice(prefix.length, -".bias".length)) as Linear;
    errors.compare(key, await bias!.readFloat32(), want.data, tolerance);
  }
}
