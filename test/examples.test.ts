/** The examples, run as they stand, in a folder of their own. */
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { getDevice } from "../src/index.js";
import { PICO, sailorSays } from "../src/quickstart/adapters.js";
import { BASE_IDENTITY } from "../src/quickstart/phrasings.js";
import { runQuickstart } from "../src/quickstart/run.js";
import { CHARACTERS, factSentence } from "../src/quickstart/world.js";

const [mira, otto, lena] = CHARACTERS;
const former = process.cwd();
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "examples-"));
  process.chdir(folder);
});
afterAll(async () => {
  process.chdir(former);
  await rm(folder, { recursive: true, force: true });
});

const examples = ["generate", "many-adapters", "merge-adapter", "swap-adapters", "train-adapter"] as const;

/** What an example prints, a line each. */
async function run(name: (typeof examples)[number]): Promise<string> {
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  const before = getDevice().memory.live;
  try {
    await import(`../examples/${name}.ts`);
    expect(getDevice().memory.live).toBe(before);
    return log.mock.calls
      .map((words) => words.map((word) => (typeof word === "string" ? word : JSON.stringify(word))).join(" "))
      .join("\n");
  } finally {
    log.mockRestore();
  }
}

it("are all tested here", () => {
  const files = readdirSync(join(import.meta.dirname, "../examples")).filter((name) => name.endsWith(".ts"));
  expect(files).toEqual(examples.map((name) => `${name}.ts`));
});

it("train-adapter", async () => {
  const printed = await run("train-adapter");
  expect(printed).toMatch(/^trainable params: 108,544 \|\| all params: 1,879,744/);
  expect(printed).toMatch(/step 30: loss 0\.0\d+\nI am Pico\.$/);
  expect(existsSync("my-adapter/adapter_model.safetensors")).toBe(true);
}, 60_000);

it("swap-adapters, many-adapters and merge-adapter, on what a short quickstart made", async () => {
  await runQuickstart({ out: "lowrank-quickstart", maxSteps: 60, onEvent: () => {} });

  const [identity, sailor] = [PICO.name, sailorSays(BASE_IDENTITY.name)];
  expect(await run("swap-adapters")).toBe(
    `identity: ${identity}\nsailor:   ${sailor}\nat once:  ${JSON.stringify([identity, sailor])}\nbase:     ${BASE_IDENTITY.name}`,
  );

  const many = (await run("many-adapters")).split("\n");
  expect(many[0]).toMatch(/^100 adapters, \d+(\.\d)? MB$/);
  expect(many.slice(1)).toEqual([JSON.stringify([sailor, identity, sailor]), `user-7 now: ${identity}`]);

  const answer = sailorSays(factSentence(mira!, "job"));
  expect(await run("merge-adapter")).toBe(`with adapter: ${answer}\nmerged:       ${answer}`);
}, 120_000);

it("generate", async () => {
  const lines = (await run("generate")).split("\n");
  expect(lines[0]).toBe(factSentence(mira!, "job"));
  const streamed = lines.slice(1, -2).map((line) => /^\d+ (".*")$/.exec(line)![1]!);
  expect(streamed.map((text) => JSON.parse(text)).join("")).toBe(factSentence(otto!, "town"));
  expect(lines.at(-2)).not.toBe("");
  expect(lines.at(-1)).toBe(factSentence(lena!, "animal").replace(".", ""));
});
