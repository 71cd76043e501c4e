import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import { filesOf } from "../files.js";
import { type Format, noteTaker } from "../format.js";
import { ALL, CONFIG, GENERATION, INDEX, modelFiles, SHARDS, weightsOf } from "../tiny.js";
import { fourBitFiles } from "./four-bit.js";

async function load(folder: string): Promise<void> {
  const model = await AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32", onNote: noteTaker() });
  try {
    const [ids] = await model.generateIds([[1, 5, 7]], { maxNewTokens: 2 });
    if (ids!.length > 2 || !ids!.every((id) => Number.isInteger(id) && id >= 0 && id < model.vocabSize))
      throw new Error(`generated ${ids}`);
  } finally {
    model.dispose();
  }
}

const sharded = Object.fromEntries(Object.entries(SHARDS).map(([name, shapes]) => [name, weightsOf(shapes)]));
const qwen = { ...CONFIG, model_type: "qwen2", use_sliding_window: false, sliding_window: 32, max_window_layers: 2 };
const biases = Object.fromEntries(
  [0, 1].flatMap((i) =>
    [
      ["q", 8],
      ["k", 4],
      ["v", 4],
    ].map(([part, n]) => [`model.layers.${i}.self_attn.${part}_proj.bias`, [n as number]]),
  ),
);

export const config: Format = {
  name: "config",
  seeds: [
    filesOf(modelFiles()),
    filesOf({ "config.json": qwen, "generation_config.json": GENERATION, "model.safetensors": weightsOf({ ...ALL, ...biases }) }),
  ],
  targets: ["config.json", "config.json", "generation_config.json"],
  open: load,
};
export const weights: Format = {
  name: "weights",
  seeds: [filesOf(modelFiles()), filesOf(fourBitFiles())],
  targets: ["model.safetensors"],
  open: load,
};
export const index: Format = {
  name: "index",
  seeds: [filesOf({ "config.json": CONFIG, "model.safetensors.index.json": INDEX, ...sharded })],
  targets: ["model.safetensors.index.json"],
  open: load,
};
