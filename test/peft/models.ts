import { readFileSync } from "node:fs";
import { join } from "node:path";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import type { AdapterSelection } from "../../src/nn/adapter-slot.js";
import { scope } from "../../src/tensor/scope.js";
import { goldenFolder } from "../golden/folder.js";

const peft = goldenFolder("peft");

/** Folder of an adapter of the golden data. */
export const adapterFolder = (...path: string[]) => join(peft, ...path);

export const loadBase = (name = "llama", loadIn4bit = false): Promise<CausalLM> =>
  AutoModelForCausalLM.fromPretrained(join(peft, "bases", name), { dtype: "float32", loadIn4bit });

export const readJson = (path: string) => JSON.parse(readFileSync(path, "utf8"));

export const prompts = [
  [3, 1, 4, 1, 5],
  [9, 2, 6],
];

/** Logits of `prompts` with the adapters that are active, or a selection of one's own. */
export async function logits(model: CausalLM, adapters?: AdapterSelection): Promise<Float32Array> {
  const tensor = scope(() =>
    model.logits(
      model.hiddenStates(packSequences(prompts, model.device), adapters ? { adapters } : {}),
      adapters ? { adapters } : {},
    ),
  );
  return tensor.readFloat32().finally(() => tensor.dispose());
}

export const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - b[i]!)), 0);
