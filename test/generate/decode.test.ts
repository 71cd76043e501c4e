import { describe, expect, it } from "vitest";
import { type DecoderModel, decodeTokens } from "../../src/generate/decode.js";
import { type GenerateOptions, readGenerationConfig, resolveOptions } from "../../src/generate/options.js";
import { Keys } from "../../src/notes.js";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";

const VOCABULARY = 8;

/** Each sequence counts up from its last token; step `failing` throws, or gives logits that fail to be read. */
class Counting implements DecoderModel {
  readonly vocabSize = VOCABULARY;
  readonly maxPositions = 100;
  readonly restartAfter = undefined;
  readonly kvShape = { device: getDevice(), dtype: "float32", layers: 1, kvHeads: 1, headDim: 1 } as const;
  steps = 0;

  constructor(private readonly failing = Number.POSITIVE_INFINITY) {}

  step(tokens: readonly (readonly number[])[]): Tensor {
    if (++this.steps === this.failing) throw new Error("a step failed");
    const last = tokens.flatMap((ids) => ids.at(-1) ?? []);
    const logits = new Float32Array(last.length * VOCABULARY);
    for (const [row, id] of last.entries()) logits[row * VOCABULARY + ((id + 1) % VOCABULARY)] = 1;
    return Tensor.from(logits, [last.length, VOCABULARY]);
  }

  [Symbol.dispose](): void {}
}

const options = (more: GenerateOptions = {}) =>
  resolveOptions(
    { doSample: false, eosTokenId: null, maxNewTokens: 3, ...more },
    readGenerationConfig(new Keys({}), []),
    VOCABULARY,
  );

describe("decodeTokens", () => {
  it("has the next step under way while the caller holds a token, and none behind the last", async () => {
    const model = new Counting();
    const seen: [token: number, steps: number][] = [];
    for await (const { tokenId } of decodeTokens(model, [[1]], options())) seen.push([tokenId, model.steps]);
    expect(seen).toEqual([
      [2, 2],
      [3, 3],
      [4, 3],
    ]);
  });

  it("takes no step behind an end-of-sequence token", async () => {
    const model = new Counting();
    const ids: number[] = [];
    for await (const { tokenId } of decodeTokens(model, [[1], [5]], options({ eosTokenId: [2, 7] }))) ids.push(tokenId);
    expect(ids).toEqual([2, 6, 7]);
    expect(model.steps).toBe(2);
  });

  it("throws what a step throws behind the tokens before it", async () => {
    const ids: number[] = [];
    const decoded = (async () => {
      for await (const { tokenId } of decodeTokens(new Counting(3), [[1]], options())) {
        ids.push(tokenId);
        await new Promise((resolve) => setTimeout(resolve, 5)); // nobody waits for the step meanwhile
      }
    })();
    await expect(decoded).rejects.toThrow("a step failed");
    expect(ids).toEqual([2, 3]);
  });

  it.each([2, 9])("lets the step under way end with a caller who leaves; one that fails: %s", async (failing) => {
    const before = getDevice().memory;
    for await (const _ of decodeTokens(new Counting(failing), [[1]], options())) break;
    expect(getDevice().memory).toMatchObject({ live: before.live, tensors: before.tensors });
  });

  it("ends by the signal's reason, with the step under way", async () => {
    const before = getDevice().memory;
    const abort = new AbortController();
    const model = new Counting();
    const decoded = (async () => {
      for await (const _ of decodeTokens(model, [[1]], options({ signal: abort.signal }))) abort.abort(new Error("enough"));
    })();
    await expect(decoded).rejects.toThrow("enough");
    expect(model.steps).toBe(2);
    expect(getDevice().memory).toMatchObject({ live: before.live, tensors: before.tensors });
  });
});
