import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { getPeftModel, PeftModel } from "../../src/peft/peft-model.js";
import { errorOf, tempFolder } from "../io/files.js";
import { leavesNothing } from "../tensor/live.js";
import { ARGS, collect, countingExamples, TINY } from "../train/tiny.js";
import { readJson } from "./models.js";

const LORA = { r: 2, targetModules: ["q_proj"] };
const load = (folder = TINY, loadIn4bit = false): Promise<CausalLM> =>
  AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32", loadIn4bit });

/** The tiny model with the last bit of its weights changed: no shape differs. */
function otherBase(): string {
  const folder = join(tempFolder(), "other");
  cpSync(TINY, folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const bytes = readFileSync(path);
  bytes[bytes.length - 4]! ^= 1;
  writeFileSync(path, bytes);
  return folder;
}

async function savedAdapter(loadIn4bit = false): Promise<string> {
  const folder = join(tempFolder(), "adapter");
  await using peft = getPeftModel(await load(TINY, loadIn4bit), LORA);
  await peft.savePretrained(folder);
  return folder;
}

const sideFile = (folder: string) => readJson(join(folder, "lowrank_adapter.json"));

describe("the identity of a base", () => {
  it("is the checkpoint's, quantised on loading or not; another content has another", async () => {
    await using dense = await load();
    await using quantised = await load(TINY, true);
    await using other = await load(otherBase());
    expect(await dense.baseHash()).toMatch(/^[0-9a-f]{64}$/);
    expect(await quantised.baseHash()).toBe(await dense.baseHash());
    expect(await other.baseHash()).not.toBe(await dense.baseHash());
  });

  it("is none for weights of no checkpoint", async () => {
    await using fresh = AutoModelForCausalLM.fromConfig(readJson(join(TINY, "config.json")));
    expect(await fresh.baseHash()).toBeNull();

    const folder = otherBase();
    await using replaced = await load(folder);
    const file = join(folder, "model.safetensors");
    const bytes = readFileSync(file);
    rmSync(file);
    expect(await (await load()).baseHash()).not.toBeNull();
    writeFileSync(file, bytes);
    expect(await replaced.baseHash()).toBeNull();

    await using merged = await getPeftModel(await load(), { ...LORA, initLoraWeights: false }).mergeAndUnload();
    expect(await merged.baseHash()).toBeNull();

    await using trained = await load();
    await collect({ model: trained, dataset: countingExamples(2), args: { ...ARGS, maxSteps: 1 } });
    expect(await trained.baseHash()).toBeNull();
  });

  it("stays while an adapter is merged and taken out again", async () => {
    await using peft = getPeftModel(await load(), { ...LORA, initLoraWeights: false });
    const before = await peft.base.baseHash();
    await peft.mergeAdapter();
    peft.unmergeAdapter();
    expect(await peft.base.baseHash()).toBe(before);
  });
});

describe("the side file of an adapter", () => {
  it("names base and quantisation, and leaves adapter_config.json to PEFT", async () => {
    const folder = await savedAdapter(true);
    await using base = await load();
    expect(sideFile(folder)).toEqual({
      format_version: 1,
      base_model_name_or_path: TINY,
      base_hash: await base.baseHash(),
      quantization: { quant_type: "nf4", blocksize: 64, double_quant: true },
    });
    expect(sideFile(await savedAdapter()).quantization).toBeNull();
    expect(JSON.stringify(readJson(join(folder, "adapter_config.json")))).not.toContain("base_hash");
  });

  it("lets an adapter of the 4-bit form onto the same checkpoint in 16 or 32 bits", async () => {
    await using peft = await PeftModel.fromPretrained(await load(), await savedAdapter(true));
    expect(peft.activeAdapters).toEqual(["default"]);
  });

  it("keeps an adapter from another base of the same shapes, unless told, and nothing is left behind", () =>
    leavesNothing(async () => {
      const folder = await savedAdapter();
      await using base = await load(otherBase());
      const error = await errorOf(PeftModel.fromPretrained(base, folder));
      expect(error).toMatchObject({ code: "ADAPTER_MISMATCH", details: { found: await base.baseHash() } });
      expect(error.message).toContain(TINY);
      expect(error.hint).toContain("ignoreMismatchedBase");
      await using peft = await PeftModel.fromPretrained(base, folder, { ignoreMismatchedBase: true });
      expect(peft.activeAdapters).toEqual(["default"]);
    }));

  it("of an adapter that is saved again says what it was trained on, not what it lay on", async () => {
    const folder = await savedAdapter();
    const again = join(tempFolder(), "again");
    await using peft = await PeftModel.fromPretrained(await load(otherBase()), folder, { ignoreMismatchedBase: true });
    await peft.savePretrained(again);
    expect(sideFile(again)).toEqual(sideFile(folder));
    // Trained here, it belongs here.
    await collect({ model: peft, dataset: countingExamples(2), args: { ...ARGS, maxSteps: 1 } });
    const trained = join(tempFolder(), "trained");
    await peft.savePretrained(trained);
    expect(sideFile(trained).base_hash).toBe(await peft.base.baseHash());
  });

  it("may be absent, and is refused when it is damaged", async () => {
    const folder = await savedAdapter();
    const path = join(folder, "lowrank_adapter.json");
    rmSync(path);
    const again = join(tempFolder(), "again");
    await using peft = await PeftModel.fromPretrained(await load(otherBase()), folder);
    await peft.savePretrained(again);
    expect(sideFile(again).base_hash).toBeNull();
    for (const text of ["{", "{}", '{"format_version":1,"base_model_name_or_path":"m","base_hash":"0","quantization":null}']) {
      writeFileSync(path, text);
      expect((await errorOf(peft.loadAdapter(folder, "other"))).code).toBe("INVALID_FILE");
    }
  });
});
