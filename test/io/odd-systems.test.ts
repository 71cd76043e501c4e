/** File systems without hard links, systems without /proc, disks that fail while they are read: what this machine is not. */
import { constants, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { writeFolder } from "../../src/io/durable.js";
import { assertWritable, canonical, makeFolders, removeStale, syncFolder, tempName } from "../../src/io/folders.js";
import { lockFolder, tidy } from "../../src/io/lock.js";
import { problemsOf, readManifest, verifyFolder } from "../../src/io/manifest.js";
import { isAlive, thisProcess } from "../../src/io/process-identity.js";
import { settleFolder } from "../../src/io/settle.js";
import { checkSpace, Reservation } from "../../src/io/space.js";
import * as native from "../../src/native/load.js";
import { newestVerified } from "../../src/train/checkpoints.js";
import { errorOf, tempFolder } from "./files.js";

type Hook = (...args: unknown[]) => unknown;
const hooks = vi.hoisted(() => ({}) as Record<string, Hook | undefined>);
const failure = (code: string) => Object.assign(new Error(code), { code, syscall: "test" });

vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof import("node:fs/promises")>();
  const names = ["access", "link", "lstat", "mkdir", "readdir", "realpath", "rename", "rm", "statfs"] as const;
  const hooked = (name: (typeof names)[number]) => ({
    [name]: (...args: unknown[]) =>
      hooks[name] ? Promise.resolve().then(() => hooks[name]!(...args)) : (real[name] as Hook)(...args),
  });
  const open = async (...args: Parameters<typeof real.open>) => {
    const handle = await real.open(...args);
    const { close, read, write } = handle;
    if (hooks.close) handle.close = () => close.call(handle).then(() => hooks.close!() as undefined);
    if (hooks.read)
      handle.read = ((...of: unknown[]) => Promise.resolve(hooks.read!()).then(() => (read as Hook).apply(handle, of))) as never;
    if (hooks.write)
      handle.write = ((...of: unknown[]) => (write as Hook).apply(handle, hooks.write!(...of) as unknown[])) as never;
    return handle;
  };
  return Object.assign({ ...real, open }, ...names.map(hooked)) as typeof real;
});
vi.mock("node:fs", async (original) => {
  const real = await original<typeof import("node:fs")>();
  const without =
    (name: string) =>
    (path: unknown, ...rest: unknown[]) => {
      if (hooks[name]) return hooks[name](path);
      if (hooks.proc && String(path).startsWith("/proc/")) {
        if (name === "existsSync") return false;
        throw failure("ENOENT");
      }
      return (real[name as "existsSync"] as unknown as Hook)(path, ...rest);
    };
  return { ...real, existsSync: without("existsSync"), readFileSync: without("readFileSync") };
});

/** The one that no hook stands before. */
const { link, rename, rm } = await vi.importActual<typeof import("node:fs/promises")>("node:fs/promises");

afterEach(() => {
  for (const name of Object.keys(hooks)) delete hooks[name];
  vi.restoreAllMocks();
});

describe("without hard links", () => {
  it("locks exclude all the same", async () => {
    hooks.link = () => Promise.reject(failure("EPERM"));
    const folder = tempFolder();
    const lock = await lockFolder(folder);
    expect((await errorOf(lockFolder(folder))).code).toBe("LOCKED");
    await lock.release();
    expect(readdirSync(folder)).toEqual([]);
    hooks.link = () => Promise.reject(failure("EIO"));
    expect((await errorOf(lockFolder(folder))).code).toBe("CHECKPOINT");
  });
});

describe("folders that cannot be made", () => {
  it("where not even the root answers, as on a drive that is not there, or the system denies what is there", async () => {
    const asked: unknown[] = [];
    hooks.mkdir = hooks.access = (path) => {
      asked.push(path);
      return asked.length > 9 ? undefined : Promise.reject(failure("ENOENT")); // an end for those that find none
    };
    for (const ask of [makeFolders, assertWritable]) {
      await expect(ask("/a/b")).rejects.toMatchObject({ code: "ENOENT" });
      expect(asked.splice(0)).toEqual(["/a/b", "/a", "/"]);
    }
    delete hooks.mkdir;
    await expect(makeFolders("/proc/nowhere/x")).rejects.toMatchObject({ code: "ENOENT", path: "/proc/nowhere" });
  });

  it("for other reasons, or where something else has the name", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "file"), "");
    await expect(makeFolders(join(folder, "file"))).rejects.toMatchObject({ code: "EEXIST" });
    await makeFolders(folder);
    hooks.mkdir = hooks.access = () => Promise.reject(failure("EROFS"));
    for (const ask of [makeFolders, assertWritable]) {
      await expect(ask(join(folder, "new", "er"))).rejects.toMatchObject({ code: "EROFS" });
    }
    for (const denied of [constants.W_OK, constants.X_OK]) {
      hooks.access = (path, mode) =>
        path === folder && (mode as number) & denied ? Promise.reject(failure("EACCES")) : undefined;
      await expect(assertWritable(folder)).rejects.toMatchObject({ code: "EACCES" });
    }
    delete hooks.access;
    await assertWritable(join(folder, "new", "er"));
  });
});
const NAME = ".lowrank.lock";

describe("locks that change while they are looked at", () => {
  const dead = JSON.stringify({ pid: 999999999, startTime: "1" });
  const own = () => JSON.stringify({ ...thisProcess(), id: "other" });

  it("are taken where content appears in the folder: inside, not beside", async () => {
    const parent = tempFolder();
    const folder = join(parent, "c");
    hooks.link = async (from, to) => {
      delete hooks.link;
      await link(from as string, to as string);
      mkdirSync(folder);
      writeFileSync(join(folder, "a"), "");
    };
    await writeFolder(folder, async (dir) => {
      expect(readdirSync(folder)).toContain(NAME);
      await dir.file("b", "");
    });
    expect(readdirSync(parent)).toEqual(["c"]);
  });

  it("are given back before the right one is taken, or the error says that they are not", async () => {
    const folder = join(tempFolder(), "c");
    hooks.link = async (from, to) => {
      delete hooks.link;
      await link(from as string, to as string);
      mkdirSync(folder);
      writeFileSync(join(folder, "a"), "");
    };
    hooks.rm = (path, options) =>
      String(path).endsWith(`${NAME}-c`) ? Promise.reject(failure("EIO")) : rm(path as string, options as object);
    expect((await errorOf(writeFolder(folder, (dir) => dir.file("b", "")))).code).toBe("CHECKPOINT");
  });

  it("are taken where they were released in the meantime", async () => {
    const folder = tempFolder();
    let tries = 0;
    hooks.link = (from, to) => {
      if (tries++ === 0) return Promise.reject(failure("EEXIST"));
      return link(from as string, to as string);
    };
    const lock = await lockFolder(folder);
    expect(lock.note).toBeUndefined();
    await lock.release();
    expect(tries).toBe(2);
  });

  it("are not taken over from one who took them over first", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, NAME), dead);
    hooks.link = async (from, to) => {
      await link(from as string, to as string);
      if (String(to).endsWith(".next")) writeFileSync(join(folder, NAME), own());
    };
    expect((await errorOf(lockFolder(folder))).code).toBe("LOCKED");
    expect(readdirSync(folder)).toEqual([NAME]);
    writeFileSync(join(folder, NAME), dead);
    hooks.rm = (path, options) => {
      if (!String(path).endsWith(".next")) return rm(path as string, options as object);
      delete hooks.rm;
      return Promise.reject(failure("EIO"));
    };
    expect((await errorOf(lockFolder(folder))).code).toBe("CHECKPOINT");
    expect(readdirSync(folder)).toEqual([NAME]);
  });

  it("are taken where they are gone, or another's, once it is our turn to take them over", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, NAME), dead);
    let change = () => rmSync(join(folder, NAME));
    hooks.link = async (from, to) => {
      await link(from as string, to as string);
      if (String(to).endsWith(".next")) change();
    };
    const lock = await lockFolder(folder);
    expect(readdirSync(folder)).toEqual([NAME]);
    await lock.release();
    writeFileSync(join(folder, NAME), dead);
    change = () => {
      rmSync(join(folder, `${NAME}.next`)); // by one who took ours for what a dead process left
      writeFileSync(join(folder, NAME), own());
    };
    expect((await errorOf(lockFolder(folder))).code).toBe("LOCKED");
  });

  it("are not taken over by whose draft was replaced by another's", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, NAME), dead);
    hooks.rename = (from, to) => {
      rmSync(from as string);
      writeFileSync(from as string, own());
      return rename(from as string, to as string);
    };
    expect((await errorOf(lockFolder(folder))).code).toBe("LOCKED");
  });

  it("are taken over though another who was at it is gone", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, NAME), dead);
    let tries = 0;
    hooks.link = (from, to) =>
      String(to).endsWith(".next") && tries++ === 0 ? Promise.reject(failure("EEXIST")) : link(from as string, to as string);
    await (await lockFolder(folder)).release();
    expect(tries).toBe(2);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("are gone when their name is to be replaced", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, NAME), dead);
    hooks.rename = () => {
      delete hooks.rename;
      rmSync(join(folder, `${NAME}.next`));
      rmSync(join(folder, NAME));
      return Promise.reject(failure("ENOENT"));
    };
    await (await lockFolder(folder)).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("of others are left when a folder is tidied", async () => {
    const parent = tempFolder();
    writeFileSync(join(parent, `${NAME}-live`), own());
    writeFileSync(join(parent, `${NAME}-dead`), dead);
    const tried: unknown[] = [];
    hooks.link = async (from, to) => {
      tried.push(to);
      // Somebody else is quicker.
      if (String(to).endsWith("-dead")) writeFileSync(to as string, own());
      await link(from as string, to as string);
    };
    await tidy(parent);
    expect(readdirSync(parent).sort()).toEqual([`${NAME}-dead`, `${NAME}-live`]);
    // Not even for a moment: who holds one may let it go and take it again.
    expect(tried).toEqual([join(parent, `${NAME}-dead`)]);
    hooks.link = (_, to) => Promise.reject(failure(String(to).endsWith("-other") ? "EIO" : "EEXIST"));
    writeFileSync(join(parent, `${NAME}-other`), dead);
    await expect(tidy(parent)).rejects.toMatchObject({ code: "EIO" });
  });

  it("that cannot be read are no living owner's", async () => {
    const folder = tempFolder();
    for (const content of ["{", "[]", '{"pid":"x"}']) {
      writeFileSync(join(folder, NAME), content);
      const lock = await lockFolder(folder);
      expect(lock.note).toContain("its lock file was unreadable");
      await lock.release();
    }
  });
});

describe("without /proc", () => {
  it("a process is alive when a signal reaches it", () => {
    hooks.proc = () => true;
    const own = thisProcess();
    expect(own).toMatchObject({ startTime: null, bootId: null });
    expect(isAlive(own)).toBe(true);
    expect(isAlive({ ...own, pid: 999999999 })).toBe(false);
    vi.spyOn(process, "kill").mockImplementation(() => {
      throw failure("EPERM");
    });
    expect(isAlive({ ...own, pid: 1 })).toBe(true);
  });

  it("folders are saved and locks taken", async () => {
    hooks.proc = () => true;
    const target = join(tempFolder(), "c");
    await writeFolder(target, (dir) => dir.file("a", "x"));
    expect((await verifyFolder(target)).ok).toBe(true);
  });
});

describe("what processes that ended left", () => {
  const stale = () => tempName().replace(String(process.pid), "999999999");

  it("go also without /proc", async () => {
    hooks.proc = () => true;
    const folder = tempFolder();
    writeFileSync(join(folder, stale()), "");
    await removeStale(folder);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("may be gone when they are to go: another process cleans too", async () => {
    hooks.readdir = () => Promise.resolve([stale()]);
    await removeStale(tempFolder());
    hooks.readdir = () => Promise.resolve([`${NAME}-gone`]);
    hooks.link = () => Promise.reject(failure("EIO"));
    await tidy(tempFolder());
  });
});

describe("a disk that is nearly full", () => {
  it("keeps 8 MiB for the rest of the system", async () => {
    let free = 1000 + (8 << 20);
    hooks.statfs = () => Promise.resolve({ bavail: free, bsize: 1 });
    await checkSpace("/a", 1000);
    free--;
    expect(await errorOf(checkSpace("/a", 1000))).toMatchObject({ code: "NO_SPACE", details: { needed: 1000, free } });
  });

  it("is the one that will hold the folder", async () => {
    const folder = tempFolder();
    const asked: unknown[] = [];
    hooks.statfs = (path) => {
      asked.push(path);
      return Promise.resolve({ bavail: 1, bsize: 2 ** 40 });
    };
    await checkSpace(join(folder, "to/come"), 1);
    expect(asked).toEqual([folder]);
  });

  it("says what failed first", async () => {
    vi.spyOn(native, "loadAddon")
      .mockReturnValueOnce({ allocateFile: () => 95 } as never)
      .mockReturnValue({ allocateFile: () => 5 } as never);
    hooks.close = () => Promise.reject(failure("EACCES"));
    await expect(Reservation.make(tempFolder(), 1000)).rejects.toMatchObject({ code: "EACCES" });
    hooks.rm = hooks.close;
    await expect(Reservation.make(tempFolder(), 1000)).rejects.toMatchObject({ code: "EIO" });
  });
});

describe("a drive that is not there", () => {
  it("has no folders", async () => {
    let times = 0;
    hooks.realpath = () => Promise.reject(failure(times++ < 50 ? "ENOENT" : "ELOOP"));
    await expect(canonical("/a/b")).rejects.toMatchObject({ code: "ENOENT" });
    hooks.existsSync = () => {
      if (times++ > 50) throw failure("ELOOP");
      return false;
    };
    hooks.statfs = () => Promise.reject(failure("ENOENT"));
    await expect(checkSpace("/a/b", 1)).rejects.toMatchObject({ code: "ENOENT" });
  });
});

describe("where folders cannot be opened", () => {
  it("they are not fsynced", async () => {
    vi.spyOn(process, "platform", "get").mockReturnValue("win32");
    await syncFolder("/does/not/exist");
  });
});

describe("a system that writes less than it is told", () => {
  it("is told again", async () => {
    const target = join(tempFolder(), "c");
    hooks.write = (bytes, from, count, at) => [bytes, from, Math.ceil((count as number) / 2), at];
    await writeFolder(target, (dir) => dir.file("a", "0123456789"));
    expect(readFileSync(join(target, "a"), "utf8")).toBe("0123456789");
    expect((await verifyFolder(target)).ok).toBe(true);
  });
});

describe("a disk that fails while it is read", () => {
  it("is a problem of the file, and an interruption is none", async () => {
    const target = join(tempFolder(), "c");
    await writeFolder(target, (dir) => dir.file("a", "x"));
    const file = (await readManifest(target)).files.a!;
    hooks.read = () => Promise.reject(failure("EIO"));
    expect(await problemsOf(target, "a", file)).toEqual(["a cannot be read: EIO"]);
    delete hooks.read;
    hooks.close = () => Promise.reject(failure("EIO"));
    expect(await problemsOf(target, "a", file)).toEqual(["a cannot be read: EIO"]);
    delete hooks.close;
    let times = 0;
    hooks.read = () => (times++ < 3 ? Promise.reject(failure("EINTR")) : undefined);
    expect(await problemsOf(target, "a", file)).toEqual([]);
    expect(times).toBeGreaterThan(3);
    hooks.lstat = () => Promise.reject(failure("EIO"));
    expect((await errorOf(settleFolder(target))).code).toBe("CHECKPOINT");
  });

  it("does not stand for a mistake of ours: no checkpoint is passed over for one", async () => {
    const run = tempFolder();
    mkdirSync(join(run, "checkpoint-1"));
    hooks.lstat = () => Promise.reject(new TypeError("a mistake"));
    await expect(newestVerified(run)).rejects.toThrow("a mistake");
  });

  it("does not leave files of the old state beside the new ones", async () => {
    const target = tempFolder();
    await writeFolder(target, (dir) => dir.file("old", "x"));
    let renamed = false;
    hooks.rename = (from, to) => {
      renamed = true; // the commit: from here the old manifest cannot be read
      delete hooks.rename;
      return rename(from as string, to as string);
    };
    hooks.read = () => (renamed ? Promise.reject(failure("EIO")) : undefined);
    const replaced = writeFolder(target, (dir) => dir.file("new", "x"), { replace: true });
    expect((await errorOf(replaced)).code).toBe("CHECKPOINT");
    delete hooks.read;
    expect(await settleFolder(target)).toEqual([]);
    expect(readdirSync(target).sort()).toEqual(["manifest.json", "new"]);
  });

  it("is a typed error of what needed it", async () => {
    const target = join(tempFolder(), "c");
    hooks.readdir = () => Promise.reject(failure("EIO"));
    expect((await errorOf(writeFolder(target, (dir) => dir.file("a", "x")))).code).toBe("CHECKPOINT");
    delete hooks.readdir;
    const folder = tempFolder();
    writeFileSync(join(folder, ".lowrank.lock"), JSON.stringify({ pid: 999999999 }));
    hooks.rename = () => Promise.reject(failure("EIO"));
    hooks.rm = () => Promise.reject(failure("EACCES"));
    expect(await errorOf(lockFolder(folder))).toMatchObject({ code: "CHECKPOINT", details: { errno: "EIO" } });
    delete hooks.rm;
    for (const name of readdirSync(folder)) if (name !== NAME) rmSync(join(folder, name));
    expect((await errorOf(lockFolder(folder))).code).toBe("CHECKPOINT");
    // What it left goes when it is tried again.
    delete hooks.rename;
    await (await lockFolder(folder)).release();
    expect(readdirSync(folder)).toEqual([]);
  });
});
