import { expect, it } from "vitest";
import { initialWeights } from "../../scripts/tiny-model/init.js";

const tensors = initialWeights(1);

it("has the tensors of a tied Llama of 1.8 M parameters", () => {
  expect(tensors).toHaveLength(1 + 4 * 9 + 1);
  const count = tensors.reduce((n, t) => n + t.values.length, 0);
  // 1024·192 + 4·(2·192 + 2·192·192 + 2·64·192 + 3·512·192) + 192
  expect(count).toBe(1_771_200);
  for (const { shape, values } of tensors) expect(shape.reduce((a, b) => a * b, 1)).toBe(values.length);
});

it("draws matrices of mean 0 and standard deviation 0.02, and norms of 1", () => {
  for (const { name, values } of tensors) {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
    const [expectedMean, expectedDeviation] = name.includes("norm") ? [1, 0] : [0, 0.02];
    expect(Math.abs(mean - expectedMean)).toBeLessThan(1e-3);
    expect(Math.abs(deviation - expectedDeviation)).toBeLessThan(5e-4);
  }
});

it("is the same for the same seed", () => {
  expect(initialWeights(1)[0]!.values).toEqual(tensors[0]!.values);
  expect(initialWeights(2)[0]!.values).not.toEqual(tensors[0]!.values);
});
