import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { type FolderWriter, writeFolder } from "../io/durable.js";
import { removeFolder } from "../io/folders.js";
import { type ManifestFacts, verifyFolder } from "../io/manifest.js";
import { settleFolder } from "../io/settle.js";
import { reading, writing } from "../io/system-errors.js";

export interface CheckpointEntry {
  step: number;
  path: string;
}

export interface FoundCheckpoint extends CheckpointEntry {
  /** Newer ones that were passed over, with what is wrong with them. */
  skipped: { path: string; problems: string[] }[];
}

const NAME = /^checkpoint-(\d+)$/;

/** Checkpoints of a run folder, newest first; whether they can be trusted is another question. */
export async function listCheckpoints(outputDir: string): Promise<CheckpointEntry[]> {
  const names = await reading(outputDir, () => readdir(outputDir)).catch((error: LowrankError) => {
    if (error.details.errno !== "ENOENT") throw error;
    return [];
  });
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
  for (const { step, path } of await listCheckpoints(outputDir)) {
    const { ok, problems } = await examineCheckpoint(path);
    if (problems.length > 0) skipped.push({ path, problems });
    if (ok) return { step, path, skipped };
  }
  return undefined;
}

/**
 * Whether a checkpoint can be trusted, after a save that was cut short in it has been finished. Problems of one that is ok are those of
 * a newer save to the same folder, which was dropped.
 */
export async function examineCheckpoint(path: string): Promise<{ ok: boolean; problems: string[] }> {
  try {
    const dropped = await settleFolder(path);
    const { ok, problems } = await verifyFolder(path);
    return { ok, problems: [...dropped, ...problems] };
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code === "LOCKED") throw error;
    return { ok: false, problems: [error.message] };
  }
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

/** Removes what is older than the `keep` newest checkpoints that verify. Damaged ones do not count, so `keep` good ones always stay. */
export async function pruneCheckpoints(outputDir: string, keep: number): Promise<void> {
  let good = 0;
  for (const { path } of await listCheckpoints(outputDir)) {
    if (good >= keep) await removeCheckpoint(path);
    else if ((await examineCheckpoint(path)).ok) good++;
  }
}

export function removeCheckpoint(path: string): Promise<void> {
  return writing(path, () => removeFolder(path));
}
