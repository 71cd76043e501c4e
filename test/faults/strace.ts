import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Fails, never skips, where strace is missing. */
export function assertStrace(): void {
  if (spawnSync("strace", ["--version"]).status !== 0) throw new Error("these tests need strace: apt-get install -y strace");
}

/** One system call of a recording. */
export interface Call {
  thread: "main" | "pool";
  name: string;
  /** Its number among calls of that name in its thread, from 1. */
  number: number;
  /** Seconds. */
  time: number;
  /** The text of its arguments and result, as strace prints them. */
  text: string;
}

/** strace on threads of a process that runs already. */
export class Strace {
  private constructor(private readonly child: ChildProcess) {}

  /** Resolves when the thread (with -ff: all of its process) is traced. */
  static async attach(thread: number, options: readonly string[]): Promise<Strace> {
    const child = spawn("strace", [...options, "-p", String(thread)], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let text = "";
    child.stderr!.setEncoding("utf8");
    for await (const data of child.stderr!.iterator({ destroyOnReturn: false })) {
      text += data;
      if (text.includes("attached")) return new Strace(child);
    }
    throw new Error(`strace: ${text}`);
  }

  async detach(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const closed = once(this.child, "exit");
    this.child.kill("SIGINT");
    await closed;
  }
}

/** All file calls of both threads while `work` runs, in their order. */
export async function record(
  threads: { main: number; pool: number },
  folder: string,
  work: () => Promise<unknown>,
  options: readonly string[] = [],
): Promise<Call[]> {
  const prefix = join(folder, "trace");
  const calls = "trace=%file,%desc,fsync,fdatasync,ftruncate,fallocate,statfs,getcwd";
  const strace = await Strace.attach(threads.main, ["-ff", "-y", "-ttt", "-o", prefix, "-e", calls, ...options]);
  await work();
  await strace.detach();
  const all: Call[] = [];
  for (const file of readdirSync(folder)) {
    const thread = file.endsWith(`.${threads.main}`) ? "main" : file.endsWith(`.${threads.pool}`) ? "pool" : undefined;
    if (thread === undefined) continue; // V8's helpers touch no files
    const counts = new Map<string, number>();
    for (const line of readFileSync(join(folder, file), "latin1").split("\n")) {
      const match = /^(\d+\.\d+) (\w+)(\(.*)$/.exec(line);
      if (!match) continue;
      const [, time, name, text] = match as unknown as [string, string, string, string];
      const number = (counts.get(name) ?? 0) + 1;
      counts.set(name, number);
      all.push({ thread, name, number, time: Number(time), text });
    }
  }
  return all.sort((a, b) => a.time - b.time);
}
