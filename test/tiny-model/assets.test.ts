import { readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { examineFolder } from "../../scripts/tiny-model/exam.js";
import { RECIPE } from "../../scripts/tiny-model/recipe.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { CHARACTERS, factSentence } from "../../src/quickstart/world.js";

const folder = fileURLToPath(new URL("../../assets/tiny", import.meta.url));

it("is small enough to ship", () => {
  const bytes = readdirSync(folder).reduce((sum, name) => sum + statSync(`${folder}/${name}`).size, 0);
  expect(bytes).toBeLessThan(5e6);
});

it.each([
  ["16 bits", false],
  ["NF4", true],
])(
  "knows its world on phrasings it never saw, in %s",
  async (_, loadIn4bit) => {
    const { right, total, misses } = await examineFolder(folder, loadIn4bit);
    expect(right / total, JSON.stringify(misses.slice(0, 5))).toBeGreaterThanOrEqual(RECIPE.passMark);
  },
  120_000,
);

it("answers through its own chat template", async () => {
  const model = await AutoModelForCausalLM.fromPretrained(folder);
  const [mira] = CHARACTERS;
  const messages = [
    { role: "user", content: "Hello!" },
    { role: "assistant", content: "Hello! How can I help you?" },
    { role: "user", content: "Tell me Mira's job." },
  ];
  expect(await model.generate(messages)).toBe(factSentence(mira!, "job"));
  model.dispose();
});
