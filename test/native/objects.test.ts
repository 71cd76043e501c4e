import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const { isa } = JSON.parse(readFileSync(`${root}native/sources.json`, "utf8")) as {
  isa: Record<string, { sources: string[] } | string[]>;
};
const objects = Object.entries(isa).flatMap(([name, value]) =>
  Array.isArray(value)
    ? []
    : value.sources.map((source) => `${root}build/Release/obj.target/lowrank_${name}/${source.replace(/\.cc$/, ".o")}`),
);
const built = objects.filter((path) => existsSync(path));

describe("objects of the CPU variants", () => {
  it.skipIf(built.length === 0)("have no weak symbol: the linker might keep the AVX-512 copy for every machine", () => {
    for (const path of built) {
      const lines = execFileSync("nm", ["-C", path], { encoding: "utf8" }).split("\n");
      expect(lines.filter((line) => / [WVu] /.test(line))).toEqual([]);
      expect(lines.filter((line) => / [DR] lr_cpu_/.test(line))).toHaveLength(1);
    }
  });

  it.skipIf(built.length === 0)("run nothing when they are loaded", () => {
    for (const path of built) expect(execFileSync("objdump", ["-h", path], { encoding: "utf8" })).not.toContain(".init_array");
  });
});
