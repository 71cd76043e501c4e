// npm run make:tiny-model [-- --out DIR] trains the embedded model from scratch, examines it and writes it.
// npm run make:tiny-model -- --steps 50 --hash   prints what the first 50 steps read and lose, writing nothing.
import { copyFile, mkdir, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { ExamResult } from "../../src/quickstart/examine.js";
import { modelCard } from "./card.js";
import { examineFolder } from "./exam.js";
import { GENERATION_CONFIG } from "./files.js";
import { RECIPE, TOTAL_STEPS } from "./recipe.js";
import { dataHash, makeExamples, makeTokenizer, trainFromScratch } from "./train.js";

const ASSETS = fileURLToPath(new URL("../../assets/tiny", import.meta.url));
const say = (text: string) => process.stderr.write(`${text}\n`);
const { values } = parseArgs({
  options: { steps: { type: "string" }, hash: { type: "boolean", default: false }, out: { type: "string" } },
});

const work = await mkdtemp(join(tmpdir(), "tiny-model-"));
try {
  if (values.hash) await printHash(Number(values.steps ?? 50));
  else if (values.steps !== undefined) throw new Error("--steps is for --hash: the whole recipe makes the model");
  else process.exitCode = (await make(values.out ?? ASSETS)) ? 0 : 1;
} finally {
  await rm(work, { recursive: true, force: true });
}

async function printHash(steps: number): Promise<void> {
  const tokenizer = await makeTokenizer(work);
  const examples = await makeExamples(tokenizer, steps);
  const { model, losses, tokens } = await trainFromScratch(tokenizer, examples, steps);
  model.dispose();
  console.log(JSON.stringify({ steps, tokens, data: dataHash(examples), losses: losses.map((loss) => Number(loss.toFixed(4))) }));
}

/** Trains, examines and writes the model; false where it does not know enough. */
async function make(out: string): Promise<boolean> {
  const begin = Date.now();
  const minutes = () => (Date.now() - begin) / 60_000;
  const tokenizer = await makeTokenizer(work);
  const examples = await makeExamples(tokenizer, TOTAL_STEPS);
  const { model, losses, tokens } = await trainFromScratch(
    tokenizer,
    examples,
    TOTAL_STEPS,
    ({ step, loss, tokensPerSecond }) => {
      if (step % 50 === 0) say(`step ${step}/${TOTAL_STEPS}  loss ${loss.toFixed(4)}  ${Math.round(tokensPerSecond)} tokens/s`);
    },
  );
  const trained = minutes();
  const candidate = join(work, "model");
  await model.savePretrained(candidate, { dtype: "bfloat16" });
  model.dispose();
  await writeFile(join(candidate, "generation_config.json"), `${JSON.stringify(GENERATION_CONFIG, null, 2)}\n`);

  const results = { "16-bit": await examineFolder(candidate, false), NF4: await examineFolder(candidate, true) };
  for (const [name, { right, total, misses }] of Object.entries(results)) {
    say(`facts on unseen phrasings, ${name}: ${right} of ${total}`);
    for (const miss of misses.slice(0, 5)) say(`  ${miss.question} -> ${miss.actual} (expected ${miss.expected})`);
  }
  const share = ({ right, total }: ExamResult) => right / total;
  if (Object.values(results).some((result) => share(result) < RECIPE.passMark)) {
    say(`The model does not pass: it must know ${100 * RECIPE.passMark} % in both. Nothing was written to ${out}.`);
    return false;
  }
  const card = modelCard({
    tokens,
    steps: TOTAL_STEPS,
    minutes: trained,
    finalLoss: losses.slice(-50).reduce((a, b) => a + b, 0) / 50,
    factsFloat32: share(results["16-bit"]),
    factsNf4: share(results.NF4),
    questions: results.NF4.total,
  });
  await writeFile(join(candidate, "README.md"), card);
  await publish(candidate, out);
  return true;
}

/** Copies the candidate's files over those of `out`. */
async function publish(candidate: string, out: string): Promise<void> {
  await mkdir(out, { recursive: true });
  let bytes = 0;
  for (const name of await readdir(candidate)) {
    // The manifest speaks of the candidate alone: the card and the generation config came later.
    if (name.startsWith(".") || name === "manifest.json") continue;
    await copyFile(join(candidate, name), join(out, name));
    bytes += (await stat(join(out, name))).size;
  }
  say(`Written to ${out}: ${(bytes / 2 ** 20).toFixed(1)} MiB.`);
}
