import { describe, expect, it } from "vitest";
import type { Checkpoint } from "../../src/io/checkpoint.js";
import { quantizationConfig, readFourBit } from "../../src/models/bitsandbytes.js";
import { getDevice } from "../../src/tensor/device.js";
import { leavesNothing } from "../tensor/live.js";

const STATE = { quant_type: "nf4", blocksize: 64, dtype: "bfloat16", shape: [8, 16] };
const PARTS = { w: 64, "w.absmax": 8, "w.quant_map": 64 };

/** Reads a weight [8, 16] from a checkpoint whose parts have these sizes. */
function read(state: Record<string, unknown>, parts: Record<string, number> = PARTS) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const sizes: Record<string, number> = { ...parts, state: bytes.length };
  const tensors = new Map(Object.entries(sizes).map(([name, end]) => [name, { dtype: "U8", shape: [end], begin: 0, end }]));
  // The bytes of the parts do not matter: any file has that many.
  const weightMap = { get: () => ({ path: process.execPath }) };
  const checkpoint = { tensors, weightMap, read: async () => bytes } as unknown as Checkpoint;
  return readFourBit(checkpoint, "w", "state", [8, 16], getDevice("cpu"), false);
}

describe("a 4-bit weight", () => {
  it.each<[string, Record<string, unknown>, Record<string, number>, RegExp]>([
    ["a quant_state beyond all measure", { ...STATE, x: "x".repeat(70_000) }, PARTS, /has a quant_state of \d+ bytes/],
    ["another shape", { ...STATE, shape: [16, 8] }, PARTS, /has shape \[16,8\] in its quant_state, the config says \[8,16\]/],
    ["no shape", { ...STATE, shape: 5 }, PARTS, /has shape \[\] in its quant_state/],
    ["blocks of odd size", { ...STATE, blocksize: 48 }, PARTS, /blocksize must be a power of two from 32 to 4096, not 48/],
    ["blocks too small", { ...STATE, blocksize: 16 }, PARTS, /blocksize must be a power of two/],
    [
      "nested blocks too large",
      { ...STATE, nested_offset: 0, nested_blocksize: 8192 },
      PARTS,
      /nested_blocksize must be a power of two from 32 to 4096, not 8192/,
    ],
    ["another type", { ...STATE, quant_type: "int8" }, PARTS, /quant_type: "int8" \(supported: "nf4", "fp4"\)/],
    ["codes of another size", STATE, { ...PARTS, w: 63 }, /needs 64 bytes in w, it has 63/],
    ["no code book", STATE, { w: 64, "w.absmax": 8 }, /lacks w\.quant_map/],
  ])("with %s is refused, and nothing is left of it", async (_, state, parts, message) => {
    await leavesNothing(() => expect(read(state, parts)).rejects.toThrow(message));
  });

  it("names the dense linears of its model for other readers; null stands for the head alone", () => {
    const parts = { quantType: "nf4" } as Parameters<typeof quantizationConfig>[0];
    expect(quantizationConfig(parts, [], {})).toMatchObject({ llm_int8_skip_modules: null, bnb_4bit_use_double_quant: false });
    expect(quantizationConfig(parts, ["a"], {})).toMatchObject({ llm_int8_skip_modules: ["lm_head", "a"] });
  });
});
