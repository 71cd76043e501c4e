import { describe, expect, it } from "vitest";
import { Linear } from "../../src/nn/linear.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { codeOf, leavesNothing } from "../tensor/live.js";
import { adapterFolder, largestDifference, loadBase, logits } from "./models.js";

const a = adapterFolder("adapters-for-swap", "a");

describe("merging", () => {
  it("adds the delta to the weights; unmerging gives the base's bits back", async () => {
    const model = await loadBase();
    await using peft = await PeftModel.fromPretrained(model, a);
    const on = await logits(model);
    const off = await (async () => {
      using _ = peft.disableAdapter();
      return logits(model);
    })();
    await peft.mergeAdapter({ safeMerge: true });
    expect(largestDifference(await logits(model), on)).toBeLessThan(1e-5);
    for (const body of [() => peft.deleteAdapter("default"), () => peft.selectRows([0, 5, 8], [null, null])]) {
      expect(codeOf(body)).toBe("INVALID_ARGUMENT");
    }
    await expect(peft.mergeAdapter()).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    peft.unmergeAdapter();
    expect(await logits(model)).toEqual(on);
    using _ = peft.disableAdapter();
    expect(await logits(model)).toEqual(off);
  });

  it("of two merges at once one is refused, and unmerging still gives the base's bits back", async () => {
    const model = await loadBase();
    await using peft = await PeftModel.fromPretrained(model, a);
    const on = await logits(model);
    const results = await Promise.allSettled([peft.mergeAdapter(), peft.mergeAdapter()]);
    expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    expect(codeOf(() => peft.withAdapter("default", async () => 1))).toBe("INVALID_ARGUMENT");
    peft.unmergeAdapter();
    expect(await logits(model)).toEqual(on);
  });

  it("of a 4-bit base quantises again, or gives dense weights that are exact", async () => {
    for (const dtype of [undefined, "float32"] as const) {
      const model = await loadBase("llama", true);
      const peft = await PeftModel.fromPretrained(model, a);
      const on = await logits(model);
      const merged = await peft.mergeAndUnload(dtype ? { dtype } : {});
      const kinds = new Set<string>();
      for (const [path, module] of merged.modules())
        if (module instanceof Linear && path !== "lm_head") kinds.add(module.weight.kind);
      expect([...kinds]).toEqual([dtype ? "dense" : "4bit"]);
      const moved = largestDifference(await logits(merged), on);
      if (dtype) expect(moved).toBeLessThan(1e-5);
      else expect(moved).toBeGreaterThan(1e-3);
      merged.dispose();
    }
  });

  it("adds scale · lora_bias to the bias, and unmerging gives its bits back", async () => {
    const model = await loadBase("qwen2");
    await leavesNothing(async () => {
      const peft = await PeftModel.fromPretrained(model, adapterFolder("adapter-lora-lorabias", "adapter"));
      const on = await logits(model);
      await peft.mergeAdapter({ safeMerge: true });
      expect(largestDifference(await logits(model), on)).toBeLessThan(1e-5);
      peft.unmergeAdapter();
      expect(await logits(model)).toEqual(on);
      await peft.mergeAdapter();
      peft.unload();
    });
    model.dispose();
  });

  it("refuses lora_bias on linears without a bias, naming them", async () => {
    const model = await loadBase();
    await using peft = await PeftModel.fromPretrained(model, adapterFolder("adapter-lora-lorabias-unmergeable", "adapter"));
    const on = await logits(model);
    const refused = {
      code: "UNSUPPORTED",
      details: { modules: ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"] },
    };
    await expect(peft.mergeAdapter()).rejects.toMatchObject(refused);
    await expect(peft.mergeAndUnload()).rejects.toMatchObject(refused);
    expect(await logits(model)).toEqual(on);
  });

  it("refuses weights that are not finite and then changes nothing", async () => {
    const model = await loadBase();
    await using peft = await PeftModel.fromPretrained(model, a);
    const { arena, plan } = peft.trainable;
    const key = plan.pairs[0]!.b;
    const values = await arena.get(key).readFloat32();
    arena.get(key).upload(values.with(3, Number.POSITIVE_INFINITY));
    await expect(peft.mergeAdapter({ safeMerge: true })).rejects.toMatchObject({ code: "NON_FINITE" });
    arena.get(key).upload(values);
    const on = await logits(model);
    expect(on.every(Number.isFinite)).toBe(true);
    await peft.mergeAdapter({ safeMerge: true });
    expect(largestDifference(await logits(model), on)).toBeLessThan(1e-5);
  });
});
