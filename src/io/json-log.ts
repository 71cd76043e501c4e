import { type FileHandle, mkdir, open } from "node:fs/promises";
import { dirname } from "node:path";

/** An append-only file of JSON lines. A line that a kill cut short is dropped when the log is opened again. */
export class JsonLog {
  private constructor(private readonly handle: FileHandle) {}

  /** Opens or creates the log; with `keep`, lines for which it returns false are removed first (steps that a resumed run does again). */
  static async open(path: string, keep: (entry: unknown) => boolean = () => true): Promise<JsonLog> {
    await mkdir(dirname(path), { recursive: true });
    const handle = await open(path, "a+");
    try {
      const text = await handle.readFile("utf8");
      const kept = text
        .split("\n")
        .slice(0, -1)
        .filter((line) => isKept(line, keep))
        .map((line) => `${line}\n`)
        .join("");
      if (kept !== text) {
        await handle.truncate(0);
        await handle.appendFile(kept);
      }
      return new JsonLog(handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async append(entry: unknown): Promise<void> {
    await this.handle.appendFile(`${JSON.stringify(entry)}\n`);
  }

  /** Flushes to the disk and closes. */
  async close(): Promise<void> {
    await this.handle.sync();
    await this.handle.close();
  }
}

function isKept(line: string, keep: (entry: unknown) => boolean): boolean {
  try {
    return keep(JSON.parse(line));
  } catch {
    return false;
  }
}
