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
    readRopeParameters(reader, 16, 128);
    reader.finish("config.json");
  };

  it.each([
    ["an unknown type", { rope_scaling: { type: "longrope", factor: 2 } }, /rope_scaling\.rope_type: "longrope"/],
    ["dynamic", { rope_parameters: { rope_type: "dynamic", factor: 2 } }, /rope_parameters\.rope_type: "dynamic"/],
    ["one rope per layer type", { rope_parameters: { full_attention: { rope_type: "default" } } }, /one rope per layer type/],
  ])("refuses %s by name", (_, json, message) => {
    expect(() => read(json)).toThrow(message);
  });

  it("names missing factors", () => {
    expect(() => read({ rope_parameters: { rope_type: "llama3" } })).toThrow(/factor.*low_freq_factor.*high_freq_factor/);
  });
});
