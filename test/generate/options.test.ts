import { describe, expect, it } from "vitest";
import { readGenerationConfig, resolveOptions } from "../../src/generate/options.js";
import { Keys } from "../../src/notes.js";

const qwen = readGenerationConfig(
  new Keys({ do_sample: true, temperature: 0.7, top_p: 0.8, top_k: 20, repetition_penalty: 1.1, eos_token_id: [7, 9] }),
  [2],
);
const plain = readGenerationConfig(new Keys({}), [2]);

describe("generation options", () => {
  it("take what the call says, then generation_config, then transformers' defaults", () => {
    const resolved = resolveOptions({ temperature: 0.3 }, qwen, 100);
    expect(resolved.doSample).toBe(true);
    expect(resolved.sampling).toMatchObject({ temperature: 0.3, topP: 0.8, topK: 20, repetitionPenalty: 1.1 });
    expect([...resolved.eosTokenIds]).toEqual([7, 9]);
    expect(resolveOptions({}, plain, 100)).toMatchObject({ doSample: false, maxNewTokens: 256, sampling: { topK: 50 } });
    expect([...resolveOptions({}, plain, 100).eosTokenIds]).toEqual([2]);
    expect(resolveOptions({ eosTokenId: null }, plain, 100).eosTokenIds.size).toBe(0);
  });

  it("sample when a sampling option is given, and are greedy at temperature 0", () => {
    expect(resolveOptions({ topP: 0.9 }, plain, 100).doSample).toBe(true);
    expect(resolveOptions({ temperature: 0 }, qwen, 100).doSample).toBe(false);
    expect(resolveOptions({ doSample: false, temperature: 0.5 }, plain, 100).doSample).toBe(false);
  });

  it("list every mistake at once", () => {
    const wrong = { temperature: -1, topP: 2, topK: 1.5, maxNewTokens: -3, stop: "", suppressTokens: [100] };
    expect(() => resolveOptions(wrong, plain, 100)).toThrow(/maxNewTokens.*stop.*suppressTokens.*temperature.*topP.*topK/);
  });
});
