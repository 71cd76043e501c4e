import { expect, it } from "vitest";
import { examine } from "../../src/quickstart/examine.js";

const rows = ["a", "b", "c"].map((letter) => ({ question: `${letter}?`, answer: `${letter.toUpperCase()}.` }));

it("counts exact matches and keeps the misses", async () => {
  const batches: (readonly string[])[] = [];
  const answer = async (questions: readonly string[]) => {
    batches.push(questions);
    return questions.map((q) => (q === "b?" ? "b." : ` ${q[0]!.toUpperCase()}.\n`));
  };
  expect(await examine(rows, answer, { batchSize: 2 })).toEqual({
    right: 2,
    total: 3,
    misses: [{ question: "b?", expected: "B.", actual: "b." }],
  });
  expect(batches).toEqual([["a?", "b?"], ["c?"]]);
});

it("counts an answer that is missing as wrong", async () => {
  expect((await examine(rows, async () => ["A."])).right).toBe(1);
});

it("stops when it is aborted", async () => {
  const controller = new AbortController();
  let asked = 0;
  const answer = async () => {
    asked++;
    controller.abort(new Error("enough"));
    return [""];
  };
  await expect(examine(rows, answer, { batchSize: 1, signal: controller.signal })).rejects.toThrow("enough");
  expect(asked).toBe(1);
});
