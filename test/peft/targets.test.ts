import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { LoraConfig, type LoraConfigOptions } from "../../src/peft/config.js";
import { resolveTargets } from "../../src/peft/targets.js";
import { goldenFolder } from "../golden/folder.js";
import { llamaModules, peftConfigHandlers } from "../golden/kinds/peft-config.js";
import type { GoldenCase } from "../golden/types.js";

const folder = goldenFolder("peft");
const load = (name: string): GoldenCase => {
  const dir = join(folder, name);
  return { dir, name, spec: JSON.parse(readFileSync(join(dir, "case.json"), "utf8")), options: { device: "cpu" } };
};
const model = llamaModules({ model_type: "llama", num_hidden_layers: 2 });
const problemsOf = (options: LoraConfigOptions): string => {
  try {
    resolveTargets(model, new LoraConfig(options));
    return "none";
  } catch (error) {
    if (error instanceof LowrankError) return error.message;
    throw error;
  }
};

describe("targets", () => {
  it("selects and saves what PEFT does", async () => {
    if (!existsSync(join(folder, "targets"))) return console.warn("not checked: golden peft/targets is absent");
    expect(await peftConfigHandlers.targets!(load("targets"))).toEqual({ ok: true, maxError: 0 });
  });

  it("lists everything that matches nothing, with near misses", () => {
    const message = problemsOf({
      targetModules: ["q_porj", "v_proj"],
      modulesToSave: ["lm_haed"],
      rankPattern: { k_proj: 2 },
      excludeModules: ["x9"],
    });
    expect(message).toMatch(/target_modules: 'q_porj' matches no module; did you mean 'q_proj'/);
    expect(message).toMatch(/modules_to_save: 'lm_haed' matches no module; did you mean 'lm_head'\?/);
    expect(message).toMatch(/rank_pattern: 'k_proj' matches no module that is targeted/);
    expect(message).toMatch(/exclude_modules: 'x9' matches no module/);
    expect(problemsOf({ targetModules: ["v_proj"], layersToTransform: [1, 5] })).toMatch(/layers_to_transform: '5'/);
    expect(problemsOf({ targetModules: ["mlp"] })).toMatch(/not for model.layers.0.mlp \(MLP\)/);
    expect(problemsOf({ targetModules: ["lm_head"], modulesToSave: ["lm_head"] })).toMatch(/no module is left/);
    expect(problemsOf({ targetModules: "all-linear", modulesToSave: ["lm_head"] })).toBe("none");
  });
});
