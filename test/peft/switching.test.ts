import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { getPeftModel, PeftModel } from "../../src/peft/peft-model.js";
import { codeOf, leavesNothing } from "../tensor/live.js";
import { adapterFolder, largestDifference, loadBase, logits, prompts } from "./models.js";

describe("switching adapters", () => {
  let model: CausalLM;
  let peft: PeftModel<CausalLM>;
  beforeEach(async () => {
    model = await loadBase();
    peft = await PeftModel.fromPretrained(model, adapterFolder("adapters-for-swap", "a"), { adapterName: "a" });
    await peft.loadAdapter(adapterFolder("adapters-for-swap", "b"), "b");
  });
  afterEach(() => peft.dispose());

  it("a loaded adapter is not active until it is chosen", async () => {
    expect([...peft.peftConfig.keys()]).toEqual(["a", "b"]);
    expect(peft.activeAdapters).toEqual(["a"]);
    const a = await logits(model);
    peft.setAdapter("b");
    expect(largestDifference(await logits(model), a)).toBeGreaterThan(0.01);
    peft.setAdapter("a");
    expect(await logits(model)).toEqual(a);
  });

  it("disableAdapter gives the base's bits back, nested too, and ends once", async () => {
    const on = await logits(model);
    const outer = peft.disableAdapter();
    const inner = peft.disableAdapter();
    const off = await logits(model);
    expect(off).not.toEqual(on);
    inner[Symbol.dispose]();
    inner[Symbol.dispose]();
    expect(await logits(model)).toEqual(off);
    outer[Symbol.dispose]();
    expect(await logits(model)).toEqual(on);
    const base = await loadBase();
    expect(await logits(base)).toEqual(off);
    base.dispose();
  });

  it("calls under withAdapter keep their adapter while others run", async () => {
    const seen: (string | null | undefined)[] = [];
    const pause = () => new Promise((resolve) => setTimeout(resolve, 2));
    const generate: CausalLM["generate"] = async (_prompt, { adapter } = {}) => {
      await pause();
      seen.push(adapter);
      return String(adapter);
    };
    model.generate = generate;
    const ask = async () => {
      await pause();
      const first = await peft.generate("x");
      await pause();
      return [first, await peft.generate("x")];
    };
    const answers = await Promise.all([
      peft.withAdapter("a", ask),
      peft.withAdapter("b", ask),
      peft.withAdapter(null, () => peft.withAdapter("a", ask)),
      peft.withAdapter(null, ask),
      ask(),
    ]);
    expect(answers).toEqual([
      ["a", "a"],
      ["b", "b"],
      ["a", "a"],
      ["null", "null"],
      ["undefined", "undefined"],
    ]);
    expect(seen).toHaveLength(10);
    expect(peft.activeAdapters).toEqual(["a"]);
  });

  it("an adapter named for a generation answers as the active one would", async () => {
    const options = { maxNewTokens: 12, doSample: false };
    const at = async (name: string) => {
      peft.setAdapter(name);
      return model.generateIds(prompts, options);
    };
    const want = { b: await at("b"), a: await at("a") };
    expect(want.a).not.toEqual(want.b);
    const [a, b, base] = await Promise.all([
      model.generateIds(prompts, { ...options, adapter: "a" }),
      model.generateIds(prompts, { ...options, adapter: "b" }),
      model.generateIds(prompts, { ...options, adapter: null }),
    ]);
    expect({ a, b }).toEqual(want);
    using _ = peft.disableAdapter();
    expect(await model.generateIds(prompts, options)).toEqual(base);
  });

  it("a generation ends with an error when its adapter goes, is replaced or is merged, and with none when others do", async () => {
    const start = async (adapter: string | null) => {
      const tokens = model.stream(prompts[0]!, { adapter, maxNewTokens: 8, doSample: false, eosTokenId: null });
      const { value } = await tokens.next();
      return { tokens, first: value.tokenId as number };
    };
    const rest = async ({ tokens, first }: Awaited<ReturnType<typeof start>>) => {
      const ids = [first];
      for await (const { tokenId } of tokens) ids.push(tokenId);
      return ids;
    };
    const b = adapterFolder("adapters-for-swap", "b");
    const alone = await rest(await start("a"));
    expect(alone).toHaveLength(8);
    const running = { a: await start("a"), base: await start(null), b: await start("b"), again: await start("b") };
    peft.deleteAdapter("b");
    await expect(rest(running.b)).rejects.toMatchObject({ code: "DISPOSED", message: expect.stringContaining("'b'") });
    await peft.loadAdapter(b, "b");
    await expect(rest(running.again)).rejects.toMatchObject({ code: "DISPOSED" });
    expect(await rest(running.a)).toEqual(alone);
    await peft.mergeAdapter();
    await expect(rest(running.base)).rejects.toMatchObject({ code: "DISPOSED", message: expect.stringContaining("merged") });
  });

  it("a mixed batch gives each sequence what it gets alone", async () => {
    const bounds = [0, 5, 8];
    const vocab = model.vocabSize;
    peft.setAdapter("b");
    const b = await logits(model);
    const mixed = await logits(model, peft.selectRows(bounds, [null, "b"]));
    using _ = peft.disableAdapter();
    const base = await logits(model);
    expect(largestDifference(mixed.subarray(0, 5 * vocab), base.subarray(0, 5 * vocab))).toBeLessThan(1e-5);
    expect(largestDifference(mixed.subarray(5 * vocab), b.subarray(5 * vocab))).toBeLessThan(1e-5);
  });

  it("refuses what does not exist, naming what does", async () => {
    expect(() => peft.setAdapter("c")).toThrowError(expect.objectContaining({ code: "NOT_FOUND", hint: "Loaded: a, b." }));
    expect(codeOf(() => peft.deleteAdapter("c"))).toBe("NOT_FOUND");
    expect(codeOf(() => peft.withAdapter("c", async () => 1))).toBe("NOT_FOUND");
    expect(codeOf(() => peft.selectRows([0, 5, 8], ["a"]))).toBe("INVALID_ARGUMENT");
    expect(codeOf(() => peft.addAdapter("../x", peft.peftConfig.get("a")!))).toBe("INVALID_ARGUMENT");
    await expect(peft.loadAdapter(adapterFolder("adapters-for-swap", "a"), "b")).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    expect(codeOf(() => peft.setAdapter(["b", "a", "b"]))).toBe("INVALID_ARGUMENT");
    await expect(peft.mergeAdapter({ adapterNames: ["b", "b"] })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(peft.loadAdapter(adapterFolder("adapters-for-swap"), "c")).rejects.toMatchObject({ code: "NOT_FOUND" });
    expect(peft.activeAdapters).toEqual(["a"]);
  });

  it("deleting the active adapter activates the first that is left", async () => {
    peft.setAdapter("b");
    peft.deleteAdapter("b");
    expect(peft.activeAdapters).toEqual(["a"]);
    peft.deleteAdapter("a");
    expect(peft.activeAdapters).toEqual([]);
    expect(() => peft.trainable).toThrowError(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });
});

describe("memory of adapters", () => {
  it("comes back when an adapter is deleted, unloaded, merged or refused, and with the model", async () => {
    await leavesNothing(async () => {
      const model = await loadBase();
      await leavesNothing(async () => {
        const peft = getPeftModel(model, { r: 3, targetModules: "all-linear" });
        await peft.loadAdapter(adapterFolder("adapters-for-swap", "a"), "a", { isTrainable: true });
        await logits(model);
        peft.deleteAdapter("default");
        await expect(peft.loadAdapter(adapterFolder("error-file-nan", "adapter"), "nan")).rejects.toMatchObject({
          code: "INVALID_FILE",
        });
        await expect(peft.loadAdapter(adapterFolder("error-file-missing-key", "adapter"), "c")).rejects.toMatchObject({
          code: "ADAPTER_MISMATCH",
        });
        await peft.mergeAdapter();
        peft.unload();
      });
      const peft = getPeftModel(model, { r: 3, targetModules: ["q_proj"] });
      await peft.mergeAndUnload({ safeMerge: true });
      peft.dispose();
    });
  });
});
