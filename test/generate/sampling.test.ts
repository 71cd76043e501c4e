import { describe, expect, it } from "vitest";
import { drawToken, softmax, warpLogits } from "../../src/generate/sampling.js";
import { gaussian } from "../reference/numeric.js";

/** By their definitions, on everything sorted. `scores` may repeat and hold -Infinity. */
const byValue = (scores: Float32Array) => [...scores.keys()].sort((a, b) => scores[a]! - scores[b]! || a - b);
const topK = (scores: Float32Array, k: number) => {
  const threshold = scores[byValue(scores).at(-k)!]!;
  return [...scores.keys()].filter((i) => scores[i]! >= threshold);
};
const topP = (scores: Float32Array, p: number) => {
  const weights = scores.map((s) => Math.exp(s - Math.max(...scores)));
  const total = weights.reduce((a, b) => a + b, 0);
  const removed = new Set<number>();
  let sum = 0;
  for (const i of byValue(scores).slice(0, -1)) {
    sum += weights[i]! / total;
    if (sum > 1 - p) break;
    removed.add(i);
  }
  return [...scores.keys()].filter((i) => !removed.has(i));
};

const rounded = (scores: Float32Array, step: number) => scores.map((s) => (step ? Math.round(s / step) * step : s));
const cases = [1, 2, 60, 3000].flatMap((size) =>
  [0.01, 1, 8].flatMap((spread) =>
    [0, 0.5].map((step) => ({
      name: `${size} of spread ${spread}, multiples of ${step}`,
      scores: rounded(
        gaussian(size, size + spread).map((s) => s * spread),
        step,
      ),
    })),
  ),
);

describe("what warpLogits leaves", () => {
  it.each(cases)("of top-k and top-p is what their definitions leave: $name", ({ scores }) => {
    for (const k of [1, 2, 7, 50, 2999]) {
      const left = scores.slice();
      const ids = warpLogits(left, { topK: k });
      expect([...ids]).toEqual(k >= scores.length ? [...scores.keys()] : topK(scores, k));
      const stay = new Set(ids);
      expect([...left]).toEqual([...scores].map((s, i) => (stay.has(i) ? s : -Infinity)));
    }
    for (const p of [0.001, 0.3, 0.9, 0.999]) expect([...warpLogits(scores.slice(), { topP: p })]).toEqual(topP(scores, p));
  });

  it("is what tokens are drawn from, each as often as its probability", () => {
    const scores = gaussian(200, 3);
    const ids = warpLogits(scores, { topK: 20, temperature: 2 });
    const probs = softmax(scores, ids);
    expect(probs.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
    let below = 0;
    for (const [i, id] of ids.entries()) {
      expect(drawToken(scores, ids, below + probs[i]! / 2)).toBe(id);
      below += probs[i]!;
    }
  });

  it("leaves out what was removed before", () => {
    const scores = Float32Array.of(5, -Infinity, 4, -Infinity, 3);
    expect([...warpLogits(scores.slice(), { topK: 2 })]).toEqual([0, 2]);
    const ids = warpLogits(scores.slice(), { topP: 0.9999 });
    expect(drawToken(scores, ids, 0.999999)).toBe(4);
  });
});
