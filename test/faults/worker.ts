import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface Request {
  act: "reference" | "warm up" | "prepare" | "work" | "check";
  scenario: string;
  /** Folder to work in, and folder of the files that are right. */
  dir?: string;
  at: string;
  announced?: readonly string[];
}
export interface Outcome {
  ended: "done" | "failed" | "killed";
  /** What was reported as saved. */
  announced: string[];
  typed?: boolean;
  code?: string;
  message?: string;
}
type Line = { ready?: { main: number; pool: number }; announced?: string; done?: string; failed?: string } & Partial<Outcome>;

/** A process that runs the workload on dist/ (or LOWRANK_DIST), with one thread for file calls so that their order is always the same. */
export class Worker {
  /** Thread ids. */
  readonly threads: Promise<{ main: number; pool: number }>;
  readonly #child: ChildProcess;
  readonly #lines: Line[] = [];
  #wake = () => {};
  #ended = false;
  #errors = "";

  constructor(env: Record<string, string> = {}) {
    this.#child = spawn(process.execPath, [join(import.meta.dirname, "child.mjs")], {
      env: { ...process.env, UV_THREADPOOL_SIZE: "1", UV_USE_IO_URING: "0", ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.#child.stdin!.on("error", () => {});
    this.#child.stderr!.on("data", (data) => {
      this.#errors += data;
    });
    createInterface({ input: this.#child.stdout! }).on("line", (line) => {
      this.#lines.push(JSON.parse(line));
      this.#wake();
    });
    this.#child.on("close", () => {
      this.#ended = true;
      this.#wake();
    });
    this.threads = this.#next().then((line) => {
      if (!line?.ready) throw new Error(`the worker did not start: ${this.#errors}`);
      return line.ready;
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }
  get ended(): boolean {
    return this.#ended;
  }

  async #next(): Promise<Line | undefined> {
    while (this.#lines.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#lines.shift();
  }

  /** Sends one request and waits until it is done, has failed, or the process is gone. */
  async ask(request: Request): Promise<Outcome> {
    await this.threads;
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const announced: string[] = [];
    for (;;) {
      const line = await this.#next();
      if (line === undefined) return { ended: "killed", announced, message: this.#errors };
      if (line.announced !== undefined) announced.push(line.announced);
      else if (line.done !== undefined) return { ended: "done", announced };
      else if (line.failed !== undefined) return { ...line, ended: "failed", announced };
    }
  }

  /** As `ask`, for what must not fail. */
  async must(request: Request): Promise<Outcome> {
    const outcome = await this.ask(request);
    if (outcome.ended !== "done") throw new Error(`${request.act}: ${outcome.ended}: ${outcome.message}`);
    return outcome;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async end(): Promise<void> {
    this.#child.stdin!.end();
    while (!this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
