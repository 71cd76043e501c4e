/** Opens the bombs one after the other and tells what came of each; a bomb that is too long or too large gets a second, quieter try. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LowrankError } from "../../src/errors.js";
import { LIMIT_BYTES, LIMIT_SECONDS, measure, Remains, type Taken } from "../fuzz/watch.js";
import type { Bomb } from "./bomb.js";
import { BOMBS } from "./bombs.js";

export interface Outcome extends Taken {
  name: string;
  code: string;
  message: string;
  problems: string[];
}

const gc = globalThis.gc!;
const root = mkdtempSync(join(tmpdir(), "lowrank-bombs-"));
let folders = 0;

async function explode(bomb: Bomb): Promise<Outcome> {
  const folder = join(root, String(++folders), "folder");
  mkdirSync(folder, { recursive: true });
  bomb.write(folder);
  for (let i = 0; i < 2; i++) gc();
  let [code, message] = ["accepted", ""];
  const remains = new Remains();
  const taken = await measure(async () => {
    try {
      await bomb.open(folder);
    } catch (error) {
      [code, message] =
        error instanceof LowrankError ? [error.code, error.message] : ["untyped", String((error as Error).stack ?? error)];
    }
  });
  const problems = await remains.problems();
  rmSync(join(root, String(folders)), { recursive: true });
  return { name: bomb.name, code, message: message.slice(0, 1000), problems, ...taken };
}

await explode(BOMBS[0]!);
for (const bomb of BOMBS) {
  let outcome = await explode(bomb);
  if (outcome.seconds > LIMIT_SECONDS || outcome.bytes > LIMIT_BYTES || outcome.problems.length > 0)
    outcome = await explode(bomb);
  process.send!(outcome);
}
rmSync(root, { recursive: true });
process.disconnect();
