/** Locks of folders, and space that is taken before anything is written. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { writeFileDurable, writeFolder } from "../../src/io/durable.js";
import { JsonLog } from "../../src/io/json-log.js";
import { assertUnlocked, lockFolder } from "../../src/io/lock.js";
import { verifyFolder } from "../../src/io/manifest.js";
import { isAlive, thisProcess } from "../../src/io/process-identity.js";
import { formatBytes, noSpace, Reservation } from "../../src/io/space.js";
import { writing } from "../../src/io/system-errors.js";
import * as native from "../../src/native/load.js";
import { RunFolder } from "../../src/train/run-folder.js";
import { errorOf, tempFolder } from "./files.js";

const NAME = ".lowrank.lock";
const dead = { pid: 999999999, startTime: "1" };
const write = (target: string, text = "x") => writeFolder(target, (dir) => dir.file("a", text));
const openFiles = () => readdirSync("/proc/self/fd").length;

describe("two writers of one folder", () => {
  it("in one process come one after the other, by whatever name they call it", async () => {
    const target = join(tempFolder(), "c");
    await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        writeFolder(i % 2 ? target : `${target}/../c`, async (dir) => {
          await dir.file("a", String(i));
          await dir.file("b", String(i));
        }),
      ),
    );
    expect(await verifyFolder(target)).toMatchObject({ ok: true });
    expect(readFileSync(join(target, "a"), "utf8")).toBe(readFileSync(join(target, "b"), "utf8"));
    expect(readdirSync(join(target, ".."))).toEqual(["c"]);
    expect(readdirSync(target).sort()).toEqual(["a", "b", "manifest.json"]);
    // A failure of one does not hold up the next.
    const outcomes = await Promise.allSettled([
      writeFolder(target, () => Promise.reject(new Error("stop"))),
      write(target, "next"),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
  });

  it("in two processes: the second gets LOCKED at once, whether the folder is there or to come", async () => {
    const other = spawn("sleep", ["60"]);
    try {
      const start = readFileSync(`/proc/${other.pid}/stat`, "utf8").split(") ")[1]!.split(" ")[19];
      const owner = JSON.stringify({ ...thisProcess(), pid: other.pid, startTime: start });
      const parent = tempFolder();
      mkdirSync(join(parent, "there"));
      writeFileSync(join(parent, "there", NAME), owner);
      writeFileSync(join(parent, `${NAME}-new`), owner);
      for (const target of ["there", "new"]) {
        const error = await errorOf(write(join(parent, target)));
        expect(error).toMatchObject({ code: "LOCKED", message: expect.stringContaining(`process ${other.pid}`) });
      }
      expect(existsSync(join(parent, "new"))).toBe(false);
      expect(readdirSync(join(parent, "there"))).toEqual([NAME]);
      expect((await errorOf(assertUnlocked(join(parent, "there")))).code).toBe("LOCKED");
      // Whoever is about to take over a dead process's lock holds it already.
      const taking = tempFolder();
      writeFileSync(join(taking, NAME), JSON.stringify(dead));
      writeFileSync(join(taking, `${NAME}.next`), owner);
      expect((await errorOf(lockFolder(taking))).code).toBe("LOCKED");
      expect(readdirSync(taking).sort()).toEqual([NAME, `${NAME}.next`]);
    } finally {
      other.kill();
    }
    await new Promise((resolve) => other.once("exit", resolve));
  });

  it("of a folder that cannot be made: an error at once, also where the folder above only seems to be missing", async () => {
    for (const folder of ["/proc/nowhere/x", "/proc/self/status/x"]) {
      expect(await errorOf(lockFolder(folder))).toMatchObject({ code: "CHECKPOINT", details: { path: folder } });
    }
    const parent = tempFolder();
    await (await lockFolder(join(parent, "a", "b", "c"))).release();
    expect(readdirSync(join(parent, "a", "b", "c"))).toEqual([]);
  });

  it("and a run's own lock lets its own process write", async () => {
    const folder = tempFolder();
    const lock = await lockFolder(folder);
    await assertUnlocked(folder);
    await write(folder);
    expect(readdirSync(folder).sort()).toEqual([NAME, "a", "manifest.json"]);
    await lock.release();
    await assertUnlocked(folder);
  });

  it("take over what dead ones left, and clear it away", async () => {
    const parent = tempFolder();
    const target = join(parent, "c");
    await write(target);
    writeFileSync(join(target, NAME), JSON.stringify(dead));
    writeFileSync(join(target, `${NAME}.next`), JSON.stringify(dead));
    for (const name of ["c", "never-came", "never-came.next", "other.next"])
      writeFileSync(join(parent, `${NAME}-${name}`), JSON.stringify(dead));
    mkdirSync(join(parent, ".lowrank-tmp-999999999-1-00000000"));
    await assertUnlocked(target);
    await write(target, "y");
    expect(readdirSync(target).sort()).toEqual(["a", "manifest.json"]);
    expect(readdirSync(parent)).toEqual(["c"]);
  });

  it("release only the lock that is theirs", async () => {
    const folder = tempFolder();
    const lock = await lockFolder(folder);
    const theirs = JSON.stringify({ pid: 1, host: "elsewhere", id: "other" });
    writeFileSync(join(folder, NAME), theirs);
    await lock.release();
    expect(readFileSync(join(folder, NAME), "utf8")).toBe(theirs);
    expect((await errorOf(assertUnlocked(folder))).code).toBe("LOCKED");
    expect((await errorOf(write(folder))).code).toBe("LOCKED");
  });

  it("a run locks before it looks at what is there", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, NAME), JSON.stringify({ pid: 1, host: "elsewhere" }));
    writeFileSync(join(folder, "file"), "");
    expect((await errorOf(RunFolder.open(folder, { args: {} } as never))).code).toBe("LOCKED");
    writeFileSync(join(folder, NAME), JSON.stringify(dead));
    expect((await errorOf(RunFolder.open(folder, { args: {} } as never))).code).toBe("INVALID_CONFIG");
    expect(readdirSync(folder)).toEqual(["file"]);
  });
});

describe("process identity", () => {
  it("tells processes apart by machine, boot, number and start", () => {
    const own = thisProcess();
    expect(isAlive(own)).toBe(true);
    expect(isAlive({ ...own, startTime: null })).toBe(true);
    expect(isAlive({ ...own, startTime: "1" })).toBe(false);
    expect(isAlive({ ...own, bootId: "another" })).toBe(false);
    expect(isAlive({ ...own, bootId: null, host: "elsewhere", pid: 999999999 })).toBe(true);
    expect(isAlive({ ...own, pid: 999999999 })).toBe(false);
  });
});

describe("what is in the way", () => {
  it("is refused before anything has changed", async () => {
    const target = tempFolder();
    mkdirSync(join(target, "a"));
    writeFileSync(join(target, "sub"), "mine");
    expect((await errorOf(write(target))).message).toMatch(/\/a is in the way of the file a$/);
    const error = await errorOf(writeFolder(target, (dir) => dir.file("sub/b", "")));
    expect(error).toMatchObject({
      code: "CHECKPOINT",
      message: expect.stringMatching(/\/sub is in the way of the file sub\/b$/),
    });
    expect(readdirSync(target).sort()).toEqual(["a", "sub"]);
    for (const name of ["../x", "/x", ".lowrank-x", "manifest.json", ".", "", "a/", "a\0"])
      expect((await errorOf(writeFolder(target, (dir) => dir.file(name, "")))).code, name).toBe("INVALID_ARGUMENT");
    const twice = writeFolder(target, async (dir) => {
      await dir.file("x", "");
      await dir.file("x", "");
    });
    expect((await errorOf(twice)).code).toBe("INVALID_ARGUMENT");
    const atOnce = writeFolder(target, async (dir) => {
      const outcomes = await Promise.allSettled([dir.file("x", "1"), dir.file("x", "2")]);
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
    });
    expect((await errorOf(atOnce)).code).toBe("CHECKPOINT");
  });
});

describe("space", () => {
  it("is taken before the first byte and shrinks as the save grows", async () => {
    const folder = tempFolder();
    const before = openFiles();
    const MB = 1 << 20;
    const reservation = await Reservation.make(folder, 20 * MB);
    expect(readdirSync(folder)).toEqual([]);
    const held = () => {
      const { handle } = reservation as unknown as { handle: { stat(): Promise<{ size: number; blocks: number }> } };
      return handle.stat();
    };
    expect((await held()).size).toBe(20 * MB);
    expect((await held()).blocks * 512).toBeGreaterThanOrEqual(20 * MB); // taken, not only announced
    await reservation.give(3 * MB);
    expect((await held()).size).toBe(20 * MB); // in steps
    await reservation.give(MB);
    expect((await held()).size).toBe(16 * MB);
    await reservation.give(30 * MB);
    expect((await held()).size).toBe(0);
    await reservation.give(MB);
    await reservation.release();
    expect(openFiles()).toBe(before);
    await (await Reservation.make(folder, 0)).release();
  });

  it("is refused with what is needed and free, when the disk says so", async () => {
    const folder = tempFolder();
    const addon = vi.spyOn(native, "loadAddon");
    const answer = (errno: number) => addon.mockReturnValue({ allocateFile: () => errno } as never);
    answer(28);
    const error = await errorOf(writeFolder(join(folder, "c"), (dir) => dir.file("a", "x"), { needed: 1000 }));
    expect(error).toMatchObject({ code: "NO_SPACE", details: { needed: 1000, free: expect.any(Number) } });
    answer(5);
    expect((await errorOf(writeFileDurable(join(folder, "f"), "x", { needed: 1000 }))).code).toBe("CHECKPOINT");
    expect(readdirSync(folder)).toEqual([]);
    // A file system that cannot, a file too large for it, no addon: the figure of free bytes must do.
    const before = openFiles();
    for (const errno of [95, 38, 22, 27]) {
      answer(errno);
      await writeFileDurable(join(folder, "f"), String(errno), { needed: 1000 });
    }
    addon.mockImplementation(() => {
      throw new LowrankError("NATIVE", "absent");
    });
    await writeFileDurable(join(folder, "f"), "no addon", { needed: 1000 });
    addon.mockImplementation(() => {
      throw new TypeError("a mistake");
    });
    await expect(writeFileDurable(join(folder, "f"), "x", { needed: 1000 })).rejects.toThrow("a mistake");
    addon.mockRestore();
    expect(readFileSync(join(folder, "f"), "utf8")).toBe("no addon");
    expect(readdirSync(folder)).toEqual(["f"]);
    expect(openFiles()).toBe(before);
    const much = await errorOf(Reservation.make(folder, 2 ** 60));
    expect(much.message).toMatch(/1048576.0 TiB are needed, .* are free/);
  });

  it("is explained also where nothing is known", async () => {
    const fail = (code: string) => () => Promise.reject(Object.assign(new Error(code), { code, syscall: "write" }));
    const quota = await errorOf(writing("/proc/nothing/here", fail("EDQUOT")));
    expect(quota.code).toBe("NO_SPACE");
    expect(noSpace("p", undefined, undefined).message).toBe("the disk of p is too full");
    expect(formatBytes(512)).toBe("512 B");
    expect(formatBytes(1024)).toBe("1.0 KiB");
  });
});

describe("whatever happens", () => {
  it("no file stays open", async () => {
    const folder = tempFolder();
    await write(join(folder, "c"));
    const before = openFiles();
    for (let i = 0; i < 3; i++) {
      await write(join(folder, "c"));
      await errorOf(writeFolder(join(folder, "c"), (dir) => dir.file("a/../b", "")));
      await expect(
        writeFolder(join(folder, "c"), (dir) => dir.file("a", () => Promise.reject(new Error("stop")))),
      ).rejects.toThrow();
      await writeFileDurable(join(folder, "f"), "x", { needed: 10 });
      await verifyFolder(join(folder, "c"));
      const log = await JsonLog.open(join(folder, "log"));
      await log.append({});
      await log.sync();
      await log.close();
    }
    expect(openFiles()).toBe(before);
    const log = await JsonLog.open(join(folder, "log"));
    await log.close();
    expect((await errorOf(JsonLog.open(folder))).code).toBe("CHECKPOINT");
  });
});
