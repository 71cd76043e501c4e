import { execFileSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync, symlinkSync, writeFileSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";

/** An input made to hurt: what is written into a folder, how it is opened, and what has to come of it. */
export interface Bomb {
  name: string;
  write(folder: string): void;
  open(folder: string): Promise<unknown>;
  code: string;
  message: RegExp;
}

export function file(folder: string, name: string, content: string | Uint8Array): void {
  mkdirSync(dirname(join(folder, name)), { recursive: true });
  writeFileSync(join(folder, name), content);
}

/** A file that begins with `content` and goes on with zeros, which take no room on the disk. */
export function sparse(folder: string, name: string, size: number, content: string | Uint8Array = ""): void {
  file(folder, name, "");
  const handle = openSync(join(folder, name), "w");
  writeSync(handle, Buffer.from(content));
  ftruncateSync(handle, size);
  closeSync(handle);
}

export const fifo = (folder: string, name: string) => execFileSync("mkfifo", [join(folder, name)]);
/** A link in the place of what may be there. */
export function link(folder: string, name: string, target: string): void {
  rmSync(join(folder, name), { force: true });
  symlinkSync(target, join(folder, name));
}

/** A safetensors file with this header text. */
export function header(text: string, data: Uint8Array = new Uint8Array(0), length = BigInt(Buffer.byteLength(text))): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length);
  return Buffer.concat([prefix, Buffer.from(text), data]);
}

export const MIB = 1 << 20;
export const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
/** A JSON object of about `bytes` bytes that is all small values: what takes most memory for its size. */
export const crowded = (bytes: number) => `{"a":[${"{},".repeat(bytes / 3 - 10)}0]}`;
