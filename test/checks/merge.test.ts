/** A merged model beside the unmerged one: what rounding explains passes and is told, what it does not is an error before anything changes. */
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { packSequences } from "../../src/models/batch.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import type { Linear } from "../../src/nn/linear.js";
import * as products from "../../src/ops/matmul.js";
import type { MergeDrift } from "../../src/peft/merge-check.js";
import { getPeftModel, type PeftModel } from "../../src/peft/peft-model.js";
import type { Weight } from "../../src/quant/weight.js";
import { scope } from "../../src/tensor/scope.js";
import { buildOnce, lowrank, makeModel } from "../cli/run.js";
import { goldenFolder } from "../golden/folder.js";
import { readTensors } from "../golden/tensors.js";
import { errorOf, tempFolder } from "../io/files.js";
import { leavesNothing } from "../tensor/live.js";
import { type loadTiny, tinyPeft } from "../train/tiny.js";

vi.mock("../../src/ops/matmul.js", { spy: true });
beforeAll(buildOnce, 120_000);
beforeEach(() => {
  vi.restoreAllMocks();
});

/** Both matrices random, at a size that the adapter matters. */
const randomPeft = async (strength = 8): Promise<PeftModel> => tinyPeft({ initLoraWeights: false, loraAlpha: strength });
const driftOf = async (peft: PeftModel, dtype?: "float32" | "bfloat16" | "float16"): Promise<MergeDrift> => {
  let drift: MergeDrift | undefined;
  await peft.mergeAndUnload({
    ...(dtype && { dtype }),
    onDrift: (measured) => {
      drift = measured;
    },
  });
  return drift!;
};
async function valuesOf(weight: Weight): Promise<Float32Array> {
  using dense = weight.dequantize();
  return dense.readFloat32();
}
async function logitsOf(model: Awaited<ReturnType<typeof loadTiny>>): Promise<Float32Array> {
  using logits = scope(() => model.logits(model.hiddenStates(packSequences([[10, 20, 30, 40, 50]], model.device))));
  return logits.readFloat32();
}

describe("merging", () => {
  it("tells the change that rounding makes, which is that of the dtype", async () => {
    for (const [dtype, low, high] of [
      ["float32", 0, 1e-6],
      ["float16", 2 ** -13, 2 ** -11],
      ["bfloat16", 2 ** -10.5, 2 ** -8.5],
    ] as const) {
      await using peft = await randomPeft();
      const drift = await driftOf(peft, dtype);
      // The head has no adapter, it is only rounded.
      expect(drift.linears).toBe(dtype === "float32" ? 14 : 15);

      expect(drift.rounding).toBeGreaterThanOrEqual(low);
      expect(drift.rounding).toBeLessThan(high);
      expect(drift.worst.rounding).toBeGreaterThanOrEqual(drift.rounding);
      expect(drift.worst.path).toMatch(/^model\.layers\.\d\./);
    }
  });

  it("the estimate is the one that the weights themselves give", async () => {
    await using peft = await randomPeft();
    const before = new Map<string, Float32Array>();
    const pairs = peft.trainable.plan.pairs;
    for (const { module, a, b, scale, rank } of pairs) {
      const linear = new Map(peft.base.modules()).get(module) as Linear;
      const w = await valuesOf(linear.weight);
      const [A, B] = [await peft.trainable.arena.get(a).readFloat32(), await peft.trainable.arena.get(b).readFloat32()];
      const width = linear.weight.inFeatures;
      before.set(
        module,
        w.map((value, i) => {
          let sum = 0;
          for (let k = 0; k < rank; k++) sum += B[Math.floor(i / width) * rank + k]! * A[k * width + (i % width)]!;
          return value + scale * sum;
        }),
      );
    }
    let drift: MergeDrift | undefined;
    const model = await peft.mergeAndUnload({
      dtype: "bfloat16",
      onDrift: (d) => {
        drift = d;
      },
    });
    let [error, size] = [0, 0];
    for (const [module, wanted] of before) {
      const linear = new Map(model.modules()).get(module) as Linear;
      const merged = await valuesOf(linear.weight);
      for (const [i, value] of wanted.entries()) {
        error += (merged[i]! - value) ** 2;
        size += value ** 2;
      }
    }
    expect(drift!.rounding / Math.sqrt(error / size)).toBeGreaterThan(0.8);
    expect(drift!.rounding / Math.sqrt(error / size)).toBeLessThan(1.25);
  });

  it("a 4-bit base that is quantised again loses what a weak adapter changes; a dense form keeps it", async () => {
    const quantized = async (lora: { loraAlpha: number }) => {
      const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny", { loadIn4bit: true });
      return getPeftModel(model, { r: 4, ...lora, targetModules: "all-linear", initLoraWeights: false });
    };
    // Small beside the steps of the code book: most values round back to where they were.
    const weak = { loraAlpha: 0.02 };
    await using same = await quantized(weak);
    expect((await driftOf(same as never)).kept).toBeLessThan(0.5);
    await using dense = await quantized(weak);
    const drift = await driftOf(dense as never, "float32");
    expect(drift.kept).toBeCloseTo(1, 3);
    await using strong = await quantized({ loraAlpha: 32 });
    const again = await driftOf(strong as never);
    expect(again.kept).toBeGreaterThan(0.9);
    expect(again.rounding).toBeGreaterThan(0.05);
    expect(again.rounding).toBeLessThan(0.2);
  });

  it("several adapters at once", async () => {
    await using peft = await randomPeft();
    peft.addAdapter("second", peft.peftConfig.get("default")!, { seed: 7 });
    peft.setAdapter(["default", "second"]);
    const before = await logitsOf(peft.base as never);
    expect((await driftOf(peft)).rounding).toBeLessThan(1e-6);
    const after = await logitsOf(peft.base as never);
    expect(Math.max(...after.map((value, i) => Math.abs(value - before[i]!)))).toBeLessThan(1e-4);
  });

  it("a fresh adapter changes nothing; nothing to merge is no drift", async () => {
    await using fresh = await tinyPeft();
    expect((await driftOf(fresh, "bfloat16")).kept).toBeNaN();
    await using none = await tinyPeft();
    none.setAdapter([]);
    expect(await driftOf(none)).toEqual({ linears: 0, rounding: 0, worst: { path: "", rounding: 0 }, kept: Number.NaN });
  });

  it("refuses a weight that is wrong in one row, and changes nothing", () =>
    leavesNothing(async () => {
      await using peft = await randomPeft();
      const before = await logitsOf(peft.base as never);
      let calls = 0;
      vi.mocked(products.matmul).mockImplementation((b, a) => {
        calls++;
        const y = realMatmul(b, a);
        if (calls === 5) y.slice(0, 1).upload(new Float32Array(y.shape[1]!).fill(1));
        return y;
      });
      const error = await errorOf(peft.mergeAndUnload({ dtype: "bfloat16" }));
      vi.mocked(products.matmul).mockReset();
      expect(error.code).toBe("NATIVE");
      expect(error.message).toMatch(
        /merged weight of model\.layers\.0\.\S+ differs from its base with the adapter by .* rounding explains/,
      );
      expect(await logitsOf(peft.base as never)).toEqual(before);
      expect(peft.activeAdapters).toEqual(["default"]);
    }));

  it("refuses values that the dtype cannot hold, also without safeMerge", async () => {
    await using peft = await randomPeft(1e9);
    const before = await logitsOf(peft.base as never);
    expect(await errorOf(peft.mergeAndUnload({ dtype: "float16" }))).toMatchObject({ code: "NON_FINITE" });
    expect(await logitsOf(peft.base as never)).toEqual(before);
  });
});

const realMatmul = await vi.importActual<typeof products>("../../src/ops/matmul.js").then(({ matmul }) => matmul);

describe("lowrank merge", () => {
  it("into 16-bit files says the drift of the weights", async () => {
    const folder = tempFolder();
    const model = await makeModel(join(folder, "model"));
    const save = async (peft: PeftModel, name: string) => {
      await peft.savePretrained(join(folder, name));
      peft.dispose();
    };
    await save(
      getPeftModel(await AutoModelForCausalLM.fromPretrained(model), {
        r: 4,
        targetModules: "all-linear",
        initLoraWeights: false,
      }),
      "good",
    );
    await save(getPeftModel(await AutoModelForCausalLM.fromPretrained(model), { r: 4, targetModules: "all-linear" }), "fresh");
    await save(
      getPeftModel(await AutoModelForCausalLM.fromPretrained("lowrank/tiny"), {
        r: 4,
        loraAlpha: 1e-3,
        targetModules: "all-linear",
        initLoraWeights: false,
      }),
      "weak",
    );
    // What changes less than half a step of bfloat16 in weights that are bfloat16 rounds back.
    const merge = (adapter: string, ...more: string[]) =>
      lowrank([
        "merge",
        "--model",
        adapter === "weak" ? "lowrank/tiny" : model,
        "--adapter",
        join(folder, adapter),
        "--out",
        join(folder, `${adapter}${more.join("")}`, "merged"),
        ...more,
      ]);
    const good = await merge("good");
    expect(good).toMatchObject({ code: 0 });
    expect(good.stderr).toMatch(
      /Merged 14 linears: rounding to bfloat16 changes their outputs by 0\.\d+ %, at most 0\.\d+ % \(model\.\S+\); \d+ % of what the adapter changes is kept\nSaved in/,
    );
    expect(good.stderr).not.toContain("warning");
    expect((await merge("fresh")).stderr).toMatch(/warning: The adapter changes nothing/);
    expect((await merge("weak")).stderr).toMatch(
      /warning: Rounding takes away much of what the adapter changes\n {2}→ Merge with --dtype float32/,
    );
    expect((await merge("weak", "--dtype", "float32")).stderr).not.toContain("warning");
    expect(existsSync(join(folder, "good/merged/model.safetensors"))).toBe(true);
  });

  it("into a model of 4-bit weights says the drift of the logits too, before anything is saved", async () => {
    const folder = tempFolder();
    const model = join(goldenFolder("peft"), "qlora-nf4/model");
    const peft = getPeftModel(await AutoModelForCausalLM.fromPretrained(model), {
      r: 4,
      targetModules: "all-linear",
      initLoraWeights: false,
    });
    await peft.savePretrained(join(folder, "adapter"));
    peft.dispose();
    const out = join(folder, "merged");
    const { code, stderr } = await lowrank(["merge", "--model", model, "--adapter", join(folder, "adapter"), "--out", out]);
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /Merged \d+ linears: rounding to bfloat16 .* is kept\nMerged against unmerged, on 28 tokens of text: logits differ by [\d.e-]+ on average, [\d.e-]+ at most; the most likely token is the same in \d+ of 28 places\n[\s\S]*Saved in/,
    );
    expect(JSON.parse(readFileSync(join(out, "config.json"), "utf8"))).not.toHaveProperty("quantization_config");
  });

  it("keeps float16 files float16, takes the adapter's tokenizer, and leaves nothing where it is refused", async () => {
    const folder = tempFolder();
    const model = await makeModel(join(folder, "model"));
    await using dense = await AutoModelForCausalLM.fromPretrained(model);
    await dense.savePretrained(join(folder, "half"), { dtype: "float16" });
    const half = join(folder, "half");
    const peft = getPeftModel(await AutoModelForCausalLM.fromPretrained(half), {
      r: 4,
      targetModules: "all-linear",
      initLoraWeights: false,
    });
    await peft.savePretrained(join(folder, "adapter"));
    peft.dispose();
    for (const name of readdirSync(half).filter((name) => /token|chat/.test(name)))
      cpSync(join(half, name), join(folder, "adapter", name));
    writeFileSync(join(folder, "adapter/chat_template.jinja"), "its own {{ messages[0].content }}");
    const merge = (base: string, ...more: string[]) =>
      lowrank(["merge", "--model", base, "--adapter", join(folder, "adapter"), "--out", join(folder, "merged"), ...more]);
    const refused = await merge(model);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("--ignore-mismatched-base");
    expect(existsSync(join(folder, "merged"))).toBe(false);
    expect(await merge(half)).toMatchObject({ code: 0, stderr: expect.stringContaining("rounding to float16") });
    const dtypes = new Set([...readTensors(join(folder, "merged/model.safetensors")).values()].map(({ dtype }) => dtype));
    expect([...dtypes]).toEqual(["F16"]);
    expect(readFileSync(join(folder, "merged/chat_template.jinja"), "utf8")).toContain("its own");
  });
});
