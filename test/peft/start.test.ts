/** Adapters that start from the base's weights, or orthogonal to one another: nothing changes at first, and what is saved means the same elsewhere. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LoraConfig } from "../../src/peft/config.js";
import { getPeftModel, PeftModel } from "../../src/peft/peft-model.js";
import { gaussian } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";
import { adapterFolder, largestDifference, loadBase, logits, readJson } from "./models.js";

const temporary = async (body: (folder: string) => Promise<void>) => {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-start-"));
  await body(folder).finally(() => rmSync(folder, { recursive: true }));
};
const sum = (values: Float32Array) => values.reduce((total, value) => total + Math.abs(value), 0);

describe.each(["pissa", "pissa_niter_4", "olora", "orthogonal"])("init_lora_weights %s", (initLoraWeights) => {
  const config = new LoraConfig({ r: 4, loraAlpha: 6, targetModules: ["q_proj", "down_proj", "lm_head"], initLoraWeights });

  it("changes nothing at first though both matrices are full, by the seed or by the base alone", async () => {
    const model = await loadBase();
    await leavesNothing(async () => {
      const plain = await logits(model);
      const values = [];
      for (const seed of [1, 2]) {
        const peft = await PeftModel.create(model, config, { seed });
        expect(largestDifference(await logits(model), plain)).toBeLessThan(2e-5);
        const { arena, plan } = peft.trainable;
        for (const { key } of plan.tensors) expect(sum(await arena.get(key).readFloat32())).toBeGreaterThan(1e-2);
        values.push(await arena.values.readFloat32());
        peft.unload();
      }
      expect(largestDifference(values[0]!, values[1]!) > 0).toBe(initLoraWeights === "orthogonal");
    });
    model.dispose();
  });

  it("means the same raw, converted to plain LoRA, and merged", async () => {
    const model = await loadBase();
    await leavesNothing(() =>
      temporary(async (folder) => {
        const peft = await PeftModel.create(model, config);
        const { arena } = peft.trainable;
        const start = await arena.values.readFloat32();
        const noise = gaussian(start.length, 3);
        arena.values.upload(start.map((value, i) => value + 0.1 * noise[i]!));
        const on = await logits(model);
        await peft.savePretrained(join(folder, "raw"));
        await peft.savePretrained(join(folder, "plain"), { convertToLora: true });
        for (const name of ["raw", "plain"]) {
          await peft.loadAdapter(join(folder, name), name);
          peft.setAdapter(name);
          expect(largestDifference(await logits(model), on)).toBeLessThan(2e-5);
        }
        const doubled = initLoraWeights === "orthogonal" ? 1 : 2;
        const saved = readJson(join(folder, "plain", "adapter_config.json"));
        expect(saved).toMatchObject({ r: 4 * doubled, lora_alpha: 6 * doubled });
        if (doubled === 2) expect(saved.init_lora_weights).toBe(true);
        await peft.mergeAdapter();
        expect(largestDifference(await logits(model), on)).toBeLessThan(5e-5);
        peft.unload();
      }),
    );
    model.dispose();
  });
});

describe("adapters that start from the base", () => {
  it.each(["pissa", "olora"])("convert %s to what PEFT converts it to", async (init) => {
    await using model = await loadBase();
    const peft = await PeftModel.fromPretrained(model, adapterFolder(`adapter-${init}-raw`, "adapter"));
    await temporary(async (folder) => {
      await peft.savePretrained(folder, { convertToLora: true });
      await peft.loadAdapter(folder, "ours");
      await peft.loadAdapter(adapterFolder(`adapter-${init}-converted`, "adapter"), "theirs");
      peft.setAdapter("theirs");
      const theirs = await logits(model);
      peft.setAdapter("ours");
      expect(largestDifference(await logits(model), theirs)).toBeLessThan(2e-5);
      const config = (path: string) => JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8"));
      for (const key of ["r", "lora_alpha", "init_lora_weights"])
        expect(config(folder)[key]).toEqual(config(adapterFolder(`adapter-${init}-converted`, "adapter"))[key]);
    });
    peft.unload();
  });

  it.each(["pissa", "pissa_niter_1", "olora"])(
    "say how far the start of %s is, and stop at an abort, leaving nothing",
    async (init) => {
      await using model = await loadBase();
      const config = new LoraConfig({ r: 4, targetModules: ["q_proj", "down_proj"], initLoraWeights: init });
      await leavesNothing(async () => {
        const seen: { done: number; total: number }[] = [];
        const peft = await PeftModel.create(model, config, { onProgress: (progress) => seen.push(progress) });
        const total = peft.trainable.plan.pairs.length;
        expect(seen).toEqual(Array.from({ length: total + 1 }, (_, done) => ({ done, total })));
        peft.unload();
        const controller = new AbortController();
        const onProgress = ({ done }: { done: number }) => {
          expect(done).toBeLessThan(2);
          if (done === 1) controller.abort(new Error("enough"));
        };
        const { signal } = controller;
        await expect(PeftModel.create(model, config, { signal, onProgress })).rejects.toThrow("enough");
      });
    },
  );

  it("refuse a 4-bit base, a rank above the matrix's, a synchronous start, and a random one that nobody wrote down", async () => {
    const pissa = (r = 4) => new LoraConfig({ r, targetModules: ["q_proj"], initLoraWeights: "pissa" });
    {
      await using quantized = await loadBase("llama", true);
      await expect(PeftModel.create(quantized, pissa())).rejects.toMatchObject({ code: "UNSUPPORTED" });
    }
    await using model = await loadBase();
    await leavesNothing(async () => {
      await expect(PeftModel.create(model, pissa(65))).rejects.toMatchObject({ code: "INVALID_CONFIG" });
      expect(codeOf(() => getPeftModel(model, pissa()))).toBe("INVALID_ARGUMENT");
      await temporary(async (folder) => {
        const config = new LoraConfig({ r: 4, targetModules: ["q_proj"], initLoraWeights: "pissa_niter_2" });
        const peft = await PeftModel.create(model, config);
        await peft.savePretrained(folder);
        rmSync(join(folder, "lowrank_adapter.json"));
        await expect(peft.loadAdapter(folder, "theirs")).rejects.toMatchObject({ code: "UNSUPPORTED" });
        peft.unload();
      });
    });
  });
});
