import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../../src/io/checkpoint.js";
import { decoderTensors, type TensorSpec } from "../../src/models/layout.js";
import { planLoading } from "../../src/models/plan.js";
import { resolveConfig } from "../../src/models/registry.js";
import { goldenFolder } from "../golden/folder.js";

const folder = join(goldenFolder("models"), "llama_sharded", "model");

describe.skipIf(!existsSync(folder))("a checkpoint against its config", () => {
  const plan = async (change: (specs: TensorSpec[]) => TensorSpec[]) => {
    const { config } = resolveConfig(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")));
    const checkpoint = await openCheckpoint(folder);
    try {
      return planLoading(checkpoint, change(decoderTensors(config)), /^nothing$/);
    } finally {
      await checkpoint.close();
    }
  };

  it("is planned in the order of the files", async () => {
    const planned = await plan((specs) => specs);
    const { weight_map: shards } = JSON.parse(readFileSync(join(folder, "model.safetensors.index.json"), "utf8"));
    const order = planned.map((spec) => shards[spec.name]);
    expect(new Set(planned.map((spec) => spec.name))).toEqual(new Set(Object.keys(shards)));
    expect(order.filter((shard, i) => shard !== order[i - 1]).length).toBe(new Set(order).size);
  });

  it("is refused where a 4-bit weight lacks a part, or a tensor holds no floats", async () => {
    const tensors = new Map(
      Object.entries({
        w: { dtype: "U8", shape: [8, 1], begin: 0, end: 8 },
        "w.quant_state.bitsandbytes__nf4": { dtype: "U8", shape: [1], begin: 8, end: 9 },
        n: { dtype: "I32", shape: [2], begin: 9, end: 17 },
      }),
    );
    const specs: TensorSpec[] = [
      { name: "w", shape: [4, 4], kind: "linear" },
      { name: "n", shape: [2], kind: "norm" },
      ...Array.from({ length: 9 }, (_, i) => ({ name: `m${i}`, shape: [1], kind: "norm" as const })),
    ];
    expect(() => planLoading({ folder: "f", tensors } as never, specs, /^$/)).toThrow(
      /10 missing: w\.absmax, m0, .*, m6 and 2 more; 1 of the wrong form: n is I32 \(expected/,
    );
  });

  it("is refused with every missing, unexpected and misshapen tensor named", async () => {
    const wrong = plan((specs) => [
      ...specs
        .filter((spec) => spec.name !== "model.norm.weight")
        .map((spec) => (spec.kind === "head" ? { ...spec, shape: [7, 64] } : spec)),
      { name: "model.extra.weight", shape: [1], kind: "norm" },
    ]);
    await expect(wrong).rejects.toThrow(
      /1 missing: model\.extra\.weight; 1 of the wrong form: lm_head\.weight is \[320,64\] \(expected \[7,64\]\); 1 unexpected: model\.norm\.weight/,
    );
  });
});

it.each(["llama", "qwen2"])("%s: rotary frequencies and a second copy of the head are not asked for", (modelType) => {
  const sizes = { vocab_size: 8, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 1 };
  const { family } = resolveConfig({ model_type: modelType, ...sizes });
  expect("model.layers.0.self_attn.rotary_emb.inv_freq").toMatch(family.weights.ignored);
  expect("lm_head.weight").toMatch(family.weights.ignored);
  expect("model.layers.0.self_attn.q_proj.weight").not.toMatch(family.weights.ignored);
});
