import { expect, it } from "vitest";
import { examine } from "../../src/quickstart/examine.js";

const rows = [
  { question: "a?", answer: "A." },
  { question: "b?", answer: "B." },
];

it("counts exact matches and keeps the misses", async () => {
  const result = await examine(rows, async (question) => (question === "a?" ? " A.\n" : "b."));
  expect(result).toEqual({ right: 1, total: 2, misses: [{ question: "b?", expected: "B.", actual: "b." }] });
});

it("stops when it is aborted", async () => {
  const controller = new AbortController();
  let asked = 0;
  const run = examine(
    rows,
    async () => {
      asked++;
      controller.abort(new Error("enough"));
      return "";
    },
    controller.signal,
  );
  await expect(run).rejects.toThrow("enough");
  expect(asked).toBe(1);
});
