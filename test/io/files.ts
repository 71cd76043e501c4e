import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import { LowrankError } from "../../src/errors.js";

const folders: string[] = [];

/** A temporary folder, removed after the test. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-test-"));
  folders.push(folder);
  return folder;
}

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** The LowrankError a promise rejects with; anything else fails the test. */
export async function errorOf(promise: Promise<unknown>): Promise<LowrankError> {
  const outcome = await promise.then(
    () => "no error",
    (error) => error,
  );
  if (outcome instanceof LowrankError) return outcome;
  throw outcome instanceof Error ? outcome : new Error(`expected a LowrankError, got ${outcome}`);
}

/** Bytes of a safetensors file with this header text (or object) and data. */
export function safetensorsBytes(header: unknown, data: Uint8Array = new Uint8Array(0), headerLength?: bigint): Uint8Array {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = Buffer.alloc(8 + text.length + data.length);
  bytes.writeBigUInt64LE(headerLength ?? BigInt(text.length));
  text.copy(bytes, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}
