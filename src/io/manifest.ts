import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join, posix } from "node:path";
import { pipeline } from "node:stream/promises";
import { LowrankError } from "../errors.js";
import { readJsonFile } from "./json.js";

export const MANIFEST = "manifest.json";

export interface ManifestFile {
  size: number;
  sha256: string;
}
export interface ManifestFacts {
  /** Optimizer steps done. */
  step?: number;
  configHash?: string;
  baseHash?: string;
}
/** What a saved folder must hold; `checksum` covers the manifest itself. */
export interface Manifest extends ManifestFacts {
  formatVersion: 1;
  files: Record<string, ManifestFile>;
  checksum: string;
}
export interface FolderVerdict {
  ok: boolean;
  manifest: Manifest | undefined;
  /** One sentence for each thing that is wrong. */
  problems: string[];
}

export function addChecksum(manifest: Omit<Manifest, "checksum">): Manifest {
  const files = Object.fromEntries(Object.entries(manifest.files).sort(([a], [b]) => (a < b ? -1 : 1)));
  const body = { ...manifest, files };
  return { ...body, checksum: sha256(JSON.stringify(body)) };
}

/** Reads and checks manifest.json itself, not the files it lists. Throws NOT_FOUND or INVALID_FILE. */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, MANIFEST);
  const manifest = (await readJsonFile(path, 16 * 1024 * 1024)) as unknown as Manifest;
  const { checksum, ...body } = manifest;
  const bad = (what: string) =>
    new LowrankError("INVALID_FILE", `${path} ${what}`, { hint: "The folder cannot be trusted: use another checkpoint." });
  if (checksum !== sha256(JSON.stringify(body))) throw bad("does not match its own checksum");
  if (body.formatVersion !== 1 || body.files === null || typeof body.files !== "object")
    throw bad("has a form this version does not know");
  for (const name of Object.keys(body.files)) {
    if (posix.normalize(name) !== name || posix.isAbsolute(name) || name.startsWith(".."))
      throw bad(`lists '${name}', which leaves the folder`);
  }
  return manifest;
}

/** Checks a saved folder against its manifest: every listed file is there with its size and SHA-256. Files not listed do not matter. */
export async function verifyFolder(folder: string): Promise<FolderVerdict> {
  let manifest: Manifest;
  try {
    manifest = await readManifest(folder);
  } catch (error) {
    return { ok: false, manifest: undefined, problems: [(error as Error).message] };
  }
  const problems: string[] = [];
  for (const [name, expected] of Object.entries(manifest.files)) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    if (!found?.isFile()) problems.push(`${name} is missing`);
    else if (found.size !== expected.size) problems.push(`${name} has ${found.size} bytes instead of ${expected.size}`);
    else if ((await hashFile(path)) !== expected.sha256)
      problems.push(`${name} has changed since it was written (SHA-256 differs)`);
  }
  return { ok: problems.length === 0, manifest, problems };
}

/** SHA-256 of a file as lower-case hex. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex");
}

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
