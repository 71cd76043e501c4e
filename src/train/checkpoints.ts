import { readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type FolderWriter, settleFolder, writeFolder } from "../io/durable.js";
import { type ManifestFacts, verifyFolder } from "../io/manifest.js";

export interface CheckpointEntry {
  step: number;
  path: string;
}

export interface FoundCheckpoint extends CheckpointEntry {
  /** Newer ones that were passed over, with what is wrong with them. */
  skipped: { path: string; problems: string[] }[];
}

const NAME = /^checkpoint-(\d+)$/;
const DOOMED = ".deleting-";

/** Checkpoints of a run folder, newest first; whether they can be trusted is another question. */
export async function listCheckpoints(outputDir: string): Promise<CheckpointEntry[]> {
  const names = await readdir(outputDir).catch(() => []);
  return names
    .flatMap((name) => {
      const match = NAME.exec(name);
      return match ? [{ step: Number(match[1]), path: join(outputDir, name) }] : [];
    })
    .sort((a, b) => b.step - a.step);
}

/** The newest checkpoint whose manifest confirms every byte, or undefined when there is none. */
export async function newestVerified(outputDir: string): Promise<FoundCheckpoint | undefined> {
  const skipped: FoundCheckpoint["skipped"] = [];
  for (const entry of await listCheckpoints(outputDir)) {
    await settleFolder(entry.path);
    const verdict = await verifyFolder(entry.path);
    if (verdict.ok) return { ...entry, skipped };
    skipped.push({ path: entry.path, problems: verdict.problems });
  }
  return undefined;
}

/** Writes `checkpoint-<step>` durably; resolves when it is on the disk under its name. */
export async function saveCheckpoint(
  outputDir: string,
  step: number,
  body: (dir: FolderWriter) => Promise<void>,
  options: { needed: number; facts: ManifestFacts },
): Promise<string> {
  const path = join(outputDir, `checkpoint-${step}`);
  await writeFolder(path, body, { needed: options.needed, facts: { ...options.facts, step }, replace: true });
  return path;
}

/**
 * Removes what is older than the `keep` newest checkpoints that verify. Damaged ones do not count, so `keep` good ones always stay.
 */
export async function pruneCheckpoints(outputDir: string, keep: number): Promise<void> {
  for (const name of await readdir(outputDir)) {
    if (name.startsWith(DOOMED)) await rm(join(outputDir, name), { recursive: true, force: true });
  }
  let good = 0;
  for (const entry of await listCheckpoints(outputDir)) {
    if (good >= keep) await removeCheckpoint(entry);
    else if ((await verifyFolder(entry.path)).ok) good++;
  }
}

/** Removes a checkpoint; renamed first, so that a kill in between leaves no half checkpoint under a checkpoint's name. */
export async function removeCheckpoint({ path, step }: CheckpointEntry): Promise<void> {
  const doomed = join(dirname(path), `${DOOMED}${step}`);
  await rename(path, doomed);
  await rm(doomed, { recursive: true, force: true });
}
