import { describe, expect, it } from "vitest";
import { currentOrdinal, nextKey, randomKey, replayFrom, startMicroStep } from "../../src/tensor/random.js";

describe("keys of random draws", () => {
  it("differ in every part: seed, path, counters and their order", () => {
    const keys = [
      randomKey(0, "a", 0, 0),
      randomKey(1, "a", 0, 0),
      randomKey(0, "b", 0, 0),
      randomKey(0, "a", 1, 0),
      randomKey(0, "a", 0, 1),
      randomKey(0, "a"),
      randomKey(0, "a", 0),
    ];
    expect(new Set(keys).size).toBe(keys.length);
    for (const key of keys) expect(key >= 0n && key < 1n << 64n).toBe(true);
  });

  it("are the published constants' mixture, so that runs can be resumed by later versions", () => {
    // splitmix64 of the FNV-1a offset basis, computed by a separate program.
    expect(randomKey(0, "")).toBe(SPLITMIX_OF_FNV_BASIS);
  });

  it("count calls in a micro-step and repeat when it starts again", () => {
    startMicroStep(7, 3);
    const first = [nextKey("q"), nextKey("q"), nextKey("q")];
    expect(new Set(first).size).toBe(3);
    startMicroStep(7, 3);
    expect([nextKey("q"), nextKey("q"), nextKey("q")]).toEqual(first);
    startMicroStep(7, 4);
    expect(first).not.toContain(nextKey("q"));
  });

  it("are replayed without moving the count", () => {
    startMicroStep(1, 1);
    nextKey("x");
    const ordinal = currentOrdinal();
    const drawn = [nextKey("x"), nextKey("y")];
    expect(replayFrom(ordinal, () => [nextKey("x"), nextKey("y")])).toEqual(drawn);
    expect(() =>
      replayFrom(ordinal, () => {
        throw new Error("boom");
      }),
    ).toThrow("boom");
    expect(currentOrdinal()).toBe(ordinal + 2);
  });
});

const SPLITMIX_OF_FNV_BASIS = 0xc3817c016ba4ff30n;
