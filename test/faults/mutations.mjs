/**
 * Removes one fsync, rename, close, clean-up or check of the save path at a time and runs the tests that should notice.
 * node test/faults/mutations.mjs [--list] [--only REGEX]     ends with 1 when a mutant survives
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";

const root = join(import.meta.dirname, "../..");
const FILES = ["io/durable", "io/folders", "io/settle", "io/lock", "io/manifest", "io/space", "io/json-log", "train/checkpoints"];
const TESTS = [
  ["run", "--bail", "1", "test/io/damage.test.ts", "test/io/lock-space.test.ts", "test/io/durable.test.ts"],
  ["run", "--bail", "1", "--config", "vitest.faults.config.ts", "test/faults/power-cut.faults.ts"],
  ["run", "--bail", "1", "--config", "vitest.faults.config.ts", "test/faults/syscalls.faults.ts", "-t", "run|export over"],
];

/** Every awaited statement, every throw, and every answer that names a problem. */
function mutants(file) {
  const text = readFileSync(join(root, `src/${file}.ts`), "utf8");
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found = [];
  const add = (node, replacement) => {
    const begin = node.getStart();
    const line = source.getLineAndCharacterOfPosition(begin).line + 1;
    const what = node.getText().replace(/\s+/g, " ").slice(0, 90);
    found.push({ file, name: `${file}.ts:${line} ${what}`, text: text.slice(0, begin) + replacement + text.slice(node.end) });
  };
  const visit = (node) => {
    if (ts.isExpressionStatement(node) && ts.isAwaitExpression(node.expression)) add(node, ";");
    if (ts.isThrowStatement(node)) add(node, ";");
    if (ts.isReturnStatement(node) && node.expression && ts.isArrayLiteralExpression(node.expression) && node.expression.elements.length > 0) add(node, "return [];");
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

const option = (name) => process.argv[process.argv.indexOf(name) + 1];
const only = process.argv.includes("--only") ? new RegExp(option("--only")) : /./;
const all = FILES.flatMap(mutants).filter(({ name }) => only.test(name));
if (process.argv.includes("--list")) {
  for (const { name } of all) console.log(name);
  process.exit();
}

const copy = mkdtempSync(join(tmpdir(), "lowrank-mutations-"));
for (const name of ["src", "test", "dist", "native", "package.json", "tsconfig.json", "vitest.config.ts", "vitest.faults.config.ts"])
  cpSync(join(root, name), join(copy, name), { recursive: true });
for (const name of ["node_modules", "build"]) symlinkSync(join(root, name), join(copy, name));
const compilerOptions = { module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022 };
const put = (file, text) => {
  writeFileSync(join(copy, `src/${file}.ts`), text);
  writeFileSync(join(copy, `dist/${file}.js`), ts.transpileModule(text, { compilerOptions, fileName: `${file}.mts` }).outputText);
};
const failing = () =>
  TESTS.findIndex((tests) => {
    const env = { ...process.env, LOWRANK_CUTS: "1", LOWRANK_FLIPS: "40" };
    const args = [join(copy, "node_modules/vitest/vitest.mjs"), ...tests];
    return spawnSync(process.execPath, args, { cwd: copy, env, stdio: "ignore", timeout: 600_000 }).status !== 0;
  });

let survived = 0;
try {
  // The copy itself must pass, or every mutant would seem to be noticed.
  if (!process.argv.includes("--trust") && failing() !== -1) throw new Error("the tests fail without any mutation");
  for (const { file, name, text } of all) {
    const begin = Date.now();
    const original = readFileSync(join(root, `src/${file}.ts`), "utf8");
    put(file, text);
    const noticed = failing();
    put(file, original);
    if (noticed === -1) survived++;
    console.log(`${noticed === -1 ? "SURVIVED" : `noticed by ${["unit tests", "power cuts", "system calls"][noticed]}`} (${((Date.now() - begin) / 1000).toFixed(0)} s): ${name}`);
  }
  console.log(`${all.length} mutants, ${all.length - survived} noticed, ${survived} survived`);
} finally {
  rmSync(copy, { recursive: true, force: true });
}
process.exitCode = survived > 0 ? 1 : 0;
