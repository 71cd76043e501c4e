import type { Format } from "../format.js";

/** Loaded one at a time: some make their seeds with a model of their own. The one that takes longest begins. */
export const FORMATS: Readonly<Record<string, () => Promise<Format>>> = {
  checkpoint: async () => (await import("./checkpoint.js")).format,
  safetensors: async () => (await import("./safetensors.js")).format,
  config: async () => (await import("./model.js")).config,
  weights: async () => (await import("./model.js")).weights,
  index: async () => (await import("./model.js")).index,
  tokenizer: async () => (await import("./tokenizer.js")).format,
  adapter: async () => (await import("./adapter.js")).format,
  training: async () => (await import("./training.js")).format,
  dataset: async () => (await import("./dataset.js")).format,
  hub: async () => (await import("./hub.js")).format,
};
