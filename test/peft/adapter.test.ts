import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { getPeftModel, PeftModel } from "../../src/peft/peft-model.js";
import { readTensors } from "../golden/tensors.js";
import { codeOf } from "../tensor/live.js";
import { adapterFolder, largestDifference, loadBase, logits, readJson } from "./models.js";

describe("adapter files", () => {
  let model: CausalLM;
  let folder: string;
  beforeAll(async () => {
    model = await loadBase();
    folder = mkdtempSync(join(tmpdir(), "lowrank-adapter-"));
  });
  afterAll(() => {
    model.dispose();
    rmSync(folder, { recursive: true, force: true });
  });

  it.each(["adapter-lora-qv", "adapter-lora-patterns", "adapter-lora-rslora", "adapter-lora-lorabias-unmergeable"])(
    "%s is written with the tensors it was read with",
    async (name) => {
      const source = adapterFolder(name, "adapter");
      const peft = await PeftModel.fromPretrained(model, source);
      const target = join(folder, name);
      await peft.savePretrained(target);
      const before = await logits(model);
      peft.unload();
      expect(readTensors(join(target, "adapter_model.safetensors"))).toEqual(
        readTensors(join(source, "adapter_model.safetensors")),
      );
      const [written, read] = [readJson(join(target, "adapter_config.json")), readJson(join(source, "adapter_config.json"))];
      for (const key of Object.keys(written)) if (key !== "target_modules") expect([key, written[key]]).toEqual([key, read[key]]);
      expect([written.target_modules].flat().sort()).toEqual([read.target_modules].flat().sort());
      const again = await PeftModel.fromPretrained(model, target);
      expect(await logits(model)).toEqual(before);
      again.unload();
    },
  );

  it("named adapters go into folders of their names, only those that are asked for", async () => {
    const peft = getPeftModel(model, { r: 2, targetModules: ["q_proj"] }, { adapterName: "style" });
    peft.addAdapter("tone", peft.peftConfig.get("style")!);
    const both = join(folder, "both");
    await peft.savePretrained(both);
    expect(["style", "tone"].map((name) => existsSync(join(both, name, "adapter_model.safetensors")))).toEqual([true, true]);
    expect(existsSync(join(both, "adapter_config.json"))).toBe(false);
    const one = join(folder, "one");
    await peft.savePretrained(one, { selectedAdapters: ["tone"] });
    expect(readdirSync(one).filter((name) => name === "style")).toEqual([]);
    peft.unload();
    const loaded = await PeftModel.fromPretrained(model, both, { subfolder: "style", adapterName: "s" });
    expect(loaded.activeAdapters).toEqual(["s"]);
    loaded.unload();
  });

  it("a fresh adapter changes nothing, and the same seed starts with the same bits", async () => {
    const base = await logits(model);
    const start = async (seed: number) => {
      const peft = getPeftModel(model, { r: 4, targetModules: "all-linear" }, { seed });
      const values = await peft.trainable.arena.values.readFloat32();
      expect(largestDifference(await logits(model), base)).toBe(0);
      peft.unload();
      return values;
    };
    const first = await start(1);
    expect(await start(1)).toEqual(first);
    expect(await start(2)).not.toEqual(first);
  });

  it("A starts uniform in ±1/√in, or normal with deviation 1/r; B at zero unless asked otherwise", async () => {
    const stats = async (initLoraWeights: boolean | string, role: "lora_A" | "lora_B") => {
      const peft = getPeftModel(model, { r: 16, targetModules: ["down_proj"], initLoraWeights: initLoraWeights as boolean });
      const { plan, arena } = peft.trainable;
      const values = await arena.get(plan.tensors.find((tensor) => tensor.role === role)!.key).readFloat32();
      peft.unload();
      const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length;
      return { largest: Math.max(...values.map(Math.abs)), deviation: Math.sqrt(variance) };
    };
    const bound = 1 / Math.sqrt(192);
    const uniform = await stats(true, "lora_A");
    expect(uniform.largest).toBeLessThanOrEqual(bound);
    expect(uniform.deviation / (bound / Math.sqrt(3))).toBeCloseTo(1, 1);
    expect((await stats("gaussian", "lora_A")).deviation * 16).toBeCloseTo(1, 1);
    expect((await stats(true, "lora_B")).largest).toBe(0);
    expect((await stats(false, "lora_B")).deviation).toBeGreaterThan(0.05);
  });

  it("says all that does not fit at once", async () => {
    const load = (path: string) => PeftModel.fromPretrained(model, path).catch((error: unknown) => error);
    expect(await load(adapterFolder("error-file-missing-module", "adapter"))).toMatchObject({
      code: "ADAPTER_MISMATCH",
      details: { missing: [expect.stringContaining("lora_A"), expect.stringContaining("lora_B")] },
    });
    expect(await load(adapterFolder("error-file-b-wrong-out", "adapter"))).toMatchObject({
      code: "ADAPTER_MISMATCH",
      message: expect.stringMatching(/wrong shape: .*lora_B\.weight is \[\d+, \d+\], .* want \[\d+, \d+\]/),
    });
    const nothing = join(folder, "nothing");
    cpSync(adapterFolder("adapter-lora-qv", "adapter"), nothing, { recursive: true });
    const config = join(nothing, "adapter_config.json");
    writeFileSync(config, JSON.stringify({ ...JSON.parse(readFileSync(config, "utf8")), target_modules: [] }));
    expect(await load(nothing)).toMatchObject({
      code: "INVALID_CONFIG",
      message: `${config}: target_modules must be given: it is empty`,
    });
    const pickle = join(folder, "pickle");
    cpSync(adapterFolder("adapter-lora-qv", "adapter"), pickle, { recursive: true });
    rmSync(join(pickle, "adapter_model.safetensors"));
    writeFileSync(join(pickle, "adapter_model.bin"), "PK");
    expect(await load(pickle)).toMatchObject({ message: expect.stringMatching(/pickle/i) });
    expect(await load(join(folder, "absent"))).toMatchObject({ code: "NOT_FOUND" });
    expect(model.adapters).toEqual({ names: [] });
  });

  it("loads, with a note, what was trained with entries that matched nothing, and combines and saves it", async () => {
    const copy = join(folder, "unmatched");
    cpSync(adapterFolder("adapter-lora-qv", "adapter"), copy, { recursive: true });
    const config = readJson(join(copy, "adapter_config.json"));
    const more = { target_modules: [...config.target_modules, "Wqkv"], rank_pattern: { k_proj: 2 }, exclude_modules: ["x9"] };
    writeFileSync(join(copy, "adapter_config.json"), JSON.stringify({ ...config, ...more }));
    const notes: string[] = [];
    const peft = await PeftModel.fromPretrained(model, copy, { onNote: (note) => notes.push(note) });
    expect(notes).toEqual([
      expect.stringMatching(/match no module .*: target_modules Wqkv, exclude_modules x9.*, rank_pattern k_proj/),
    ]);
    const on = await logits(model);
    await peft.loadAdapter(adapterFolder("adapter-lora-qv", "adapter"), "plain");
    await peft.addWeightedAdapter(["default", "plain"], [0.5, 0.5], "mean");
    for (const name of ["plain", "mean"]) {
      peft.setAdapter(name);
      expect(largestDifference(await logits(model), on)).toBeLessThan(2e-5);
    }
    await peft.savePretrained(join(folder, "unmatched-again"), { selectedAdapters: ["default"] });
    peft.unload();
    // Unlike the file of an adapter that exists, a new one must mean what it names.
    expect(codeOf(() => getPeftModel(model, { targetModules: ["q_proj", "Wqkv"] }))).toBe("ADAPTER_MISMATCH");
  });

  it("orthogonal starts need even ranks, those of patterns too, where a linear has them", () => {
    const config = { targetModules: ["q_proj", "v_proj"], initLoraWeights: "orthogonal" as const };
    expect(() => getPeftModel(model, { ...config, r: 4, rankPattern: { q_proj: 3 } })).toThrow(
      /orthogonal initialisation needs an even rank, found 3 for model.layers.0.self_attn.q_proj/,
    );
    expect(codeOf(() => getPeftModel(model, { ...config, r: 3 }))).toBe("INVALID_CONFIG");
    getPeftModel(model, { ...config, r: 3, rankPattern: { "[qv]_proj": 2 } }).unload();
  });
});
