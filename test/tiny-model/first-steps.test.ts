import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TOTAL_STEPS } from "../../scripts/tiny-model/recipe.js";
import { dataHash, makeExamples, makeTokenizer, trainFromScratch } from "../../scripts/tiny-model/train.js";

/** Printed by `npm run make:tiny-model -- --steps 50 --hash` when the embedded model was trained. */
const recorded = JSON.parse(await readFile(new URL("../../scripts/tiny-model/first-steps.json", import.meta.url), "utf8")) as {
  steps: number;
  data: string;
  losses: number[];
};

describe(`the first ${recorded.steps} of the ${TOTAL_STEPS} steps that made the embedded model`, () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tiny-model-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("read the same tokens, and lose the same but for rounding, on any kernels", async () => {
    const tokenizer = await makeTokenizer(folder);
    const examples = await makeExamples(tokenizer, recorded.steps);
    expect(dataHash(examples)).toBe(recorded.data);
    const { model, losses } = await trainFromScratch(tokenizer, examples, recorded.steps);
    model.dispose();
    expect(losses).toHaveLength(recorded.steps);
    for (const [i, loss] of losses.entries())
      expect(Math.abs(loss / recorded.losses[i]! - 1), `step ${i + 1}`).toBeLessThan(0.01);
  }, 240_000);

  it("made the tokenizer that is shipped", async () => {
    await makeTokenizer(folder);
    const shipped = (name: string) => readFile(new URL(`../../assets/tiny/${name}`, import.meta.url), "utf8");
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      expect(await readFile(join(folder, name), "utf8")).toBe(await shipped(name));
    }
  });
});
