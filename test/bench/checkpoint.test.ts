import { execFileSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { Linear } from "../../src/nn/linear.js";
import { scope } from "../../src/tensor/scope.js";
import { tempFolder } from "../io/files.js";

it("bench:checkpoint makes a checkpoint in the shapes of a config that loads and quantises", async () => {
  const folder = tempFolder();
  const config = {
    model_type: "llama",
    vocab_size: 100,
    hidden_size: 64,
    intermediate_size: 128,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    tie_word_embeddings: false,
    quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true },
  };
  writeFileSync(join(folder, "shapes.json"), JSON.stringify(config));
  const out = join(folder, "out");
  const root = join(import.meta.dirname, "../..");
  execFileSync(
    process.execPath,
    ["--import", "tsx", join(root, "bench/checkpoint.ts"), "--config", join(folder, "shapes.json"), "--out", out],
    { cwd: root, stdio: "ignore" },
  );
  expect(readdirSync(out).sort()).toEqual(["config.json", "manifest.json", "model.safetensors"]);
  await using model = await AutoModelForCausalLM.fromPretrained(out, { loadIn4bit: true });
  const weights: Float32Array[] = [];
  for (const [, module] of model.modules())
    if (module instanceof Linear && module.weight.fourBitParts) {
      using values = scope(() => module.weight.dequantize("float32"));
      weights.push(await values.readFloat32());
    }
  expect(weights).toHaveLength(14);
  const [first, second] = [weights[0]!, weights[7]!];
  const deviation = Math.sqrt(first.reduce((sum, w) => sum + w * w, 0) / first.length);
  expect(deviation).toBeGreaterThan(0.015);
  expect(deviation).toBeLessThan(0.025);
  expect(first).not.toEqual(second);
});
