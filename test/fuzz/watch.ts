/** What a mutant may take and leave behind, measured from outside the code that opens it. */
import fs, { readdirSync, readFileSync, readlinkSync, realpathSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { dirname, sep } from "node:path";
import { setTimeout } from "node:timers/promises";
import { getDevice } from "../../src/tensor/device.js";

const MB = 1 << 20;
export const LIMIT_SECONDS = 1;
export const LIMIT_BYTES = 64 * MB;

export interface Taken {
  /** Processor seconds of the whole process. */
  seconds: number;
  /** Resident memory at its highest above where it stood. */
  bytes: number;
}

const status = (key: string) =>
  Number(new RegExp(`^${key}:\\s*(\\d+) kB`, "m").exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;

/** Runs a body; the kernel's own high-water mark is reset before it. */
export async function measure(body: () => Promise<void>): Promise<Taken> {
  writeFileSync("/proc/self/clear_refs", "5");
  const before = status("VmRSS");
  const cpu = process.cpuUsage();
  await body();
  const { user, system } = process.cpuUsage(cpu);
  return { seconds: (user + system) / 1e6, bytes: status("VmHWM") - before };
}

/** Connections are not counted: the HTTP client keeps some open for its next request. */
const openFiles = () => readdirSync("/proc/self/fd").filter((fd) => !isSocket(`/proc/self/fd/${fd}`)).length;
const isSocket = (path: string) => {
  try {
    return readlinkSync(path).startsWith("socket:");
  } catch {
    return false; // the one that listed the folder is closed
  }
};
const prototypes = () =>
  [Object, Array, String, Number, Function, Promise, Map].map(({ prototype }) => Reflect.ownKeys(prototype).length).join();

/** Things that must be after a mutant as they were before it. */
export class Remains {
  private readonly live: number;
  private readonly tensors: number;
  private readonly files = openFiles();
  private readonly prototypes = prototypes();

  constructor() {
    const { live, tensors } = getDevice().memory;
    this.live = live;
    this.tensors = tensors;
  }

  async problems(): Promise<string[]> {
    await getDevice().synchronize();
    const { live, tensors } = getDevice().memory;
    const found: string[] = [];
    if (live !== this.live || tensors !== this.tensors)
      found.push(`${live - this.live} bytes in ${tensors - this.tensors} tensors are left on the device`);
    // A close that nobody waits for may come a moment later, on a busy machine much later.
    for (let waited = 0; openFiles() > this.files && waited < 2000; waited += 20) await setTimeout(20);
    const left = openFiles() - this.files;
    if (left > 0) found.push(`${left} files are left open`);
    if (prototypes() !== this.prototypes || Object.keys({}).length > 0) found.push("a prototype was changed");
    return found;
  }
}

const opened: string[] = [];

/** Notes every path that JavaScript opens from now on. */
export function spyOnFiles(): void {
  const note = (target: Record<string, unknown>, name: string) => {
    const original = target[name] as (path: unknown, ...rest: unknown[]) => unknown;
    target[name] = function (this: unknown, path: unknown, ...rest: unknown[]) {
      if (typeof path === "string") opened.push(path);
      return original.call(this, path, ...rest);
    };
  };
  for (const name of ["open", "readFile", "copyFile"]) note(fs.promises as unknown as Record<string, unknown>, name);
  for (const name of ["open", "openSync", "readFile", "readFileSync", "createReadStream", "copyFile"])
    note(fs as unknown as Record<string, unknown>, name);
  syncBuiltinESMExports();
}

/** Paths opened since the last call that lie, links followed, outside the folder; the process's own files do not count. */
export function openedOutside(folder: string): string[] {
  const root = realpathSync(folder);
  return opened.splice(0).filter((path) => {
    if (/^\/(proc|dev)\//.test(path)) return false;
    let real = path;
    while (real !== sep) {
      try {
        real = realpathSync(real);
        break;
      } catch {
        real = dirname(real); // it is gone, or was never there: where would it have been?
      }
    }
    return real !== root && !real.startsWith(root + sep) && !real.includes(`${sep}node_modules${sep}`);
  });
}
