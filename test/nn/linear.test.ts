import { describe, expect, it } from "vitest";
import { valueAndGrad } from "../../src/autograd/tape.js";
import { loadAddon } from "../../src/native/load.js";
import { AdapterPart, LoraPair } from "../../src/nn/adapter-part.js";
import { Embedding } from "../../src/nn/embedding.js";
import { type ForwardMode, gated, Linear, linear } from "../../src/nn/linear.js";
import { Module } from "../../src/nn/module.js";
import { RMSNorm } from "../../src/nn/rms-norm.js";
import { weightedSum } from "../../src/ops/elementwise.js";
import { glu } from "../../src/ops/glu.js";
import { Weight } from "../../src/quant/weight.js";
import { startMicroStep } from "../../src/tensor/random.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { matrix, linear as referenceLinear, type Segment } from "../reference/linear.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";

const [rows, k, n] = [6, 17, 9];
const x = gaussian(rows * k, 1);
const w = gaussian(n * k, 2);
const RANKS = { one: 2, two: 3 };
type Name = keyof typeof RANKS;
const pairOf = (name: Name) => {
  const r = RANKS[name];
  return { a: matrix(r, k, gaussian(r * k, 10 + r)), b: matrix(n, r, gaussian(n * r, 20 + r)), scale: r / 2 };
};

function layerWithAdapters(dropout = 0): Linear {
  const layer = new Linear(Weight.dense(Tensor.from(w, [n, k])));
  for (const name of Object.keys(RANKS) as Name[]) {
    const { a, b, scale } = pairOf(name);
    const tensor = ({ rows, columns, at }: typeof a) => Tensor.from(Float32Array.from(at), [rows, columns]);
    layer.adapters.parts.set(name, new AdapterPart({ pair: new LoraPair(tensor(a), tensor(b), scale, dropout) }));
  }
  return layer;
}

async function forward(layer: Linear, mode: ForwardMode): Promise<Float32Array> {
  const y = scope(() => linear(Tensor.from(x, [rows, k]), [layer], mode)[0]!);
  const values = await y.readFloat32();
  y.dispose();
  return values;
}

const ones = matrix(rows, k, new Float64Array(rows * k).fill(1));
const expected = (segments: readonly Segment[]) =>
  referenceLinear(matrix(rows, k, x), { w: matrix(n, k, w), dy: matrix(rows, n), segments }, ones).at;
const segment = (name: Name, begin = 0, end = rows): Segment => ({ begin, end, ...pairOf(name) });

describe("linear", () => {
  it("uses the adapters that the call selects, and by default none", () =>
    leavesNothing(async () => {
      const layer = layerWithAdapters();
      const base = await forward(layer, {});
      expect(relativeError(base, expected([]))).toBeLessThan(2e-6);
      expect(await forward(layer, { adapters: { names: ["absent"] } })).toEqual(base);
      for (const name of ["one", "two"] as const) {
        expect(relativeError(await forward(layer, { adapters: { names: [name] } }), expected([segment(name)]))).toBeLessThan(
          2e-6,
        );
      }
      expect(await forward(layer, { adapters: { names: [] } })).toEqual(base);
      layer.dispose();
    }));

  it("sums several adapters on the same rows", () =>
    leavesNothing(async () => {
      const layer = layerWithAdapters();
      const both = await forward(layer, { adapters: { names: ["one", "two"] } });
      const one = expected([segment("one")]);
      const two = expected([segment("two")]);
      const base = expected([]);
      expect(
        relativeError(
          both,
          one.map((v, i) => v + two[i]! - base[i]!),
        ),
      ).toBeLessThan(3e-6);
      layer.dispose();
    }));

  it("gives each range of rows its own adapter", () =>
    leavesNothing(async () => {
      const layer = layerWithAdapters();
      const ranges = [
        { begin: 0, end: 2, name: "two" },
        { begin: 2, end: 3, name: null },
        { begin: 3, end: 6, name: "one" },
      ];
      const y = await forward(layer, { adapters: { rows: ranges } });
      expect(relativeError(y, expected([segment("two", 0, 2), segment("one", 3, 6)]))).toBeLessThan(2e-6);
      using input = Tensor.from(x, [rows, k]);
      expect(codeOf(() => linear(input, [layer], { adapters: { rows: [{ begin: 0, end: 7, name: "one" }] } }))).toBe(
        "SHAPE_MISMATCH",
      );
      expect(codeOf(() => linear(input, [layer], { adapters: { rows: ranges }, training: true }))).toBe("UNSUPPORTED");
      layer.dispose();
    }));

  it.each([false, true])("adds a residual once, whatever acts on the layer; DoRA does not turn it: %s", (turns) =>
    leavesNothing(async () => {
      const layer = layerWithAdapters();
      const parts = layer.adapters.parts;
      const { pair } = parts.get("two")!;
      if (turns) {
        const magnitude = Tensor.from(gaussian(n, 6), [n]);
        parts.set("two", new AdapterPart({ pair: new LoraPair(pair!.a, pair!.b, pair!.scale, 0, undefined, false, magnitude) }));
      }
      const residual = gaussian(rows * n, 7);
      const selections: ForwardMode["adapters"][] = [
        { names: [] },
        { names: ["one"] },
        { names: ["two"] },
        { names: ["one", "two"] },
        {
          rows: [
            { begin: 1, end: 3, name: "two" },
            { begin: 3, end: 6, name: "one" },
          ],
        },
      ];
      for (const adapters of selections) {
        const plain = await forward(layer, { adapters: adapters! });
        using y = scope(() => {
          const [input, added] = [Tensor.from(x, [rows, k]), Tensor.from(residual, [rows, n])];
          return linear(input, [layer], { adapters: adapters! }, "", added)[0]!;
        });
        const sum = plain.map((v, i) => v + residual[i]!);
        expect(relativeError(await y.readFloat32(), sum)).toBeLessThan(2e-6);
      }
      layer.dispose();
    }),
  );

  it.each([
    ["plain pairs", {}, false],
    ["DoRA", { magnitude: true }, true],
    ["lora_bias", { bias: true }, true],
  ] as const)("ends as a gated linear unit in the same call where nothing is left to do to gate or up: %s", (_, kind, alone) =>
    leavesNothing(async () => {
      const layers = [layerWithAdapters(), layerWithAdapters()] as const;
      const { pair } = layers[1].adapters.parts.get("two")!;
      const vector = (on: boolean | undefined) => (on ? Tensor.from(gaussian(n, 6), [n]) : undefined);
      const part = new LoraPair(pair!.a, pair!.b, pair!.scale, 0, vector("bias" in kind), false, vector("magnitude" in kind));
      layers[1].adapters.parts.set("two", new AdapterPart({ pair: part }));
      const ranges = [
        { begin: 1, end: 3, name: "two" },
        { begin: 3, end: 6, name: "one" },
      ];
      // Of several adapters all but the first are added to y.
      const selections: [ForwardMode["adapters"], boolean][] = [
        [{ names: [] }, false],
        [{ names: ["one"] }, false],
        [{ names: ["two"] }, alone],
        [{ names: ["one", "two"] }, true],
        [{ rows: ranges }, alone],
      ];
      const { profile } = loadAddon();
      for (const [adapters, separately] of selections) {
        using input = Tensor.from(x, [rows, k]);
        const mode = { adapters: adapters! };
        using separate = scope(() => glu(linear(input, [layers[0]], mode)[0]!, linear(input, [layers[1]], mode)[0]!, "silu"));
        const expected = await separate.readFloat32();
        profile(input.device.number, true);
        using y = scope(() => gated(input, ...layers, "silu", mode, ""));
        const values = await y.readFloat32();
        expect("glu" in profile(input.device.number, false), JSON.stringify(adapters)).toBe(separately);
        expect(relativeError(values, expected)).toBeLessThan(2e-6);
      }
      for (const layer of layers) layer.dispose();
    }),
  );

  it("drops inputs only while training, anew in every micro-step", () =>
    leavesNothing(async () => {
      const layer = layerWithAdapters(0.5);
      const adapters = { names: ["one"] };
      const still = await forward(layer, { adapters });
      expect(relativeError(still, expected([segment("one")]))).toBeLessThan(2e-6);
      const train = (microStep: number) => {
        startMicroStep(1, microStep);
        return forward(layer, { adapters, training: true });
      };
      const first = await train(0);
      expect(first).not.toEqual(still);
      expect(await train(0)).toEqual(first);
      expect(await train(1)).not.toEqual(first);
      layer.dispose();
    }));

  it("adds scale · lora_bias on the adapter's rows, whatever dropout does, and trains it", () =>
    leavesNothing(async () => {
      for (const dropout of [0, 0.5]) {
        const layer = layerWithAdapters(dropout);
        const part = layer.adapters.parts.get("two")!;
        const plain = part.pair!;
        const values = gaussian(n, 5);
        const bias = Tensor.from(Float32Array.from(values), [n]);
        const pair = new LoraPair(plain.a.retain(), plain.b.retain(), plain.scale, dropout, bias);
        const biased = new AdapterPart({ pair });
        const run = (part: AdapterPart, mode: ForwardMode) => {
          layer.adapters.parts.set("two", part);
          startMicroStep(1, 0);
          return forward(layer, mode);
        };
        const added = (with_: Float32Array, without: Float32Array) => with_.map((v, i) => v - without[i]!);
        const want = (begin: number, end: number) =>
          Float64Array.from({ length: rows * n }, (_, i) => (i >= begin * n && i < end * n ? plain.scale * values[i % n]! : 0));
        const modes: [ForwardMode, number, number][] = [
          [{ adapters: { names: ["two"] }, training: true }, 0, rows],
          [{ adapters: { rows: [{ begin: 1, end: 4, name: "two" }] } }, 1, 4],
          [{ adapters: { names: ["one", "two"] } }, 0, rows],
        ];
        for (const [mode, begin, end] of modes)
          expect(relativeError(added(await run(biased, mode), await run(part, mode)), want(begin, end))).toBeLessThan(1e-5);

        part.dispose();
        layer.adapters.parts.set("two", biased);
        for (const tensor of biased.tensors) {
          tensor.requiresGrad = true;
          tensor.grad = Tensor.zeros(tensor.shape);
        }
        const weights = gaussian(rows * n, 6);
        scope(() => {
          const input = Tensor.from(x, [rows, k]);
          const dy = Tensor.from(Float32Array.from(weights), [rows, n]);
          valueAndGrad(() => weightedSum(linear(input, [layer], { adapters: { names: ["two"] }, training: true })[0]!, 1, dy));
        });
        const sums = new Float64Array(n);
        for (const [i, weight] of weights.entries()) sums[i % n]! += plain.scale * weight;
        expect(relativeError(await bias.grad!.readFloat32(), sums)).toBeLessThan(2e-6);
        for (const tensor of biased.tensors) tensor.grad!.dispose();
        layer.dispose();
      }
    }));

  it("trains several adapters at once", () =>
    leavesNothing(async () => {
      const layer = layerWithAdapters();
      const tensors = [...layer.adapters.parts.values()].flatMap(({ tensors }) => tensors);
      for (const tensor of tensors) {
        tensor.requiresGrad = true;
        tensor.grad = Tensor.zeros(tensor.shape);
      }
      scope(() => {
        const input = Tensor.from(x, [rows, k]);
        valueAndGrad(() => weightedSum(linear(input, [layer], { adapters: { names: ["one", "two"] }, training: true })[0]!));
      });
      for (const tensor of tensors) {
        expect((await tensor.grad!.readFloat32()).some((v) => v !== 0)).toBe(true);
        tensor.grad!.dispose();
      }
      layer.dispose();
    }));
});

describe("Module", () => {
  class Block extends Module {
    readonly inputLayernorm = new RMSNorm(Tensor.zeros([3]), 1e-6);
    readonly qProj = new Linear(Weight.dense(Tensor.zeros([3, 3])), Tensor.zeros([3]));
  }
  class Model extends Module {
    readonly embedTokens = new Embedding(Tensor.zeros([5, 3]));
    readonly layers = [new Block(), new Block()];
  }

  it("names the tree as Hugging Face does, finds by path and frees everything once", () =>
    leavesNothing(() => {
      const model = new Model();
      expect([...model.modules()].map(([path]) => path)).toEqual([
        "",
        "embed_tokens",
        "layers.0",
        "layers.0.input_layernorm",
        "layers.0.q_proj",
        "layers.1",
        "layers.1.input_layernorm",
        "layers.1.q_proj",
      ]);
      expect(model.find("layers.1.q_proj")).toBe(model.layers[1]!.qProj);
      expect(model.find("layers.2")).toBeUndefined();
      expect([...model.parameters()]).toEqual([]);
      model.layers[0]!.qProj.bias!.requiresGrad = true;
      model.layers[1]!.qProj.weight.dense!.requiresGrad = true;
      expect([...model.parameters()].map(([path]) => path)).toEqual(["layers.0.q_proj.bias", "layers.1.q_proj.weight"]);
      model.dispose();
      model.dispose();
    }));
});
