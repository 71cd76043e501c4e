import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, lstat, open, realpath } from "node:fs/promises";
import { join, posix } from "node:path";
import { LowrankError } from "../errors.js";
import { LIMITS, readTextFile } from "./input.js";
import { parseJsonObject } from "./json.js";

export const MANIFEST = "manifest.json";

export interface ManifestFile {
  size: number;
  sha256: string;
}
export interface ManifestFacts {
  /** Optimizer steps done. */
  step?: number;
  /** SHA-256 of the configuration that the run had. */
  configHash?: string;
  /** Hash of the base model's weights. */
  baseHash?: string;
}
/** What a saved folder must hold; `checksum` covers the manifest itself. */
export interface Manifest extends ManifestFacts {
  formatVersion: 1;
  files: Record<string, ManifestFile>;
  checksum: string;
}
/** `problems`: one sentence for each thing that is wrong. */
export type FolderVerdict =
  | { ok: true; manifest: Manifest; problems: string[] }
  | { ok: false; manifest: Manifest | undefined; problems: string[] };

export function addChecksum(manifest: Omit<Manifest, "checksum">): Manifest {
  const names = Object.keys(manifest.files).sort();
  const files = Object.fromEntries(names.map((name) => [name, manifest.files[name]!]));
  const body = { ...manifest, files };
  return { ...body, checksum: sha256(JSON.stringify(body)) };
}

/** The one text of a manifest: any other one is a damaged one. */
export const manifestText = (manifest: Manifest): string => `${JSON.stringify(manifest, null, 2)}\n`;

/** Whether a file of that name lies in the folder and is none of the writer's own. */
export function isFileName(name: string): boolean {
  return (
    posix.normalize(name) === name &&
    !posix.isAbsolute(name) &&
    !name.endsWith("/") &&
    name !== "." &&
    name !== MANIFEST &&
    !/^\.\.|^\.lowrank|\0/.test(name)
  );
}

/** Reads and checks manifest.json itself, not the files it lists. Throws NOT_FOUND or INVALID_FILE. */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, MANIFEST);
  const bad = (what: string) =>
    new LowrankError("INVALID_FILE", `${path} ${what}`, { hint: "The folder cannot be trusted: use another checkpoint." });
  // Before it is opened: a pipe would never answer.
  const found = await lstat(path).catch(() => undefined);
  if (found !== undefined && !found.isFile()) throw bad("is not a regular file");
  const text = await readTextFile(path, LIMITS.config);
  const manifest = parseJsonObject(text, path) as unknown as Manifest;
  const { checksum, ...body } = manifest;
  if (checksum !== sha256(JSON.stringify(body)) || text !== manifestText(manifest)) throw bad("does not match its own checksum");
  if (body.formatVersion !== 1 || !isObject(body.files)) throw bad("has a form this version does not know");
  for (const [name, file] of Object.entries(body.files)) {
    if (!isFileName(name)) throw bad(`lists '${name}', which cannot be a file of the folder`);
    if (!isObject(file) || !Number.isSafeInteger(file.size) || !/^[0-9a-f]{64}$/.test(String(file.sha256)))
      throw bad(`lists '${name}' without its size and SHA-256`);
  }
  return manifest;
}

/**
 * The manifest of what a save replaces; undefined where there is none, or a damaged one. A disk that fails is no reason to believe so:
 * files of the old state would stay beside the new ones.
 */
export async function formerManifest(folder: string): Promise<Manifest | undefined> {
  return readManifest(folder).catch((error) => {
    const refused = error instanceof LowrankError ? (error.cause as NodeJS.ErrnoException | undefined) : error;
    if ((error as LowrankError).code !== "NOT_FOUND" && refused?.syscall !== undefined) throw refused;
    return undefined;
  });
}

/**
 * Checks a saved folder against its manifest: every listed file is there with its size and SHA-256. Files not listed do not matter.
 * @param placeOf the folder in which a file is looked for
 */
export async function verifyFolder(
  folder: string,
  placeOf: (name: string) => Promise<string> = async () => folder,
): Promise<FolderVerdict> {
  let manifest: Manifest;
  try {
    manifest = await readManifest(folder);
  } catch (error) {
    return { ok: false, manifest: undefined, problems: [(error as Error).message] };
  }
  const problems: string[] = [];
  for (const [name, expected] of Object.entries(manifest.files))
    problems.push(...(await problemsOf(await placeOf(name), name, expected)));
  return { ok: problems.length === 0, manifest, problems };
}

/** What is wrong with one file of a folder, in sentences. */
export async function problemsOf(folder: string, name: string, expected: ManifestFile): Promise<string[]> {
  try {
    const path = join(await realpath(folder), name);
    if ((await realpath(path)) !== path) return [`${name} is a link to somewhere else`];
    // Opening a pipe without O_NONBLOCK would wait for its writer.
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const found = await handle.stat();
      if (!found.isFile()) return [`${name} is not a regular file`];
      if (found.size !== expected.size) return [`${name} has ${found.size} bytes instead of ${expected.size}`];
      if ((await hashOf(handle)) !== expected.sha256) return [`${name} has changed since it was written (SHA-256 differs)`];
      return [];
    } finally {
      await handle.close();
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return [code === "ENOENT" || code === "ENOTDIR" ? `${name} is missing` : `${name} cannot be read: ${message}`];
  }
}

async function hashOf(handle: FileHandle): Promise<string> {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(1 << 20);
  for (;;) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EINTR") throw error;
      return { bytesRead: undefined }; // a signal came first: again
    });
    if (bytesRead === 0) return hash.digest("hex");
    hash.update(buffer.subarray(0, bytesRead ?? 0));
  }
}

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
