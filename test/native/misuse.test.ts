import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { KERNELS, OTHERS } from "./misuse/recipes.js";
import { exportsOf } from "./misuse/surface.js";
import { addon, isas } from "./raw.js";

const CALLS = 20_000;
const folder = mkdtempSync(join(tmpdir(), "lowrank-misuse-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs seeded calls in a process of its own; what it was at when it died is the end of its log. */
function misuse(device: string, seed: number, calls: number): Promise<{ status: unknown; out: string }> {
  const log = join(folder, `${device}-${seed}.log`);
  const script = fileURLToPath(new URL("misuse/main.ts", import.meta.url));
  const args = ["--import", "tsx", script, "--device", device, "--seed", `${seed}`, "--calls", `${calls}`, "--log", log];
  const child = spawn(process.execPath, args, { timeout: 300_000, killSignal: "SIGKILL" });
  let out = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (out += data));
  return new Promise((resolve) =>
    child.on("close", (code, signal) => {
      const status = signal ?? code;
      if (status !== 0)
        out += `\nlast calls of seed ${seed} on ${device}:\n${readFileSync(log, "utf8").split("\n").slice(-31).join("\n")}`;
      resolve({ status, out });
    }),
  );
}

describe("misuse", () => {
  const surface = exportsOf();

  it("is derived from types that name what the addon exports, and has a plausible call for each", () => {
    const exported = (of: object, prefix: string): string[] =>
      Object.entries(of).flatMap(([name, value]) =>
        typeof value === "function" ? [prefix + name] : typeof value === "object" ? exported(value, `${name}.`) : [],
      );
    expect(surface.map((e) => e.name).sort()).toEqual(exported(addon, "").sort());
    const kernels = surface.filter((e) => e.name.startsWith("kernels.")).map((e) => e.name.slice("kernels.".length));
    expect(Object.keys(KERNELS).sort()).toEqual(kernels.sort());
    expect(Object.keys(OTHERS).sort()).toEqual(
      surface
        .map((e) => e.name)
        .filter((name) => !name.includes("."))
        .sort(),
    );
  });

  it.each(isas.map((isa, i) => [isa, i + 1] as const))(
    "of every export ends in a result or a typed error: %s",
    async (isa, seed) => {
      const { status, out } = await misuse(`cpu:${isa}`, seed, CALLS / isas.length);
      expect({ status, out: status === 0 ? "" : out }).toEqual({ status: 0, out: "" });
      const counts = JSON.parse(out);
      // Neither all refused at once, or nothing is tested behind the first check, nor all accepted.
      expect(counts.done).toBeGreaterThan(counts.calls / 5);
      expect(counts.refused).toBeGreaterThan(counts.calls / 5);
      expect(counts.rejected).toBeGreaterThan(counts.calls / 100);
    },
    300_000,
  );
});
