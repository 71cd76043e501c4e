import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigReader } from "../../src/models/config-reader.js";
import { inverseFrequencies, readRopeParameters } from "../../src/models/rope.js";
import { goldenFolder } from "../golden/folder.js";
import { readTensors } from "../golden/tensors.js";

const train = goldenFolder("train");
const cases = existsSync(train) ? readdirSync(train).filter((name) => name.startsWith("op_rope_")) : [];

describe("inverse frequencies equal those transformers gave the golden rope cases", () => {
  it.for(cases)("%s", (name) => {
    const { attrs } = JSON.parse(readFileSync(join(train, name, "case.json"), "utf8"));
    const want = readTensors(join(train, name, "inputs.safetensors")).get("inv_freq")!.data;
    for (const json of [
      { rope_parameters: attrs.ropeParameters },
      { rope_scaling: attrs.ropeParameters, rope_theta: attrs.ropeParameters.rope_theta },
    ]) {
      const rope = readRopeParameters(new ConfigReader(json), attrs.headDim, 256);
      const got = inverseFrequencies(rope);
      expect(rope.rotaryDims).toBe(attrs.rotaryDims);
      expect(rope.attentionScaling).toBeCloseTo(attrs.attentionScaling, 6);
      expect(got.length).toBe(want.length);
      for (const [i, value] of got.entries()) expect(Math.abs(value / want[i]! - 1)).toBeLessThan(3e-7);
    }
  });

  it("finds the six forms", () => expect(cases.length === 0 || cases.length >= 6).toBe(true));
});

describe("rope parameters", () => {
  const read = (json: Record<string, unknown>) => {
    const reader = new ConfigReader(json);
    const parameters = readRopeParameters(reader, 16, 128);
    reader.finish("config.json");
    return parameters;
  };
  const yarn = (options: Record<string, unknown>) =>
    read({ rope_scaling: { rope_type: "yarn", factor: 40, original_max_position_embeddings: 32, ...options } });

  // The rules are those of transformers' _compute_yarn_parameters.
  it("scale yarn's attention by what the file says, by DeepSeek's two factors, or by the logarithm of the factor", () => {
    expect(yarn({ attention_factor: 1.25 }).attentionScaling).toBe(1.25);
    const log = Math.log(40);
    expect(yarn({}).attentionScaling).toBeCloseTo(0.1 * log + 1, 12);
    expect(yarn({ mscale: 0.5 }).attentionScaling).toBeCloseTo(0.1 * log + 1, 12);
    expect(yarn({ mscale: 0.5, mscale_all_dim: 1 }).attentionScaling).toBeCloseTo((0.05 * log + 1) / (0.1 * log + 1), 12);
    expect(yarn({ factor: 1 }).attentionScaling).toBe(1);
  });

  it("take 0 for yarn's default turns, and may leave the ramp's ends unrounded", () => {
    const rounded = yarn({ beta_fast: 0, beta_slow: 0 });
    expect(rounded).toMatchObject({ betaFast: 32, betaSlow: 1, truncate: true });
    const exact = yarn({ truncate: false });
    expect(exact.truncate).toBe(false);
    // Dimension i turns 32 / (2 pi theta^(2i/16)) times in the original context: none turns 32 times, so the ramp begins at 0.
    const end = (16 * Math.log(32 / (2 * Math.PI))) / (2 * Math.log(10000));
    const expected = (to: number) => (i: number) => {
      const base = 10000 ** (-(2 * i) / 16);
      const ramp = Math.min(i / to, 1);
      return (base / 40) * ramp + base * (1 - ramp);
    };
    for (const [rope, to] of [
      [exact, end],
      [rounded, Math.ceil(end)],
    ] as const)
      for (const [i, got] of inverseFrequencies(rope).entries()) expect(got / expected(to)(i)).toBeCloseTo(1, 5);
  });

  it("make a step of yarn's ramp where both ends are one", () => {
    // Every dimension turns less than once: all are divided but the first, at the step itself.
    const rope = yarn({ original_max_position_embeddings: 4 });
    const frequencies = inverseFrequencies(rope);
    expect(frequencies[0]).toBe(1);
    for (let i = 1; i < 8; i++) expect(frequencies[i]! / (10000 ** (-(2 * i) / 16) / 40)).toBeCloseTo(1, 5);
  });

  it.each([
    ["an unknown type", { rope_scaling: { type: "ntk", factor: 2 } }, /rope_scaling\.rope_type: "ntk"/],
    [
      "longrope with factors for another head",
      { rope_parameters: { rope_type: "longrope", short_factor: [1, 2], long_factor: Array(8).fill(2) } },
      /rope_parameters\.short_factor must be a list of 8 numbers/,
    ],
    [
      "longrope with a factor that is none",
      { rope_parameters: { rope_type: "longrope", short_factor: Array(8).fill(1), long_factor: [0, ...Array(7).fill(2)] } },
      /rope_parameters\.long_factor must be a list of 8 numbers above 0/,
    ],
    [
      "dynamic without room to stretch",
      { partial_rotary_factor: 0.125, rope_scaling: { type: "dynamic", factor: 2 } },
      /head_dim must give more than 2/,
    ],
    [
      "types by layer",
      { rope_parameters: { rope_type: "x", sliding_attention: {} } },
      /rope_parameters: one rope per layer type/,
    ],
    ["more dimensions than a head has", { partial_rotary_factor: 1.07 }, /gives 17 rotary dimensions; a head has 16/],
    ["one rope per layer type", { rope_parameters: { full_attention: { rope_type: "default" } } }, /one rope per layer type/],
  ])("refuses %s by name", (_, json, message) => {
    expect(() => read(json)).toThrow(message);
  });

  it("rounds an odd number of rotary dimensions up, as transformers does", () => {
    const frequencies = inverseFrequencies(read({ partial_rotary_factor: 0.2 }));
    expect(Array.from(frequencies, (x) => x.toFixed(6))).toEqual(["1.000000", (10000 ** (-2 / 3)).toFixed(6)]);
  });

  it("dynamic lowers the frequencies of sequences beyond the context", () => {
    const rope = read({ rope_parameters: { rope_type: "dynamic", factor: 3, rope_theta: 500 } });
    const plain = Array.from({ length: 8 }, (_, i) => 500 ** (-(2 * i) / 16));
    const close = (length: number, expected: number[]) => {
      for (const [i, got] of inverseFrequencies(rope, length).entries()) expect(got / expected[i]!).toBeCloseTo(1, 5);
    };
    close(1, plain);
    close(128, plain);
    const theta = 500 * ((3 * 200) / 128 - 2) ** (16 / 14);
    close(
      200,
      plain.map((_, i) => theta ** (-(2 * i) / 16)),
    );
    expect(rope.attentionScaling).toBe(1);
  });

  it("longrope divides by one list up to the original context, by the other beyond", () => {
    const [short, long] = [Array.from({ length: 8 }, (_, i) => 1 + i / 10), Array.from({ length: 8 }, (_, i) => 2 + i)];
    const scaling = { type: "longrope", short_factor: short, long_factor: long };
    const rope = read({ rope_scaling: scaling, original_max_position_embeddings: 32 });
    for (const [length, factors] of [
      [32, short],
      [33, long],
    ] as const)
      for (const [i, got] of inverseFrequencies(rope, length).entries())
        expect(got * factors[i]! * 10000 ** ((2 * i) / 16)).toBeCloseTo(1, 5);
    expect(rope.attentionScaling).toBeCloseTo(Math.sqrt(1 + Math.log(128 / 32) / Math.log(32)), 12);
    const scaled = (more: object) => read({ rope_scaling: { ...scaling, ...more }, original_max_position_embeddings: 32 });
    expect(scaled({ attention_factor: 1.5 }).attentionScaling).toBe(1.5);
    expect(scaled({ factor: 1 }).attentionScaling).toBe(1);
  });

  it("names missing factors", () => {
    expect(() => read({ rope_parameters: { rope_type: "llama3" } })).toThrow(/factor.*low_freq_factor.*high_freq_factor/);
  });
});
