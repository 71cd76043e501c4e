import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { valueAndGrad } from "../../src/autograd/tape.js";
import type { Attention } from "../../src/models/attention.js";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM, ForwardOptions } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { copyInto } from "../../src/ops/copy.js";
import { weightedSum } from "../../src/ops/elementwise.js";
import { ParameterArena } from "../../src/optim/arena.js";
import { getDevice } from "../../src/tensor/device.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { FAMILY_CONFIGS } from "./family-table.js";

const base = {
  vocab_size: 17,
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  initializer_range: 0.3,
};
const sequences = [
  [3, 1, 4, 1, 5, 9, 2, 6],
  [5, 3, 5],
];
const labels = [1, 4, 1, 5, 9, 2, 6, -100, 3, 5, -100];

/** Replaces every parameter of the model by a slice of an arena. */
function train(model: CausalLM): ParameterArena {
  const slots = model.parameterSlots();
  const arena = new ParameterArena(
    slots.map(({ path, tensor }) => ({ name: path, shape: tensor.shape })),
    model.device,
  );
  for (const slot of slots) {
    copyInto(arena.get(slot.path), slot.tensor);
    slot.replace(arena.get(slot.path));
  }
  arena.setTrainable(true);
  return arena;
}

function loss(model: CausalLM, options: ForwardOptions = {}): Tensor {
  const hidden = model.hiddenStates(packSequences(sequences, model.device), options);
  const target = Tensor.from(Int32Array.from(labels), [labels.length], { device: model.device });
  return weightedSum(model.tokenLogProb(hidden, target).value, -1 / 9);
}

describe.each(FAMILY_CONFIGS)("training every parameter of %s", (_, json) => {
  let model: CausalLM;
  let arena: ParameterArena;
  let before: number;
  beforeEach(() => {
    before = getDevice().memory.live;
    model = AutoModelForCausalLM.fromConfig(json, { seed: 7, dtype: "float32" });
    arena = train(model);
  });
  afterEach(() => {
    model.dispose();
    arena.dispose();
    expect(getDevice().memory.live).toBe(before);
  });

  const gradients = async (options: ForwardOptions) => {
    arena.zeroGrad();
    const value = valueAndGrad(() => loss(model, options));
    value.dispose();
    return (await arena.gradients!.read()) as Float32Array;
  };

  it("gives gradients that finite differences confirm, tensor by tensor", async () => {
    const gradient = await gradients({});
    const values = (await arena.values.read()) as Float32Array;
    const at = async (theta: Float32Array) => {
      arena.values.upload(theta);
      using value = scope(() => loss(model));
      return await value.item();
    };
    for (const { name, begin, end } of arena.segments) {
      let slope = 0;
      const step = 4e-3;
      const [up, down] = [values.slice(), values.slice()];
      for (let i = begin; i < end; i++) {
        const direction = Math.sin(i * 12.9898) / Math.sqrt(end - begin);
        slope += gradient[i]! * direction;
        up[i]! += step * direction;
        down[i]! -= step * direction;
      }
      const measured = ((await at(up)) - (await at(down))) / (2 * step);
      expect(Math.abs(measured - slope), `${name}: ${slope} by backward, ${measured} measured`).toBeLessThan(
        2e-4 + 2e-3 * Math.abs(slope),
      );
    }
  });

  it("gives the same bytes when layers are recomputed, and frees everything", async () => {
    const plain = await gradients({});
    const live = model.device.memory.live;
    expect(await gradients({ checkpointing: true })).toEqual(plain);
    expect(model.device.memory.live).toBe(live);
  });
});

it("a model with 4-bit weights cannot be trained as a whole", async () => {
  const model = AutoModelForCausalLM.fromConfig({ ...base, model_type: "llama" });
  const { Weight } = await import("../../src/quant/weight.js");
  const { qProj } = model.model.layers[0]!.selfAttn as Attention;
  const dense = qProj.weight;
  qProj.weight = Weight.quantize4bit(dense.dense!);
  dense.dispose();
  expect(() => model.parameterSlots()).toThrow(/1 linears have 4-bit weights.*self_attn\.q_proj/);
  model.dispose();
});

it("fresh weights have the config's spread, and depend on the seed alone", async () => {
  const make = (seed: number) =>
    AutoModelForCausalLM.fromConfig(
      { ...base, model_type: "llama", hidden_size: 64, vocab_size: 300, initializer_range: 0.05 },
      { seed },
    );
  const [a, b, c] = [make(1), make(1), make(2)];
  const embedding = await a.model.embedTokens.weight.readFloat32();
  const mean = embedding.reduce((sum, x) => sum + x, 0) / embedding.length;
  const deviation = Math.sqrt(embedding.reduce((sum, x) => sum + (x - mean) ** 2, 0) / embedding.length);
  expect(Math.abs(mean)).toBeLessThan((0.05 * 4) / Math.sqrt(embedding.length));
  expect(Math.abs(deviation / 0.05 - 1)).toBeLessThan(0.02);
  expect(await b.model.embedTokens.weight.readFloat32()).toEqual(embedding);
  expect(await c.model.embedTokens.weight.readFloat32()).not.toEqual(embedding);
  expect(Array.from(await a.model.norm.weight.readFloat32())).toEqual(Array(64).fill(1));
  for (const model of [a, b, c]) model.dispose();
});
