/**
 * node:fs/promises under watch. Calls must come one after the other and be waited for; any one can be made to fail; and what a power cut
 * may undo is known at each of them: bytes until their file is fsynced, names until their folder is.
 */
import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, sep } from "node:path";

type Run = () => Promise<unknown>;
export interface Call {
  name: string;
  path: string;
  /** The new name of a rename or link, the flags of an open. */
  second: unknown;
}
const CHANGES = /^(write|appendFile|truncate|sync|close|open|mkdir|rename|rm|unlink|link|copyFile|writeFile)$/;
/** The writer's own files, and what is in its folders. */
const isOwn = (path: string) => path.split(sep).some((part) => part.startsWith(".lowrank"));
const isUnder = (path: string, folder: string) => path.startsWith(folder + sep);

export class WatchedDisk {
  readonly calls: Call[] = [];
  readonly wrong: string[] = [];
  running: Call[] = [];
  /** Files with bytes, and names of files and folders, that are not on the disk yet. */
  readonly #bytes = new Set<string>();
  readonly #names = new Set<string>();
  /** Whether the call that runs may make a name. */
  #isNew = false;

  /** @param failing number of the call that fails, from 1, or which ones fail */
  constructor(private readonly failing: number | ((call: Call) => boolean) = 0) {}

  async around(call: Call, run: Run): Promise<unknown> {
    const conflict = this.running.find(({ name }) => CHANGES.test(name) || CHANGES.test(call.name));
    if (conflict) this.wrong.push(`${say(call)} began before ${say(conflict)} had ended`);
    const number = this.calls.push(call);
    this.running.push(call);
    try {
      const fails = typeof this.failing === "number" ? number === this.failing : this.failing(call);
      const error = fails && Object.assign(new Error(`EIO of ${call.name}`), { code: "EIO", syscall: call.name });
      if (error && call.name !== "close") throw error;
      await new Promise(setImmediate);
      this.#before(call);
      const result = await run();
      if (error) throw error;
      this.#after(call, result);
      return result;
    } finally {
      this.running = this.running.filter((other) => other !== call);
    }
  }

  #before({ name, path, second }: Call): void {
    this.#isNew = !existsSync(path);
    const unsafe = (matches: (entry: string) => boolean, what: string) => {
      for (const entry of [...this.#names, ...this.#bytes])
        if (matches(entry)) this.wrong.push(`${what} before ${entry} is on the disk`);
    };
    if (name === "rename") {
      unsafe(
        (entry) => isUnder(entry, path) || isUnder(path, entry) || (entry === path && this.#bytes.has(path)),
        `${path} is renamed`,
      );
      if (basename(String(second)) === "manifest.json") unsafe((entry) => !isOwn(entry), "the manifest is replaced");
    }
    if (name === "rm" && holdsFiles(path))
      unsafe((entry) => !isOwn(entry) && dirname(entry) === dirname(path), `${path} is removed`);
  }

  #after({ name, path, second }: Call, result: unknown): void {
    if (name === "sync") {
      this.#bytes.delete(path);
      for (const entry of this.#names) if (dirname(entry) === path) this.#names.delete(entry);
    } else if (["write", "appendFile", "writeFile"].includes(name)) this.#bytes.add(path);
    else if (name === "open" && /[wa]/.test(String(second)) && this.#isNew) this.#names.add(path);
    else if (name === "mkdir") {
      const first = typeof result === "string" ? result : result === undefined && second === undefined ? path : undefined;
      for (let at = path; first !== undefined && at.length >= first.length; at = dirname(at)) this.#names.add(at);
    } else if (name === "rename") {
      this.#names.add(String(second));
      if (!isOwn(path)) this.#names.add(path);
    } else if (name === "rm" || name === "unlink") {
      for (const set of [this.#bytes, this.#names])
        for (const entry of set) if (entry === path || isUnder(entry, path)) set.delete(entry);
      this.#names.add(path);
    }
  }

  /** What a power cut may still undo, but for the writer's own files. */
  get unsafe(): string[] {
    return [...this.#names, ...this.#bytes].filter((entry) => !isOwn(entry));
  }
}
export const say = ({ name, path }: Call) => `${name} of ${path.replace(/\.lowrank-tmp-[\w-]+/g, "TEMP")}`;

function holdsFiles(path: string): boolean {
  try {
    return readdirSync(path, { recursive: true, withFileTypes: true }).some((entry) => !entry.isDirectory());
  } catch {
    return false;
  }
}

/** The module with every call reported to `watch.disk`, if there is one. */
export function watchedFs<M extends object>(real: M, watch: { disk?: WatchedDisk | undefined }): M {
  const watched = (name: string, path: string, second: unknown, run: Run) =>
    watch.disk ? watch.disk.around({ name, path, second }, run) : run();
  const handleOf = (handle: object, path: string): object =>
    new Proxy(handle, {
      get(target, key) {
        const member = Reflect.get(target, key, target);
        if (typeof member !== "function") return member;
        const run = (...args: unknown[]) => Reflect.apply(member, target, args) as Promise<unknown>;
        return /^(write|appendFile|truncate|sync|close|read|stat)$/.test(String(key))
          ? (...args: unknown[]) => watched(String(key), path, args[0], () => run(...args))
          : run;
      },
    });
  const functions = Object.entries(real).filter(([, member]) => typeof member === "function");
  const replaced = functions.map(([name, member]) => [
    name,
    (...args: unknown[]) =>
      watched(name, String(args[0]), args[1], async () => {
        const result = await Reflect.apply(member, undefined, args);
        return name === "open" ? handleOf(result as object, String(args[0])) : result;
      }),
  ]);
  return { ...real, ...Object.fromEntries(replaced) };
}
