/** File systems without hard links, systems without /proc, disks that fail while they are read: what this machine is not. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { writeFolder } from "../../src/io/durable.js";
import { assertWritable, makeFolders, syncFolder } from "../../src/io/folders.js";
import { lockFolder, tidy } from "../../src/io/lock.js";
import { problemsOf, readManifest, verifyFolder } from "../../src/io/manifest.js";
import { isAlive, thisProcess } from "../../src/io/process-identity.js";
import { settleFolder } from "../../src/io/settle.js";
import { errorOf, tempFolder } from "./files.js";

type Hook = (...args: unknown[]) => unknown;
const hooks = vi.hoisted(() => ({}) as Record<string, Hook | undefined>);
const failure = (code: string) => Object.assign(new Error(code), { code, syscall: "test" });

vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof import("node:fs/promises")>();
  const hooked = (name: "access" | "link" | "lstat" | "mkdir" | "readdir" | "rename") => ({
    [name]: (...args: unknown[]) =>
      hooks[name] ? Promise.resolve().then(() => hooks[name]!(...args)) : (real[name] as Hook)(...args),
  });
  const open = async (...args: Parameters<typeof real.open>) => {
    const handle = await real.open(...args);
    const { read, write } = handle;
    if (hooks.read)
      handle.read = ((...of: unknown[]) => Promise.resolve(hooks.read!()).then(() => (read as Hook).apply(handle, of))) as never;
    if (hooks.write)
      handle.write = ((...of: unknown[]) => (write as Hook).apply(handle, hooks.write!(...of) as unknown[])) as never;
    return handle;
  };
  const calls = (["access", "link", "lstat", "mkdir", "readdir", "rename"] as const).map(hooked);
  return Object.assign({ ...real, open }, ...calls) as typeof real;
});
vi.mock("node:fs", async (original) => {
  const real = await original<typeof import("node:fs")>();
  const without =
    (name: string) =>
    (path: unknown, ...rest: unknown[]) => {
      if (hooks.proc && String(path).startsWith("/proc/")) {
        if (name === "existsSync") return false;
        throw failure("ENOENT");
      }
      return (real[name as "existsSync"] as unknown as Hook)(path, ...rest);
    };
  return { ...real, existsSync: without("existsSync"), readFileSync: without("readFileSync") };
});

/** The one that no hook stands before. */
const { link } = await vi.importActual<typeof import("node:fs/promises")>("node:fs/promises");

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
    delete hooks.access;
    await assertWritable(join(folder, "new", "er"));
  });
});

describe("locks that change while they are looked at", () => {
  const NAME = ".lowrank.lock";
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

  it("are taken where they were released in the meantime", async () => {
    const folder = tempFolder();
    let tries = 0;
    hooks.link = (from, to) => {
      if (tries++ === 0) return Promise.reject(failure("EEXIST"));
      return link(from as string, to as string);
    };
    await (await lockFolder(folder)).release();
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
    hooks.link = async (from, to) => {
      // Somebody else is quicker.
      if (String(to).endsWith("-dead")) writeFileSync(to as string, own());
      await link(from as string, to as string);
    };
    await tidy(parent);
    expect(readdirSync(parent).sort()).toEqual([`${NAME}-dead`, `${NAME}-live`]);
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
    let times = 0;
    hooks.read = () => (times++ < 3 ? Promise.reject(failure("EINTR")) : undefined);
    expect(await problemsOf(target, "a", file)).toEqual([]);
    expect(times).toBeGreaterThan(3);
    hooks.lstat = () => Promise.reject(failure("EIO"));
    expect((await errorOf(settleFolder(target))).code).toBe("CHECKPOINT");
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
    expect((await errorOf(lockFolder(folder))).code).toBe("CHECKPOINT");
    // What it left goes when it is tried again.
    delete hooks.rename;
    await (await lockFolder(folder)).release();
    expect(readdirSync(folder)).toEqual([]);
  });
});
