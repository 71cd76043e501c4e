/** Every write is short, every write, fsync and truncation is interrupted once: nothing may be noticed of it. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { roundsFolder } from "./folders.js";
import { Worker } from "./worker.js";

const SCENARIOS = ["run", "a new run", "export to a new folder", "export over an older one", "adapters over older ones"];
let library: string;

beforeAll(() => {
  library = join(roundsFolder(), "short-writes.so");
  const source = join(import.meta.dirname, "short-writes.cc");
  const { status, stderr } = spawnSync(
    process.env.CXX ?? "g++",
    ["-std=c++17", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"],
    {
      encoding: "utf8",
    },
  );
  if (status !== 0) throw new Error(`these tests need g++: apt-get install -y g++\n${stderr}`);
});

describe.each(SCENARIOS)("%s", (scenario) => {
  it("writes the same bytes when every write is short", async () => {
    const root = roundsFolder();
    const at = join(root, "right");
    const dir = join(root, "work");
    const whole = new Worker();
    await whole.must({ act: "reference", scenario, at });
    await whole.end();
    const short = new Worker({ LD_PRELOAD: library });
    await short.must({ act: "prepare", scenario, at, dir });
    const { announced } = await short.must({ act: "work", scenario, at, dir });
    await short.end();
    expect(announced.length).toBeGreaterThan(0);
    const checker = new Worker();
    await checker.must({ act: "check", scenario, at, dir, announced });
    await checker.end();
  });
});
