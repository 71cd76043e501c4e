/** Damage of saved folders, one place at a time: each is found, and the sentence names the file. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { writeFolder } from "../../src/io/durable.js";
import { manifestText, readManifest, verifyFolder } from "../../src/io/manifest.js";
import { writeSafetensors } from "../../src/io/safetensors-write.js";
import { settleFolder } from "../../src/io/settle.js";
import { listCheckpoints, newestVerified, pruneCheckpoints, saveCheckpoint } from "../../src/train/checkpoints.js";
import { generator } from "../faults/random.js";
import { errorOf, tempFolder } from "./files.js";

const FILES = { "config.json": '{"a":1}', "sub/notes.txt": "some text", "weights.safetensors": 5000 };

async function save(target: string, word = ""): Promise<void> {
  await writeFolder(target, async (dir) => {
    await dir.file("config.json", FILES["config.json"]);
    await dir.file("sub/notes.txt", FILES["sub/notes.txt"] + word);
    const values = Float32Array.from({ length: 1250 }, (_, i) => Math.sin(i));
    const tensor = { name: "w", dtype: "F32" as const, shape: [1250], bytes: () => new Uint8Array(values.buffer) };
    await dir.file("weights.safetensors", (sink) => writeSafetensors(sink, {}, [tensor]));
  });
}
const files = ["config.json", "sub/notes.txt", "weights.safetensors", "manifest.json"];
const problems = async (folder: string) => (await verifyFolder(folder)).problems.join("; ");

describe("a saved folder", () => {
  it.each(files)("notices every cut of %s", async (name) => {
    const folder = join(tempFolder(), "c");
    await save(folder);
    const path = join(folder, name);
    const whole = readFileSync(path);
    // A large file at each of its first and last bytes and at some between.
    const cuts = Array.from({ length: whole.length }, (_, i) => i).filter(
      (i) => i < 300 || i > whole.length - 300 || i % 97 === 0,
    );
    for (const size of cuts.reverse()) {
      truncateSync(path, size);
      expect(await problems(folder), `${name} cut to ${size}`).toContain(name);
    }
    writeFileSync(path, whole);
    expect(await problems(folder)).toBe("");
  });

  it.each(files)("notices every bit flip tried in %s", async (name) => {
    const folder = join(tempFolder(), "c");
    await save(folder);
    const path = join(folder, name);
    const whole = readFileSync(path);
    const random = generator(Number(process.env.LOWRANK_SEED ?? 1));
    const every = whole.length * 8 <= 2000;
    const flips = Number(process.env.LOWRANK_FLIPS ?? 300);
    const bits = every
      ? Array.from({ length: whole.length * 8 }, (_, i) => i)
      : Array.from({ length: flips }, () => Math.floor(random() * whole.length * 8));
    for (const bit of bits) {
      const bytes = Buffer.from(whole);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      writeFileSync(path, bytes);
      expect(await problems(folder), `${name} bit ${bit}`).toContain(name);
    }
  });

  it("is not trusted where a file is a link, a pipe or a folder, and never waits", async () => {
    const folder = join(tempFolder(), "c");
    const good = join(tempFolder(), "good");
    await save(good);
    const replaced = async (name: string, make: (path: string) => void) => {
      rmSync(folder, { recursive: true, force: true });
      await save(folder);
      rmSync(join(folder, name), { recursive: true });
      make(join(folder, name));
      return problems(folder);
    };
    expect(await replaced("config.json", (path) => symlinkSync(join(good, "config.json"), path))).toMatch(
      /config.json is a link/,
    );
    expect(await replaced("sub", (path) => symlinkSync(join(good, "sub"), path))).toMatch(/sub\/notes.txt is a link/);
    expect(await replaced("config.json", (path) => execFileSync("mkfifo", [path]))).toMatch(/config.json is not a regular file/);
    expect(await replaced("config.json", (path) => mkdirSync(path))).toMatch(/config.json is not a regular file/);
    expect(await replaced("manifest.json", (path) => execFileSync("mkfifo", [path]))).toMatch(
      /manifest.json is not a regular file/,
    );
    expect(await replaced("manifest.json", (path) => symlinkSync(join(good, "manifest.json"), path))).toMatch(
      /not a regular file/,
    );
    expect(await replaced("sub", (path) => writeFileSync(path, ""))).toMatch(/sub\/notes.txt is missing/);
    expect(await replaced("config.json", (path) => symlinkSync("config.json", path))).toMatch(
      /config.json cannot be read: ELOOP/,
    );
  });

  it("has a manifest whose form is checked, however it came there", async () => {
    const folder = tempFolder();
    const sha256 = "0".repeat(64);
    const signed = (body: object) => ({ ...body, checksum: createHash("sha256").update(JSON.stringify(body)).digest("hex") });
    const refusal = async (manifest: object) => {
      writeFileSync(join(folder, "manifest.json"), manifestText(signed(manifest) as never));
      const error = await errorOf(readManifest(folder));
      expect(error.code).toBe("INVALID_FILE");
      return error.message;
    };
    const listing = (name: string, file: unknown = { size: 1, sha256 }) => ({ formatVersion: 1, files: { [name]: file } });
    for (const name of ["../x", "/x", "a/../b", "a//b", ".", "a/", ".lowrank-commit/x", "manifest.json", "a\0b", ""])
      expect(await refusal(listing(name)), name).toMatch(/cannot be a file of the folder/);
    for (const file of [null, 1, {}, { size: 1 }, { size: "1", sha256 }, { size: 1, sha256: "00" }, { size: 1.5, sha256 }])
      expect(await refusal(listing("a", file))).toMatch(/without its size and SHA-256/);
    const wrong = [null, [], "x"].map((files) => ({ formatVersion: 1, files }));
    for (const manifest of [{ formatVersion: 2, files: {} }, { files: {} }, { formatVersion: 1 }, ...wrong])
      expect(await refusal(manifest)).toMatch(/form this version does not know/);
    writeFileSync(join(folder, "manifest.json"), JSON.stringify(signed({ formatVersion: 1, files: {} })));
    expect((await errorOf(readManifest(folder))).message).toMatch(/own checksum/); // right, but not the text that was written
  });
});

describe("a save that was cut short", () => {
  /** A folder with state "old", into which the next one was committed but not moved. */
  async function pending(): Promise<string> {
    const target = join(tempFolder(), "c");
    const next = join(tempFolder(), "n");
    await save(target, "old");
    await save(next, "new");
    cpSync(next, join(target, ".lowrank-commit"), { recursive: true });
    return target;
  }
  const text = (folder: string) => readFileSync(join(folder, "sub/notes.txt"), "utf8");

  it("is dropped where it is damaged and the old state is whole", async () => {
    for (const name of files) {
      const target = await pending();
      truncateSync(join(target, ".lowrank-commit", name), 5);
      expect((await settleFolder(target)).join()).toContain(name);
      expect(text(target)).toBe("some textold");
      expect(await problems(target)).toBe("");
      expect(readdirSync(target)).not.toContain(".lowrank-commit");
    }
  });

  it("is left where neither state is whole, and replaced by the next save", async () => {
    const target = await pending();
    truncateSync(join(target, ".lowrank-commit/config.json"), 5);
    truncateSync(join(target, "config.json"), 3);
    const error = await errorOf(settleFolder(target));
    expect(error.code).toBe("CHECKPOINT");
    expect(error.message).toContain("config.json has 5 bytes");
    expect(readdirSync(target)).toContain(".lowrank-commit");
    await save(target, "third");
    expect(text(target)).toBe("some textthird");
    expect(await problems(target)).toBe("");
    expect(readdirSync(target).sort()).toEqual(["config.json", "manifest.json", "sub", "weights.safetensors"]);
  });

  it("is finished from wherever it stopped", async () => {
    const target = await pending();
    cpSync(join(target, ".lowrank-commit/config.json"), join(target, "config.json"));
    rmSync(join(target, ".lowrank-commit/config.json"));
    expect(await settleFolder(target)).toEqual([]);
    expect(text(target)).toBe("some textnew");
    expect(await problems(target)).toBe("");
    mkdirSync(join(target, ".lowrank-commit/sub"), { recursive: true });
    expect(await settleFolder(target)).toEqual([]);
    expect(readdirSync(target)).not.toContain(".lowrank-commit");
  });

  it("never moves or removes what lies behind a link", async () => {
    const target = await pending();
    const elsewhere = tempFolder();
    writeFileSync(join(elsewhere, "notes.txt"), "mine");
    rmSync(join(target, "sub"), { recursive: true });
    symlinkSync(elsewhere, join(target, "sub"));
    expect((await errorOf(settleFolder(target))).message).toMatch(/behind a link/);
    expect(readFileSync(join(elsewhere, "notes.txt"), "utf8")).toBe("mine");
    // A file that the new state does not have any more.
    rmSync(join(target, ".lowrank-commit"), { recursive: true });
    await writeFolder(target, (dir) => dir.file("other", ""), { replace: true });
    expect(readFileSync(join(elsewhere, "notes.txt"), "utf8")).toBe("mine");
  });
});

describe("checkpoints", () => {
  const write = (run: string, step: number) =>
    saveCheckpoint(run, step, (dir) => dir.file("a", `step ${step}`), { needed: 100, facts: { configHash: "c" } });

  it("are passed over when damaged, with what is wrong, down to the newest that is whole", async () => {
    const run = tempFolder();
    for (const step of [1, 2, 3, 4, 5]) await write(run, step);
    truncateSync(join(run, "checkpoint-5/a"), 2);
    rmSync(join(run, "checkpoint-4/manifest.json"));
    // Settling this one fails: it must not end the search.
    cpSync(join(run, "checkpoint-2"), join(run, "checkpoint-3/.lowrank-commit"), { recursive: true });
    truncateSync(join(run, "checkpoint-3/.lowrank-commit/a"), 1);
    truncateSync(join(run, "checkpoint-3/a"), 1);
    const found = await newestVerified(run);
    expect(found?.step).toBe(2);
    expect(found?.skipped.map(({ path }) => path.slice(-1))).toEqual(["5", "4", "3"]);
    expect(found?.skipped.map(({ problems }) => problems.join())).toEqual([
      "a has 2 bytes instead of 6",
      expect.stringContaining("does not exist"),
      expect.stringContaining("was being replaced when its process ended"),
    ]);
    expect((await readManifest(join(run, "checkpoint-2"))).configHash).toBe("c");
  });

  it("are no worse for being in use", async () => {
    const run = tempFolder();
    for (const step of [1, 2]) await write(run, step);
    mkdirSync(join(run, "checkpoint-2/.lowrank-commit"));
    const lock = join(run, "checkpoint-2/.lowrank.lock");
    writeFileSync(lock, JSON.stringify({ pid: 1, host: "elsewhere" }));
    expect((await errorOf(newestVerified(run))).code).toBe("LOCKED");
    rmSync(lock);
    expect((await newestVerified(run))?.step).toBe(2);
  });

  it("hold nothing of an older one of the same step", async () => {
    const run = tempFolder();
    await saveCheckpoint(run, 1, (dir) => dir.file("b", ""), { needed: 100, facts: {} });
    await write(run, 1);
    expect(readdirSync(join(run, "checkpoint-1")).sort()).toEqual(["a", "manifest.json"]);
  });

  it("count for the limit only when they are whole", async () => {
    const run = tempFolder();
    for (const step of [1, 2, 3, 4]) await write(run, step);
    truncateSync(join(run, "checkpoint-4/a"), 2);
    await pruneCheckpoints(run, 2);
    expect((await listCheckpoints(run)).map(({ step }) => step)).toEqual([4, 3, 2]);
    expect(readdirSync(run)).toHaveLength(3);
    expect(await listCheckpoints(join(run, "absent"))).toEqual([]);
    expect((await errorOf(listCheckpoints(join(run, "checkpoint-2/a")))).code).toBe("CHECKPOINT");
    expect(await newestVerified(join(run, "absent"))).toBeUndefined();
  });
});
