/**
 * A disk that loses what was not fsynced. Recorded system calls are replayed on a model of files and folders in which
 * - bytes of a file are safe once the file was fsynced after they were written,
 * - an entry of a folder (created, renamed, removed) is safe once the folder was fsynced after the change,
 * - everything else may be lost at a power cut, each change by itself; a rename happens as a whole, and a folder is removed only after
 *   what was in it.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Call } from "./strace.js";

interface Node {
  entries?: Map<string, number>;
  data: Buffer;
}
interface Change {
  /** For a file's bytes: the file. For entries: undefined. */
  file?: number;
  /** New bytes at an offset, or a new size. */
  bytes?: { at: number; data: Buffer } | { size: number };
  /** Entries set (to a node) or removed. */
  entries?: { folder: number; name: string; node: number | undefined }[];
  /** A node that this change makes a folder. */
  isFolder?: number;
  /** A removed folder: what changed in it comes first. */
  removed?: number;
}
type Step = { change: Change } | { sync: number } | { announced: string };
/** Says of a change that is not safe whether the disk kept it: all of it, half of its bytes, or nothing. */
export type Keep = (change: Change, index: number) => boolean | "half";

export class CrashDisk {
  readonly steps: Step[] = [];
  readonly #before = new Map<number, Node>();
  readonly #now: Map<number, Node>;
  #next = 1;

  /** @param folder what was there and safe before; `root` is its path in the recording */
  constructor(
    folder: string,
    private readonly root: string,
    calls: readonly Call[],
  ) {
    this.#before.set(0, { entries: new Map(), data: Buffer.alloc(0) });
    this.#load(folder, 0);
    this.#now = copy(this.#before);
    const open = new Map<number, { node: number; at: number; append: boolean }>();
    for (const call of calls) this.#replay(call, open);
  }

  #load(folder: string, to: number): void {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const node = this.#next++;
      const path = join(folder, entry.name);
      this.#before.get(to)!.entries!.set(entry.name, node);
      this.#before.set(node, entry.isDirectory() ? { entries: new Map(), data: Buffer.alloc(0) } : { data: readFileSync(path) });
      if (entry.isDirectory()) this.#load(path, node);
    }
  }

  /** Folder and name of a path of the recording; undefined outside the root. */
  #place(path: string): { folder: number; name: string; node: number | undefined } | undefined {
    if (path !== this.root && !path.startsWith(`${this.root}/`)) return undefined;
    const parts = path
      .slice(this.root.length + 1)
      .split("/")
      .filter(Boolean);
    let folder = 0;
    for (const part of parts.slice(0, -1)) folder = this.#now.get(folder)?.entries?.get(part) ?? Number.NaN;
    const name = parts.at(-1) ?? "";
    return { folder, name, node: name === "" ? 0 : this.#now.get(folder)?.entries?.get(name) };
  }

  #change(change: Change): void {
    this.steps.push({ change });
    apply(this.#now, change, true);
  }

  #replay({ name, text }: Call, open: Map<number, { node: number; at: number; append: boolean }>): void {
    const result = Number(/ = (-?\d+)/.exec(text)?.[1] ?? Number.NaN);
    if (!(result >= 0)) return;
    const strings = [...text.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map((match) =>
      Buffer.from(match[1]!.replaceAll("\\x", ""), "hex"),
    );
    const paths = strings.map((bytes) => this.#place(bytes.toString()));
    const [first, second] = paths;
    const fd = Number(/^\((\d+)/.exec(text)?.[1] ?? Number.NaN);
    const handle = open.get(fd);
    switch (name) {
      case "openat": {
        open.delete(result);
        if (!first) return;
        let { node } = first;
        if (node === undefined) {
          node = this.#next++;
          this.#now.set(node, { data: Buffer.alloc(0) });
          this.#change({ entries: [{ ...first, node }] });
        } else if (text.includes("O_TRUNC")) this.#change({ file: node, bytes: { size: 0 } });
        open.set(result, { node, at: 0, append: text.includes("O_APPEND") });
        return;
      }
      case "close":
        open.delete(fd);
        return;
      case "write": {
        const announced = /"announced":"([^"]*)"/.exec(strings[0]?.toString() ?? "")?.[1];
        if (announced !== undefined) this.steps.push({ announced });
        if (!handle) return;
        if (handle.append) handle.at = this.#now.get(handle.node)!.data.length;
        this.#change({ file: handle.node, bytes: { at: handle.at, data: strings[0]!.subarray(0, result) } });
        handle.at += result;
        return;
      }
      case "pwrite64":
        if (handle) {
          const at = Number(/, \d+, (\d+)\) =/.exec(text)![1]);
          this.#change({ file: handle.node, bytes: { at, data: strings[0]!.subarray(0, result) } });
        }
        return;
      case "ftruncate":
      case "fallocate": {
        if (handle) this.#change({ file: handle.node, bytes: { size: Number(/, (\d+)\) =/.exec(text)![1]) } });
        return;
      }
      case "fsync":
      case "fdatasync":
        if (handle) this.steps.push({ sync: handle.node });
        return;
      case "mkdir": {
        if (!first) return;
        const node = this.#next++;
        this.#change({ entries: [{ ...first, node }], isFolder: node });
        return;
      }
      case "link":
        if (second) this.#change({ entries: [{ ...second, node: first!.node }] });
        return;
      case "rename":
        if (first && second)
          this.#change({
            entries: [
              { ...first, node: undefined },
              { ...second, node: first.node },
            ],
          });
        return;
      case "unlink":
        if (first) this.#change({ entries: [{ ...first, node: undefined }] });
        return;
      case "rmdir":
        if (first) this.#change({ entries: [{ ...first, node: undefined }], removed: first.node! });
        return;
      case "writev":
      case "pwritev":
      case "renameat2":
      case "copy_file_range":
        if (handle || first) throw new Error(`the model of a disk does not know ${name}`);
    }
  }

  /** What was reported as saved in the first `count` steps. */
  announced(count: number): string[] {
    return this.steps.slice(0, count).flatMap((step) => ("announced" in step ? [step.announced] : []));
  }

  /** Indices of the changes among the first `count` steps that a power cut may undo. */
  unsafe(count: number): number[] {
    const steps = this.steps.slice(0, count);
    return [...steps.keys()].filter((i) => "change" in steps[i]! && !isSafe(steps, i));
  }

  /** The files after a power cut behind the first `count` steps: name (folders with a slash) to content. */
  after(count: number, keep: Keep): Map<string, Buffer> {
    const steps = this.steps.slice(0, count);
    const kept = steps.map((step, i): boolean | "half" => {
      if (!("change" in step)) return false;
      const { change } = step;
      return isSafe(steps, i) || keep(change, i);
    });
    // A folder goes after what was in it.
    steps.forEach((step, i) => {
      if (!("change" in step) || step.change.removed === undefined || !kept[i]) return;
      for (let j = 0; j < i; j++) {
        const earlier = steps[j]!;
        if ("change" in earlier && earlier.change.entries && touches(earlier.change, step.change.removed)) kept[j] = true;
      }
    });
    const disk = copy(this.#before);
    steps.forEach((step, i) => {
      if ("change" in step && kept[i]) apply(disk, step.change, kept[i]!);
    });
    return list(disk);
  }
}

/** Whether a change was fsynced after it was made. */
function isSafe(steps: readonly Step[], index: number): boolean {
  const step = steps[index]!;
  return "change" in step && steps.slice(index).some((later) => "sync" in later && touches(step.change, later.sync));
}

function touches({ file, entries }: Change, node: number): boolean {
  return file === node || (entries?.some(({ folder }) => folder === node) ?? false);
}

function apply(disk: Map<number, Node>, { file, bytes, entries, isFolder }: Change, how: true | "half"): void {
  if (isFolder !== undefined) nodeOf(disk, isFolder, true);
  for (const { folder, name, node } of entries ?? []) {
    const within = nodeOf(disk, folder, true);
    if (node === undefined) within.entries!.delete(name);
    else within.entries!.set(name, node);
  }
  if (file === undefined || bytes === undefined) return;
  const node = nodeOf(disk, file, false);
  if ("size" in bytes) {
    const data = Buffer.alloc(bytes.size);
    node.data.copy(data);
    node.data = data;
    return;
  }
  const part = how === "half" ? bytes.data.subarray(0, bytes.data.length >> 1) : bytes.data;
  const data = Buffer.alloc(Math.max(node.data.length, bytes.at + part.length));
  node.data.copy(data);
  part.copy(data, bytes.at);
  node.data = data;
}

function nodeOf(disk: Map<number, Node>, id: number, folder: boolean): Node {
  const found = disk.get(id) ?? { data: Buffer.alloc(0) };
  if (folder) found.entries ??= new Map();
  disk.set(id, found);
  return found;
}

const copy = (disk: ReadonlyMap<number, Node>) =>
  new Map([...disk].map(([id, { entries, data }]) => [id, { data, ...(entries && { entries: new Map(entries) }) }]));

function list(disk: ReadonlyMap<number, Node>, folder = 0, prefix = ""): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const [name, id] of disk.get(folder)?.entries ?? []) {
    const node = disk.get(id);
    if (node?.entries) {
      found.set(`${prefix}${name}/`, Buffer.alloc(0));
      for (const [inner, data] of list(disk, id, `${prefix}${name}/`)) found.set(inner, data);
    } else found.set(`${prefix}${name}`, node?.data ?? Buffer.alloc(0));
  }
  return found;
}

/** Makes the files of a state in a folder that is not there yet. */
export function materialise(state: ReadonlyMap<string, Buffer>, folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, data] of state) {
    if (name.endsWith("/")) mkdirSync(join(folder, name), { recursive: true });
    else writeFileSync(join(folder, name), data);
  }
}

/** A folder as `after` gives it. */
export function stateOf(folder: string, prefix = ""): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      found.set(`${prefix}${entry.name}/`, Buffer.alloc(0));
      for (const [name, data] of stateOf(path, `${prefix}${entry.name}/`)) found.set(name, data);
    } else found.set(`${prefix}${entry.name}`, readFileSync(path));
  }
  return found;
}
