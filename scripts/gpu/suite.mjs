// The suite on one device: `node scripts/gpu/suite.mjs [--device cuda:0|emu|cpu] [--only SECTION,…] [--out FILE] [--python PYTHON]`.
// Writes JSON lines: the machine, a line a test and measurement, a line a section, a summary. Ends with 1 where something failed, with 3 where the
// device is not there.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { PROGRAMS, SECTIONS, skippedOn, TESTS } from "./sections.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    only: { type: "string", default: SECTIONS.join(",") },
    out: { type: "string", default: "lowrank-suite.jsonl" },
    python: { type: "string", default: "python3" },
  },
});
const { device, python } = values;
const out = resolve(values.out);
const chosen = values.only.split(",");
const unknown = chosen.filter((name) => !SECTIONS.includes(name));
const say = (text) => process.stderr.write(`${text}\n`);
const write = (row) => appendFileSync(out, `${JSON.stringify(row)}\n`);
const rows = () =>
  readFileSync(out, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));

if (!["cuda:0", "emu", "cpu"].includes(device) || unknown.length > 0) {
  say(
    unknown.length > 0
      ? `no section ${unknown.join(", ")}: there are ${SECTIONS.join(", ")}`
      : `no device ${device}: cuda:0, emu or cpu`,
  );
  process.exit(2);
}

/** Of an unpacked bundle: its manifest, every file of which must be as it was packed. A checkout has none. */
function readManifest() {
  const path = join(root, "manifest.json");
  if (!existsSync(path)) return undefined;
  const manifest = JSON.parse(readFileSync(path, "utf8"));
  const wrong = manifest.files.filter(({ path, sha256 }) => {
    const file = join(root, path);
    return !existsSync(file) || createHash("sha256").update(readFileSync(file)).digest("hex") !== sha256;
  });
  if (wrong.length === 0) return manifest;
  say(`files that are not as they were packed: ${wrong.length}, ${wrong[0].path} among them; unpack the archive again`);
  process.exit(1);
}

const text = (program, args) => spawnSync(program, args, { encoding: "utf8" }).stdout?.trim() || undefined;

const gpu =
  device === "cuda:0" ? text("nvidia-smi", ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]) : undefined;

function machine(manifest) {
  return {
    kind: "machine",
    device,
    gpu,
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memory_bytes: totalmem(),
    kernel: release(),
    glibc: process.report.getReport().header.glibcVersionRuntime,
    node: process.version,
    commit: manifest?.commit ?? text("git", ["-C", root, "rev-parse", "--short=10", "HEAD"]),
    when: new Date().toISOString().slice(0, 19),
  };
}

/** Whether the device can be used; what is missing is said by the library itself. */
function deviceProblem() {
  const doctor = text(process.execPath, [join(root, "dist/cli/main.js"), "doctor", "--json"]);
  if (!doctor) return "lowrank doctor gave no report";
  const { kernels, problems, cuda } = JSON.parse(doctor);
  const problem = kernels ? (device !== "cuda:0" || cuda.usable ? undefined : cuda) : problems[0];
  return problem && `${problem.message} ${problem.remedy ?? ""}`;
}

/** Those of test/emu know no CPU. */
function files(section) {
  const names = TESTS[section].filter((name) => device !== "cpu" || !name.startsWith("test/emu/"));
  return names.flatMap((name) => {
    if (!name.endsWith("*")) return [name];
    const begin = name.slice(0, -1);
    return readdirSync(join(root, dirname(begin)))
      .map((file) => `${dirname(begin)}/${file}`)
      .filter((file) => file.startsWith(begin) && /\.test\.ts$/.test(file));
  });
}

function runTests(section) {
  const vitest = join(root, "node_modules/vitest/vitest.mjs");
  const args = [
    "run",
    "--config",
    "vitest.gpu.config.ts",
    "--reporter",
    "default",
    "--reporter",
    "./scripts/gpu/reporter.mjs",
    ...files(section),
  ];
  const env = { ...process.env, LOWRANK_TEST_DEVICES: device, LOWRANK_SUITE_OUT: out, LOWRANK_SUITE_SECTION: section };
  return spawnSync(process.execPath, [vitest, ...args], { cwd: root, env, stdio: ["ignore", 2, 2] });
}

function runProgram(section) {
  const [program, ...args] =
    section === "bench"
      ? [
          process.execPath,
          join(root, "dist/cli/main.js"),
          "bench",
          "ops",
          "--device",
          device,
          "--gpu",
          /4090/.test(gpu ?? "") ? "rtx4090" : "h100",
          "--json",
        ]
      : [python, join(root, "scripts/gpu/peers.py"), "--device", device === "cpu" ? "cpu" : "cuda"];
  const child = spawnSync(program, args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", 2], maxBuffer: 1 << 26 });
  for (const line of (child.stdout ?? "").split("\n")) if (line.startsWith("{")) write({ section, ...JSON.parse(line) });
  return child;
}

function run(section) {
  const reason = skippedOn(section, device);
  if (reason !== undefined) return { status: "skipped", reason };
  const child = PROGRAMS.includes(section) ? runProgram(section) : runTests(section);
  // 75 (EX_TEMPFAIL): what it needs is not to be had here, as its last line says.
  if (section === "peers" && child.error?.code === "ENOENT") return { status: "skipped", reason: `there is no ${python}` };
  const mine = rows().filter((row) => row.section === section);
  if (child.status === 75) return { status: "skipped", reason: mine.at(-1)?.reason ?? "not to be had here" };
  const count = (status) => mine.filter((row) => row.status === status).length;
  const counts =
    section in TESTS ? { passed: count("passed"), failed: count("failed"), skipped: count("skipped") } : { rows: mine.length };
  if (child.status !== 0)
    return { status: "failed", ...counts, reason: child.error?.message ?? `ended with ${child.signal ?? child.status}` };
  if (section === "peers" && count("skipped") === mine.length)
    return { status: "skipped", ...counts, reason: mine.at(-1)?.reason };
  // Nothing that passed is not a pass.
  if (mine.length === 0 || counts.passed === 0) return { status: "failed", ...counts, reason: "nothing ran" };
  return { status: "passed", ...counts };
}

const manifest = readManifest();
writeFileSync(out, "");
write(machine(manifest));
const problem = deviceProblem();
if (problem !== undefined) {
  write({ kind: "summary", device, status: "no device", reason: problem });
  say(`${device}: ${problem}`);
  process.exit(3);
}
const results = chosen.map((section) => {
  say(`== ${section}`);
  const begin = Date.now();
  const row = { kind: "section", section, ...run(section), seconds: Math.round((Date.now() - begin) / 100) / 10 };
  write(row);
  say(`-- ${section}: ${row.status}${row.reason ? `: ${row.reason}` : ""}`);
  return row;
});
const of = (status) => results.filter((row) => row.status === status).map(({ section }) => section);
const summary = {
  kind: "summary",
  device,
  status: of("failed").length > 0 ? "failed" : "passed",
  passed: of("passed"),
  failed: of("failed"),
  skipped: of("skipped"),
};
if (summary.status === "passed" && summary.passed.length === 0) summary.status = "nothing ran";
write(summary);
say(
  `${device}: ${summary.passed.length} sections passed, ${summary.failed.length} failed, ${summary.skipped.length} skipped; all of it in ${out}`,
);
process.exitCode = summary.failed.length > 0 ? 1 : 0;
