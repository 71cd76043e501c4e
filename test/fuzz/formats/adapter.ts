import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import { PeftModel } from "../../../src/peft/peft-model.js";
import { filesOf } from "../files.js";
import { type Format, noteTaker } from "../format.js";
import { ADAPTER, ADAPTER_WEIGHTS, CONFIG, modelFiles, weightsOf } from "../tiny.js";

const base = mkdtempSync(join(tmpdir(), "lowrank-fuzz-base-"));
for (const [name, content] of filesOf(modelFiles())) writeFileSync(join(base, name), content);
const model = await AutoModelForCausalLM.fromPretrained(base, { dtype: "float32" });
rmSync(base, { recursive: true });
const side = { format_version: 1, base_model_name_or_path: "tiny", base_hash: null, quantization: null };
const regex = { ...ADAPTER, target_modules: ".*\\.(q_proj|down_proj)", exclude_modules: ".*\\.gate_proj" };

export const format: Format = {
  name: "adapter",
  seeds: [ADAPTER, regex].map((config) =>
    filesOf({
      "adapter_config.json": config,
      "adapter_model.safetensors": weightsOf(ADAPTER_WEIGHTS),
      "lowrank_adapter.json": side,
    }),
  ),
  targets: ["adapter_config.json", "adapter_config.json", "adapter_model.safetensors", "lowrank_adapter.json"],
  async open(folder) {
    const peft = new PeftModel(model);
    try {
      await peft.loadAdapter(folder, "default", { onNote: noteTaker() });
      const { trainable, all } = peft.parameterCounts();
      if (!(trainable >= 0) || !(all > CONFIG.vocab_size)) throw new Error(`counts ${trainable}, ${all}`);
    } finally {
      peft.unload();
    }
  },
};
