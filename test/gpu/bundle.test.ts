/** The archive for a GPU machine: what is in it, what it may weigh, and the lines that its suite writes. Packing itself is `npm run gpu:bundle`. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
// @ts-expect-error: plain JavaScript, as all scripts
import { bundledFiles, MOST_BYTES, manifestOf, newestOf, packages, tooLarge } from "../../scripts/gpu/manifest.mjs";
// @ts-expect-error: plain JavaScript, as all scripts
import { SECTIONS, skippedOn, TESTS } from "../../scripts/gpu/sections.mjs";
import { tempFolder } from "../io/files.js";

const root = join(import.meta.dirname, "../..");

describe("the bundle", () => {
  const files: string[] = bundledFiles(root);

  it("has what the suite needs, once each, and nothing that compiles or checks", () => {
    expect(new Set(files).size).toBe(files.length);
    for (const path of [
      "build/cuda/lowrank_cuda.so",
      "dist/cli/main.js",
      "scripts/gpu/suite.mjs",
      "test/gpu/golden.gpu.ts",
      "node_modules/vitest/vitest.mjs",
    ])
      expect(files).toContain(path);
    // All but the plugin, which needs nvcc.
    expect(files.filter((path) => !existsSync(join(root, path))).filter((path) => path !== "build/cuda/lowrank_cuda.so")).toEqual(
      [],
    );
    expect(files.filter((path) => /node_modules\/(typescript|@biomejs|@types|node-gyp|esbuild|tsx)\//.test(path))).toEqual([]);
    for (const [section, tests] of Object.entries(TESTS as Record<string, string[]>))
      for (const test of tests)
        expect(
          files.some((path) => path.startsWith(test.replace("*", ""))),
          `${section}: ${test}`,
        ).toBe(true);
  });

  it("takes packages with all that they need", () => {
    const found = packages(root, ["vitest"]);
    expect(found).toEqual(
      expect.arrayContaining(["node_modules/vitest", "node_modules/vite", "node_modules/@vitest/runner", "node_modules/chai"]),
    );
    expect(packages(root, ["yaml"])).toEqual(["node_modules/yaml"]);
  });

  it("may have 60 MiB", () => {
    expect(tooLarge(MOST_BYTES)).toBeUndefined();
    expect(tooLarge(MOST_BYTES + 1)).toMatch(/^the archive has 60\.0 MiB, more than the 60\.0 MiB it may have$/);
  });

  it("knows the C library that a program needs", () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "a"), "\0GLIBC_2.4\0GLIBCXX_3.4.9\0GLIBC_2.34\0GLIBC_2.17\0GLIBCXX_3.4.30\0");
    writeFileSync(join(folder, "b"), "\0GLIBC_PRIVATE\0");
    expect(newestOf("GLIBC", [join(folder, "a"), join(folder, "b")])).toBe("2.34");
    expect(newestOf("GLIBCXX", [join(folder, "a")])).toBe("3.4.30");
    expect(newestOf("GLIBC", [join(folder, "b")])).toBe("0");
  });
});

/** Runs the suite; exit status, what it said, and its lines. */
function suite(at: string, args: string[], env: Record<string, string> = {}) {
  const out = join(tempFolder(), "suite.jsonl");
  const child = spawnSync(process.execPath, [join(at, "scripts/gpu/suite.mjs"), "--out", out, ...args], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  const lines = existsSync(out) ? readFileSync(out, "utf8").split("\n").slice(0, -1) : [];
  return { status: child.status, said: child.stderr, lines: lines.map((line) => JSON.parse(line)) };
}

describe("the suite", () => {
  it("writes a line a test and section, between the machine and a summary", () => {
    const { status, said, lines } = suite(root, [
      "--device",
      "cpu",
      "--only",
      "paged,peers,memory",
      "--python",
      "/nothing/python3",
    ]);
    expect(status, said).toBe(0);
    expect(lines[0]).toMatchObject({ kind: "machine", device: "cpu", node: process.version, cores: expect.any(Number) });
    const sections = lines.filter(({ kind }) => kind === "section");
    expect(sections).toEqual([
      { kind: "section", section: "paged", status: "skipped", reason: skippedOn("paged", "cpu"), seconds: expect.any(Number) },
      {
        kind: "section",
        section: "peers",
        status: "skipped",
        reason: "there is no /nothing/python3",
        seconds: expect.any(Number),
      },
      {
        kind: "section",
        section: "memory",
        status: "passed",
        passed: expect.any(Number),
        failed: 0,
        skipped: 0,
        seconds: expect.any(Number),
      },
    ]);
    const tests = lines.filter(({ kind }) => kind === "test");
    expect(tests.length).toBe(sections[2].passed);
    for (const test of tests)
      expect(test).toMatchObject({
        section: "memory",
        file: expect.stringMatching(/^test\//),
        name: expect.any(String),
        status: "passed",
        ms: expect.any(Number),
      });
    const rows = lines.filter(({ kind }) => kind === "memory");
    expect(rows.length).toBeGreaterThan(1);
    for (const row of rows)
      expect(row).toMatchObject({
        section: "memory",
        seq: expect.any(Number),
        held_bytes: expect.any(Number),
        estimated_bytes: expect.any(Number),
        tokens_per_s: expect.any(Number),
      });
    expect(lines.at(-1)).toEqual({
      kind: "summary",
      device: "cpu",
      status: "passed",
      passed: ["memory"],
      failed: [],
      skipped: ["paged", "peers"],
    });
  }, 300_000);

  it("fails where a test fails, and where nothing ran", () => {
    const failing = suite(root, ["--device", "cpu", "--only", "memory"], { LOWRANK_MEMORY_LIMIT: "300k" });
    expect(failing.status).toBe(1);
    expect(failing.lines.at(-1)).toMatchObject({ status: "failed", failed: ["memory"] });
    expect(failing.lines.find(({ kind, status }) => kind === "test" && status === "failed")).toMatchObject({
      section: "memory",
      reason: expect.stringContaining("out of memory"),
    });
    expect(suite(root, ["--device", "cpu", "--only", "paged"]).lines.at(-1)).toMatchObject({ status: "nothing ran" });
  }, 300_000);

  it("says what it does not know, and ends with 3 where there is no GPU", () => {
    expect(suite(root, ["--only", "speed"])).toMatchObject({
      status: 2,
      said: expect.stringContaining(`there are ${SECTIONS.join(", ")}`),
    });
    expect(suite(root, ["--device", "cuda:7"])).toMatchObject({ status: 2, said: expect.stringContaining("no device cuda:7") });
    const none = suite(root, [], { LOWRANK_CUDA_PLUGIN: "/nothing.so" });
    expect(none.status).toBe(3);
    expect(none.lines.at(-1)).toMatchObject({
      kind: "summary",
      status: "no device",
      reason: expect.stringContaining("CUDA plugin"),
    });
  });

  it("refuses an archive that was damaged, and a C library that is too old", () => {
    const folder = tempFolder();
    mkdirSync(join(folder, "scripts/gpu"), { recursive: true });
    for (const file of ["suite.mjs", "sections.mjs"]) cpSync(join(root, "scripts/gpu", file), join(folder, "scripts/gpu", file));
    cpSync(join(root, "scripts/gpu/run-suite.sh"), join(folder, "run-suite.sh"));
    const manifest = manifestOf(folder, ["scripts/gpu/sections.mjs"], { version: "0", glibc: "2.99" });
    expect(manifest.files).toEqual([
      {
        path: "scripts/gpu/sections.mjs",
        bytes: readFileSync(join(folder, "scripts/gpu/sections.mjs")).length,
        sha256: createHash("sha256")
          .update(readFileSync(join(folder, "scripts/gpu/sections.mjs")))
          .digest("hex"),
      },
    ]);
    writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest, null, 1));
    const old = spawnSync("sh", [join(folder, "run-suite.sh")], { encoding: "utf8" });
    expect(old).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^This archive needs glibc 2\.99 or newer; this system has 2\.\d+/),
    });
    writeFileSync(
      join(folder, "scripts/gpu/sections.mjs"),
      `${readFileSync(join(folder, "scripts/gpu/sections.mjs"), "utf8")}\n`,
    );
    expect(suite(folder, ["--device", "cpu"])).toMatchObject({
      status: 1,
      said: expect.stringContaining("scripts/gpu/sections.mjs among them; unpack the archive again"),
    });
  });
});
