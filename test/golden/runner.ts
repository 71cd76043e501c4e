import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { handlerFor } from "./kinds/index.js";
import type { GoldenCase, GoldenOptions, GoldenOutcome } from "./types.js";

/** One line of `npm run golden -- DIR --json` (interface.md). */
export interface GoldenLine {
  case: string;
  kind: string;
  ok: boolean;
  skipped?: true;
  maxError: number | null;
  reason: string | null;
}

/** Folders under `dir` (itself included) that hold a case.json, in name order. */
export function findCases(dir: string): string[] {
  const root = resolve(dir);
  if (existsSync(join(root, "case.json"))) return [root];
  return readdirSync(root)
    .sort()
    .map((name) => join(root, name))
    .filter((path) => statSync(path).isDirectory())
    .flatMap((path) => findCases(path));
}

export async function runCase(dir: string, options: GoldenOptions): Promise<GoldenLine> {
  const spec = JSON.parse(readFileSync(join(dir, "case.json"), "utf8"));
  const kind = typeof spec.kind === "string" ? spec.kind : "unknown";
  const goldenCase: GoldenCase = { dir, name: `${basename(dirname(dir))}/${basename(dir)}`, spec, options };
  const outcome = await runHandler(goldenCase, kind);
  return {
    case: goldenCase.name,
    kind,
    ok: outcome.ok,
    ...(outcome.skipped ? { skipped: true as const } : {}),
    maxError: outcome.maxError ?? null,
    reason: outcome.reason ?? null,
  };
}

async function runHandler(c: GoldenCase, kind: string): Promise<GoldenOutcome> {
  const handler = handlerFor(kind);
  if (!handler) return { ok: false, skipped: true, reason: `kind '${kind}' is not supported yet` };
  try {
    return await handler(c);
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) };
  }
}
