import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import { CONFIG } from "../tiny.js";

const folder = mkdtempSync(join(tmpdir(), "lowrank-fuzz-4bit-"));
const wide = { ...CONFIG, hidden_size: 32, intermediate_size: 64, head_dim: 16 };
const model = AutoModelForCausalLM.fromConfig(wide, { dtype: "float32", seed: 1 });
await model.savePretrained(join(folder, "dense"));
model.dispose();
const quantized = await AutoModelForCausalLM.fromPretrained(join(folder, "dense"), { dtype: "float32", loadIn4bit: true });
await quantized.savePretrained(join(folder, "nf4"));
quantized.dispose();
const files = Object.fromEntries(
  ["config.json", "model.safetensors"].map((name) => [name, readFileSync(join(folder, "nf4", name))]),
);
rmSync(folder, { recursive: true });

/** A model in bitsandbytes' form, as this package saves it. */
export const fourBitFiles = (): Record<string, Buffer> => files;
