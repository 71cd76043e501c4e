import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
// @ts-expect-error: a script of the build, without types
import { withIncludes } from "../../scripts/build-steps/files.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "lowrank-build-"));
afterAll(() => rmSync(folder, { recursive: true }));

function build(env: Record<string, string>) {
  return spawnSync(process.execPath, [join(root, "scripts/build.mjs"), "--native"], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
}

describe("the build", () => {
  it("names everything that is missing in one message, with the command that installs it", () => {
    const { status, stderr } = build({ CXX: "no-such-compiler", PATH: folder });
    expect(status).toBe(1);
    expect(stderr).toContain(
      "compiling the native code needs a C++17 compiler (no-such-compiler does not run), make, python3, git.",
    );
    expect(stderr).toContain("apt-get install -y g++ make python3 git");
  });

  it("refuses an old compiler", () => {
    const old = join(folder, "g++-old");
    writeFileSync(old, "#!/bin/sh\necho 10\n", { mode: 0o755 });
    expect(build({ CXX: old }).stderr).toContain(`g++ 11 or newer (${old} is 10)`);
  });

  it("takes over the lock of a dead process and releases its own", () => {
    const lock = join(folder, "lock");
    const dead = spawnSync(process.execPath, ["-e", "0"]).pid;
    writeFileSync(lock, String(dead));
    const script = `import { withLock } from ${JSON.stringify(join(root, "scripts/build-steps/lock.mjs"))};
      import { readFileSync } from "node:fs";
      withLock(${JSON.stringify(lock)}, console.error, () => console.log(readFileSync(${JSON.stringify(lock)}, "utf8") === String(process.pid)));`;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8", timeout: 10_000 });
    expect(child.stdout.trim()).toBe("true");
    expect(existsSync(lock)).toBe(false);
  });

  it("compiles every source there is, and no other", () => {
    const list = JSON.parse(readFileSync(join(root, "native/sources.json"), "utf8"));
    const listed = [
      ...list.addon,
      ...list.core,
      ...list.cpu,
      ...Object.values(list.isa).flatMap((v) => (v as { sources?: string[] }).sources ?? []),
      ...list.cuda.sources,
      ...list.emu.sources,
      ...list.emu.tests,
    ];
    const folders = ["addon", "core", "cpu", "emu"].map((folder) => `native/${folder}/*.cc`);
    const git = spawnSync("git", ["ls-files", ...folders, "native/*.cu"], { cwd: root, encoding: "utf8" });
    expect(listed.sort()).toEqual(git.stdout.trim().split("\n").sort());
  });

  it("knows what a kernel is made of as the compiler does: another header costs it nothing", () => {
    const { cuda, emu } = JSON.parse(readFileSync(join(root, "native/sources.json"), "utf8"));
    const sources: string[] = [...cuda.sources, ...emu.sources, ...emu.tests];
    const compiler = process.env.CXX || "g++";
    const { stdout } = spawnSync(compiler, ["-std=c++17", "-MM", "-x", "c++", ...sources], { cwd: root, encoding: "utf8" });
    const words = (rule: string) => rule.trim().split(/\s+/).slice(1);
    const rules = stdout.replaceAll("\\\n", " ").trim().split("\n");
    const made = rules.map((rule) => [...new Set(words(rule).map((path) => normalize(path)))].sort());
    expect(made).toEqual(sources.map((source) => withIncludes(root, source)));
  });
});
