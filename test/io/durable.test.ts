import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { writeFileDurable, writeFolder } from "../../src/io/durable.js";
import { JsonLog } from "../../src/io/json-log.js";
import { lockFolder } from "../../src/io/lock.js";
import { readManifest, verifyFolder } from "../../src/io/manifest.js";
import { settleFolder } from "../../src/io/settle.js";
import { errorOf, tempFolder } from "./files.js";

describe("writeFolder", () => {
  it("writes files with sizes and SHA-256 in a manifest", async () => {
    const target = join(tempFolder(), "checkpoint-1");
    await writeFolder(
      target,
      async (dir) => {
        await dir.file("a.txt", "abc");
        await dir.file("sub/b.bin", async (sink) => {
          await sink.write(Uint8Array.of(1, 2));
          await sink.write(Uint8Array.of(3));
        });
      },
      { facts: { step: 1, baseHash: "b" } },
    );
    const verdict = await verifyFolder(target);
    expect(verdict).toMatchObject({ ok: true, problems: [], manifest: { step: 1, baseHash: "b", formatVersion: 1 } });
    // The SHA-256 of "abc" from FIPS 180-4.
    expect(verdict.manifest?.files["a.txt"]).toEqual({
      size: 3,
      sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    });
    expect([...readFileSync(join(target, "sub/b.bin"))]).toEqual([1, 2, 3]);
    expect(readdirSync(join(target, ".."))).toEqual(["checkpoint-1"]);
  });

  it("makes a folder without files", async () => {
    const target = join(tempFolder(), "c");
    await writeFolder(target, async () => {});
    expect(readdirSync(target)).toEqual(["manifest.json"]);
  });

  it("names every kind of damage", async () => {
    const target = join(tempFolder(), "c");
    const damage = async (harm: () => void) => {
      rmSync(target, { recursive: true, force: true });
      await writeFolder(target, (dir) => dir.file("a.txt", "abcdef"), { facts: { step: 12 } });
      harm();
      return (await verifyFolder(target)).problems.join();
    };
    expect(await damage(() => writeFileSync(join(target, "a.txt"), "abcdeg"))).toMatch(/a.txt has changed/);
    expect(await damage(() => writeFileSync(join(target, "a.txt"), "abc"))).toMatch(/a.txt has 3 bytes instead of 6/);
    expect(await damage(() => rmSync(join(target, "a.txt")))).toMatch(/a.txt is missing/);
    expect(await damage(() => rmSync(join(target, "manifest.json")))).toMatch(/does not exist/);
    const manifest = join(target, "manifest.json");
    expect(await damage(() => writeFileSync(manifest, readFileSync(manifest, "utf8").replace("12", "13")))).toMatch(
      /own checksum/,
    );
    expect(await damage(() => writeFileSync(join(target, "unlisted"), "x"))).toBe("");
  });

  it("replaces what it wrote before and never touches other files", async () => {
    const target = tempFolder();
    writeFileSync(join(target, "mine.txt"), "kept");
    await writeFolder(target, async (dir) => {
      await dir.file("b", "1");
      await dir.file("a", "1");
    });
    expect(Object.keys((await readManifest(target)).files)).toEqual(["a", "b"]);
    await writeFolder(target, (dir) => dir.file("a", "2"));
    expect(readdirSync(target).sort()).toEqual(["a", "b", "manifest.json", "mine.txt"]);
    expect((await verifyFolder(target)).ok).toBe(true);
    await writeFolder(target, (dir) => dir.file("sub/a", "3"), { replace: true });
    expect(readdirSync(target).sort()).toEqual(["manifest.json", "mine.txt", "sub"]);
    expect((await verifyFolder(target)).ok).toBe(true);
  });

  it("replaces a folder whose manifest is damaged", async () => {
    const target = tempFolder();
    for (const replace of [false, true]) {
      writeFileSync(join(target, "manifest.json"), "{");
      await writeFolder(target, (dir) => dir.file("a", String(replace)), { replace });
      expect(readFileSync(join(target, "a"), "utf8")).toBe(String(replace));
      expect((await verifyFolder(target)).ok).toBe(true);
    }
  });

  it("does not miss what it would have removed", async () => {
    const target = tempFolder();
    await writeFolder(target, async (dir) => {
      for (const name of ["a", "sub/b", "sub/deep/c", "other/d"]) await dir.file(name, "");
    });
    for (const name of ["sub", "other"]) rmSync(join(target, name), { recursive: true });
    writeFileSync(join(target, "sub"), "mine");
    await writeFolder(target, (dir) => dir.file("a", ""), { replace: true });
    expect(readdirSync(target).sort()).toEqual(["a", "manifest.json", "sub"]);
    expect(readFileSync(join(target, "sub"), "utf8")).toBe("mine");
  });

  it("leaves everything as it was when writing fails", async () => {
    const parent = tempFolder();
    const target = join(parent, "c");
    await writeFolder(target, (dir) => dir.file("a", "old"));
    const failing = writeFolder(target, async (dir) => {
      await dir.file("a", "new");
      throw new Error("stop");
    });
    await expect(failing).rejects.toThrow("stop");
    expect(readFileSync(join(target, "a"), "utf8")).toBe("old");
    expect(readdirSync(target).sort()).toEqual(["a", "manifest.json"]);
    expect((await errorOf(writeFolder(target, (dir) => dir.file("../x", "")))).code).toBe("INVALID_ARGUMENT");
    expect((await errorOf(writeFolder(join(target, "a", "b"), (dir) => dir.file("x", "")))).code).toBe("CHECKPOINT");
  });

  it("refuses before writing when the disk is too small, and explains a full disk met while writing", async () => {
    const target = join(tempFolder(), "c");
    const error = await errorOf(writeFolder(target, (dir) => dir.file("a", ""), { needed: 2 ** 60 }));
    expect(error.code).toBe("NO_SPACE");
    expect(error.message).toMatch(/1048576.0 TiB are needed, .* are free/);
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC", syscall: "write" });
    expect((await errorOf(writeFolder(target, () => Promise.reject(full)))).code).toBe("NO_SPACE");
    expect(existsSync(target)).toBe(false);
  });

  it("finishes a committed save and forgets an uncommitted one", async () => {
    const target = tempFolder();
    await writeFolder(target, (dir) => dir.file("a", "old"));
    const next = join(tempFolder(), "n");
    await writeFolder(next, async (dir) => {
      await dir.file("a", "new");
      await dir.file("sub/b", "new");
    });
    // What a kill right after the commit leaves: the complete set in the commit folder, the old files outside.
    mkdirSync(join(target, ".lowrank-commit", "sub"), { recursive: true });
    for (const name of ["a", "sub/b", "manifest.json"])
      writeFileSync(join(target, ".lowrank-commit", name), readFileSync(join(next, name)));
    await settleFolder(target);
    expect(readFileSync(join(target, "a"), "utf8")).toBe("new");
    expect(readdirSync(target).sort()).toEqual(["a", "manifest.json", "sub"]);
    expect((await verifyFolder(target)).ok).toBe(true);
  });

  it("can be read and settled by others while it is replaced", async () => {
    const target = tempFolder();
    const write = (text: string) =>
      writeFolder(target, async (dir) => {
        for (const name of ["a", "b", "sub/c"]) await dir.file(name, text);
      });
    await write("0");
    let writing = true;
    const reader = async () => {
      while (writing) await settleFolder(target);
    };
    const readers = [reader(), reader()];
    for (let i = 1; i <= 20; i++) await write(String(i));
    writing = false;
    await Promise.all(readers);
    expect(await verifyFolder(target)).toMatchObject({ ok: true });
    expect(["a", "b", "sub/c"].map((name) => readFileSync(join(target, name), "utf8"))).toEqual(["20", "20", "20"]);
    expect(readdirSync(target).sort()).toEqual(["a", "b", "manifest.json", "sub"]);
  });

  it("removes temporary folders of dead processes only", async () => {
    const parent = tempFolder();
    const live = `.lowrank-tmp-${process.pid}-${readFileSync(`/proc/${process.pid}/stat`, "utf8").split(") ")[1]?.split(" ")[19]}-00000000`;
    for (const name of [".lowrank-tmp-999999999-1-00000000", `.lowrank-tmp-${process.pid}-1-00000000`, live])
      mkdirSync(join(parent, name));
    await writeFolder(join(parent, "c"), (dir) => dir.file("a", ""));
    expect(readdirSync(parent).sort()).toEqual([live, "c"].sort());
  });

  it("leaves the old or the new files after kill -9 at any moment", async () => {
    const target = join(tempFolder(), "c");
    const script = `import { writeFolder } from "${join(process.cwd(), "src/io/durable.ts")}";
      for (let i = 1; ; i++) {
        await writeFolder(${JSON.stringify(target)}, async (dir) => { for (const n of ["a", "b", "sub/c"]) await dir.file(n, String(i).repeat(2000)); });
        if (i === 1) console.log("first");
      }`;
    for (let round = 0; round < 6; round++) {
      const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      await new Promise((resolve) => child.stdout.once("data", resolve));
      await sleep(round * 7);
      child.kill("SIGKILL");
      await new Promise((resolve) => child.once("exit", resolve));
      await settleFolder(target);
      expect(await verifyFolder(target)).toMatchObject({ ok: true });
      expect(new Set(["a", "b", "sub/c"].map((name) => readFileSync(join(target, name), "utf8"))).size).toBe(1);
    }
  }, 60_000);
});

describe("writeFileDurable", () => {
  it("replaces a file and keeps the old one on failure", async () => {
    const folder = tempFolder();
    const path = join(folder, "x.json");
    await writeFileDurable(path, "1");
    await writeFileDurable(path, Uint8Array.of(0x32));
    await expect(writeFileDurable(path, () => Promise.reject(new Error("stop")))).rejects.toThrow("stop");
    expect(readFileSync(path, "utf8")).toBe("2");
    expect(readdirSync(folder)).toEqual(["x.json"]);
  });
});

describe("JsonLog", () => {
  it("appends, drops a line that a kill cut short, and drops what a resumed run repeats", async () => {
    const path = join(tempFolder(), "log.jsonl");
    let log = await JsonLog.open(path);
    for (let step = 1; step <= 3; step++) await log.append({ step });
    await log.close();
    writeFileSync(path, `${readFileSync(path, "utf8")}{"step":4,"lo`);
    log = await JsonLog.open(path);
    await log.append({ step: 4 });
    await log.close();
    expect(readFileSync(path, "utf8")).toBe('{"step":1}\n{"step":2}\n{"step":3}\n{"step":4}\n');
    log = await JsonLog.open(path, (entry) => (entry as { step: number }).step <= 2);
    await log.append({ step: 3 });
    await log.close();
    expect(readFileSync(path, "utf8")).toBe('{"step":1}\n{"step":2}\n{"step":3}\n');
    writeFileSync(path, '{"step":1}\n{"st\n{"step":2}\n');
    await (await JsonLog.open(path)).close();
    expect(readFileSync(path, "utf8")).toBe('{"step":1}\n{"step":2}\n');
  });
});

describe("lockFolder", () => {
  const path = (folder: string) => join(folder, ".lowrank.lock");
  const write = (folder: string, owner: unknown) => writeFileSync(path(folder), JSON.stringify(owner));

  it("is exclusive until it is released", async () => {
    const folder = join(tempFolder(), "new", "run");
    const lock = await lockFolder(folder);
    expect(lock.note).toBeUndefined();
    expect(JSON.parse(readFileSync(path(folder), "utf8"))).toMatchObject({ pid: process.pid, host: hostname() });
    const error = await errorOf(lockFolder(folder));
    expect(error.code).toBe("LOCKED");
    expect(error.message).toBe(`${folder} is in use by process ${process.pid}`);
    await lock.release();
    await (await lockFolder(folder)).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("takes over from a dead process, a reused pid, another boot and a damaged file", async () => {
    const folder = tempFolder();
    for (const owner of [
      { pid: 999999999 },
      { pid: process.pid, startTime: "1" },
      { pid: process.pid, bootId: "another" },
      "damaged",
    ]) {
      write(folder, owner);
      const lock = await lockFolder(folder);
      expect(lock.note).toMatch(
        typeof owner === "string" ? /took over .* unreadable/ : `took over ${folder} from process ${owner.pid}`,
      );
      await lock.release();
    }
  });

  it("leaves another machine's lock alone", async () => {
    const folder = tempFolder();
    write(folder, { pid: 1, host: "elsewhere" });
    const error = await errorOf(lockFolder(folder));
    expect(error.code).toBe("LOCKED");
    expect(error.message).toContain("process 1 on elsewhere");
    expect(error.hint).toContain(path(folder));
  });

  it("is taken over by one of many at once", async () => {
    const folder = tempFolder();
    write(folder, { pid: 999999999 });
    const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => lockFolder(folder)));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });
});
