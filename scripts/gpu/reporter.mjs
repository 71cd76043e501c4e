// Writes a JSON line for every test that ran to the file LOWRANK_SUITE_OUT, under the section LOWRANK_SUITE_SECTION: also what a test measured
// (`task.meta.row`), and what went wrong outside any test.
import { appendFileSync } from "node:fs";
import { relative } from "node:path";

const { LOWRANK_SUITE_OUT: out, LOWRANK_SUITE_SECTION: section } = process.env;
const say = (row) => appendFileSync(out, `${JSON.stringify({ section, ...row })}\n`);
const file = (module) => relative(process.cwd(), module.moduleId);
const failed = (name, reason) => say({ kind: "test", file: name, name: "(outside any test)", status: "failed", ms: 0, reason });

export default class SuiteReporter {
  onTestCaseResult(test) {
    const { state, errors, note } = test.result();
    const reason = errors?.[0]?.message ?? note ?? (state === "skipped" ? "not for this device or machine" : undefined);
    const ms = Math.round(test.diagnostic()?.duration ?? 0);
    say({ kind: "test", file: file(test.module), name: test.fullName, status: state, ms, reason });
    if (test.meta().row) say(test.meta().row);
  }
  onTestRunEnd(modules, unhandled) {
    for (const module of modules) for (const error of module.errors()) failed(file(module), error.message);
    for (const error of unhandled) failed("", error.message);
  }
}
