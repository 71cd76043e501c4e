import { type FileHandle, open, readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { writeFileDurable } from "./durable.js";
import { writing } from "./system-errors.js";

/** An append-only file of JSON lines. A line that a kill cut short is dropped when the log is opened again. */
export class JsonLog {
  private constructor(
    private readonly path: string,
    private readonly handle: FileHandle,
  ) {}

  /**
   * Opens or creates the log; with `keep`, lines for which it returns false are removed first (steps that a resumed run does again).
   * This and what follows throws NO_SPACE, or CHECKPOINT when the file cannot be written.
   */
  static open(file: string, keep: (entry: unknown) => boolean = () => true): Promise<JsonLog> {
    const path = resolve(file);
    return writing(path, async () => {
      const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
        return "";
      });
      const kept = text
        .split("\n")
        .slice(0, -1)
        .filter((line) => isKept(line, keep))
        .map((line) => `${line}\n`)
        .join("");
      // Whole or not at all: lines of steps that are done must outlive a kill.
      await writeFileDurable(path, kept);
      return new JsonLog(path, await open(path, "a"));
    });
  }

  append(entry: unknown): Promise<void> {
    return writing(this.path, () => this.handle.appendFile(`${JSON.stringify(entry)}\n`));
  }

  /** Puts what was appended on the disk. */
  sync(): Promise<void> {
    return writing(this.path, () => this.handle.sync());
  }

  /** Flushes to the disk and closes. */
  close(): Promise<void> {
    return writing(this.path, async () => {
      try {
        await this.handle.sync();
      } finally {
        await this.handle.close();
      }
    });
  }
}

function isKept(line: string, keep: (entry: unknown) => boolean): boolean {
  try {
    return keep(JSON.parse(line));
  } catch {
    return false;
  }
}
