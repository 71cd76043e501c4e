/** An adapter merged into the files of its base, tensor by tensor. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { mergeIntoCheckpoint } from "../../src/peft/merge-checkpoint.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { readTensors } from "../golden/tensors.js";
import { tempFolder } from "../io/files.js";
import { adapterFolder, largestDifference, logits, readJson } from "./models.js";

describe("mergeIntoCheckpoint", () => {
  it.each(["pissa", "olora"])("takes what a %s adapter started from out of the tensors it is merged into", async (init) => {
    const folder = tempFolder();
    const adapter = adapterFolder(`adapter-${init}-raw`, "adapter");
    const base = adapterFolder(readJson(adapterFolder(`adapter-${init}-raw`, "case.json")).base);
    const bare = await AutoModelForCausalLM.fromPretrained(base, { dtype: "float32" });
    const off = await logits(bare);
    await using peft = await PeftModel.fromPretrained(bare, adapter);
    const on = await logits(peft.base);
    expect(largestDifference(off, on)).toBeGreaterThan(1e-2);
    const to = join(folder, "merged");
    await mergeIntoCheckpoint(base, adapter, to);
    await using merged = await AutoModelForCausalLM.fromPretrained(to, { dtype: "float32" });
    expect(largestDifference(await logits(merged), on)).toBeLessThan(1e-4);
  });

  it("writes another dtype where one is asked for, tensors that no adapter touches too", async () => {
    const folder = tempFolder();
    const adapter = adapterFolder("adapters-for-swap", "a");
    const base = adapterFolder("bases", "llama");
    await mergeIntoCheckpoint(base, adapter, join(folder, "own"));
    await mergeIntoCheckpoint(base, adapter, join(folder, "half"), { dtype: "bfloat16" });
    const config = readJson(join(folder, "half/config.json"));
    expect(config.dtype ?? config.torch_dtype).toBe("bfloat16");
    const [own, half] = ["own", "half"].map((name) => readTensors(join(folder, name, "model.safetensors")));
    expect([...half!.keys()]).toEqual([...own!.keys()]);
    for (const [name, { dtype, data }] of half!) {
      expect(dtype, name).toBe("BF16");
      const exact = own!.get(name)!.data;
      const size = Math.max(...Array.from(exact, Math.abs));
      expect(Math.max(...Array.from(data, (x, i) => Math.abs(x - exact[i]!))) / size, name).toBeLessThan(2 ** -8);
    }
  });
});
