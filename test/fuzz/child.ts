/** Opens mutants one after the other and tells the parent what is wrong with any. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { LowrankError } from "../../src/errors.js";
import type { Format } from "./format.js";
import { FORMATS } from "./formats/index.js";
import { mutantOf, writeFiles } from "./mutant.js";
import { LIMIT_BYTES, LIMIT_SECONDS, measure, openedOutside, Remains, spyOnFiles } from "./watch.js";

export interface ChildMessage {
  /** The mutant that is opened next; the parent's clock runs for it. */
  begin?: number;
  failed?: { seed: number; problems: string[] };
  done?: { refused: number; accepted: number; codes: Record<string, number>; seconds: number; bytes: number };
}

const SECONDS_A_BYTE = 4e-6;
const BYTES_A_BYTE = 200;
const CODES = new Set(
  "INVALID_ARGUMENT INVALID_CONFIG INVALID_FILE NOT_FOUND UNSUPPORTED SHAPE_MISMATCH OUT_OF_MEMORY ADAPTER_MISMATCH TEMPLATE DATASET CHECKPOINT HUB NO_SPACE LOCKED NON_FINITE".split(
    " ",
  ),
);
const tell = (message: ChildMessage) => new Promise<void>((done) => process.send!(message, undefined, {}, () => done()));
const unhandled: unknown[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));

const [name = "", first = "0", count = "0", deadline = "Infinity"] = process.argv.slice(2);
const format = await FORMATS[name]!();
const gc = globalThis.gc!;
const root = mkdtempSync(join(tmpdir(), "lowrank-fuzz-"));
mkdirSync(join(root, "outside"));
writeFileSync(join(root, "outside", "secret.json"), '[{"text":"a secret of another folder"}]');
spyOnFiles();

// The seeds themselves must be accepted; opening them also starts what stays: threads, workers, caches.
for (const seed of format.seeds) {
  const folder = join(root, "seed");
  mkdirSync(folder);
  writeFiles(folder, seed);
  await format.open(folder);
  rmSync(folder, { recursive: true });
}
openedOutside(root);

const totals = { refused: 0, accepted: 0, codes: {} as Record<string, number>, seconds: 0, bytes: 0 };
for (let seed = Number(first); seed < Number(first) + Number(count) && Date.now() < Number(deadline); seed++) {
  await tell({ begin: seed });
  const problems = await problemsOf(format, seed);
  if (problems.length > 0) await tell({ failed: { seed, problems } });
}
rmSync(root, { recursive: true });
await tell({ done: totals });
process.exit();

async function problemsOf(format: Format, seed: number): Promise<string[]> {
  const files = mutantOf(format, seed);
  const folder = join(root, `mutant-${seed}`);
  const prepare = () => {
    mkdirSync(folder);
    writeFiles(folder, files);
    symlinkSync(join(root, "outside", "secret.json"), join(folder, "link"));
  };
  const clear = () => rmSync(folder, { recursive: true });
  const problems: string[] = [];
  const remains = new Remains();
  let accepted = false;
  const open = async () => {
    try {
      await format.open(folder);
      accepted = true;
      totals.accepted++;
    } catch (error) {
      problems.push(...judge(error, [...files.keys()], folder));
    }
  };
  openedOutside(root);
  prepare();
  openedOutside(root);
  let taken = await measure(open);
  const outside = openedOutside(folder).filter((path) => path !== join(root, "outside"));
  if (taken.seconds > LIMIT_SECONDS || taken.bytes > LIMIT_BYTES) {
    // Garbage of former mutants and a busy machine count too: what holds a second time, after a collection, is the mutant's own.
    clear();
    prepare();
    for (let i = 0; i < 3; i++) gc();
    await new Promise((done) => setTimeout(done, 50));
    taken = await measure(open);
    openedOutside(folder);
  }
  totals.seconds = Math.max(totals.seconds, taken.seconds);
  totals.bytes = Math.max(totals.bytes, taken.bytes);
  // What is accepted is used: tokenised, for one, which takes its time and memory for each character.
  const used = accepted ? [...files.values()].reduce((sum, { length }) => sum + length, 0) : 0;
  if (taken.seconds > LIMIT_SECONDS + used * SECONDS_A_BYTE) problems.push(`it took ${taken.seconds.toFixed(2)} s`);
  if (taken.bytes > LIMIT_BYTES + used * BYTES_A_BYTE) problems.push(`it took ${Math.round(taken.bytes / 2 ** 20)} MB`);
  if (outside.length > 0) problems.push(`outside the folder were opened: ${outside.join(", ")}`);
  await new Promise((done) => setImmediate(done));
  if (unhandled.length > 0) problems.push(`unhandled: ${unhandled.splice(0).map(String).join(", ")}`);
  problems.push(...(await remains.problems()));
  clear();
  return [...new Set(problems)];
}

function judge(error: unknown, names: string[], folder: string): string[] {
  if (!(error instanceof LowrankError)) return [`not a LowrankError: ${error instanceof Error ? error.stack : String(error)}`];
  totals.refused++;
  totals.codes[error.code] = (totals.codes[error.code] ?? 0) + 1;
  const said = [
    folder,
    ...names.map((path) => basename(path)),
    "The data set",
    "None of the",
    "LoRA configuration",
    "the model's context",
    "org/name",
  ];
  const problems: string[] = [];
  if (!CODES.has(error.code)) problems.push(`the code ${error.code}: ${error.message}`);
  if (!said.some((text) => error.message.includes(text)))
    problems.push(`the message names no file: ${error.code} ${error.message.slice(0, 300)}`);
  return problems;
}
