/**
 * Every file call of what saves: made in turn and waited for; on the disk before the next step relies on it and before the save is
 * reported; and when it fails, one by one, the error is reported and the files are the old or the new ones.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { writeFileDurable, writeFolder } from "../../src/io/durable.js";
import { JsonLog } from "../../src/io/json-log.js";
import { lockFolder } from "../../src/io/lock.js";
import { settleFolder } from "../../src/io/settle.js";
import { pruneCheckpoints, saveCheckpoint } from "../../src/train/checkpoints.js";
import { errorOf, tempFolder } from "./files.js";
import { type Call, say, WatchedDisk } from "./watched-disk.js";

const watch = vi.hoisted(() => ({}) as { disk?: WatchedDisk | undefined });
vi.mock("node:fs/promises", async (original) =>
  (await vi.importActual<typeof import("./watched-disk.js")>("./watched-disk.js")).watchedFs(await original<object>(), watch),
);
afterEach(() => {
  delete watch.disk;
});

const dead = JSON.stringify({ pid: 999999999, startTime: "1" });
const openFiles = () => readdirSync("/proc/self/fd").length;
/** Names and contents; folders end with a slash. */
function tree(folder: string, prefix = ""): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const path = join(folder, name);
    if (!statSync(path).isDirectory()) found[prefix + name] = readFileSync(path, "utf8");
    else Object.assign(found, { [`${prefix + name}/`]: "" }, tree(path, `${prefix + name}/`));
  }
  return found;
}
const without = (files: Record<string, string>, own: RegExp) =>
  Object.fromEntries(Object.entries(files).filter(([name]) => !own.test(name)));

/** What a process cannot remove stays until it has ended. */
async function endOfProcess(dir: string) {
  for (const name of Object.keys(tree(dir)).filter((path) => /(^|\/)\.lowrank(-tmp|\.lock)[^/]*$/.test(path)))
    if (tree(dir)[name]?.includes(`"pid":${process.pid}`)) await rm(join(dir, name));
}
/** The draft of a lock file, and whether a manifest is a link: opening it says the rest. */
const isDraft = ({ name, path }: Call) =>
  (name === "rm" && basename(path).startsWith(`.lowrank-tmp-${process.pid}`)) ||
  (name === "lstat" && basename(path) === "manifest.json");

interface Scenario {
  before?(dir: string): unknown;
  work(dir: string): Promise<unknown>;
  /** Runs before the files are compared, as a reader would. */
  settle?(dir: string): Promise<unknown>;
  /** States between the old and the new one that may be found after an error, besides those two. */
  between?: (files: Record<string, string>) => boolean;
  /** Calls whose failure need not be reported. */
  mayFail?: (call: Call, dir: string) => boolean;
}
const old = async (target: string) => {
  await writeFolder(target, async (to) => {
    for (const name of ["a", "sub/b", "bygone/c"]) await to.file(name, "old");
  });
};
const next = (target: string) =>
  writeFolder(
    target,
    async (to) => {
      for (const name of ["sub/b", "deep/c"]) await to.file(name, "new");
    },
    { needed: 1000, replace: true },
  );
const pending = async (dir: string) => {
  await old(join(dir, "c"));
  await next(join(dir, "new"));
  renameSync(join(dir, "new"), join(dir, "c/.lowrank-commit"));
};
const checkpoint = (dir: string, step: number) =>
  saveCheckpoint(dir, step, (to) => to.file("a", `${step}`), { needed: 0, facts: {} });
/** Of the folder above one with content, which need not be ours. */
const isAbove = ({ path }: Call, dir: string) => path === dir || (dirname(path) === dir && basename(path).startsWith(".lowrank"));

/** Whether something is in the way: what is will be met again. */
const isLook = ({ name, path }: Call) => name === "lstat" && !path.endsWith(".lowrank-commit");
/** Of a file that is checked: one that cannot be read counts as damaged, and the result says so. */
const isRead = (call: Call, dir: string) =>
  isDraft(call) || (/realpath|open|stat|read$|close/.test(call.name) && call.path !== join(dir, "c") && call.path !== dir);

const SCENARIOS: Record<string, Scenario> = {
  "a new folder": { work: (dir) => next(join(dir, "new/er/c")) },
  "a folder in place of an older one": {
    before: async (dir) => {
      await old(join(dir, "c"));
      mkdirSync(join(dir, "c/.lowrank-tmp-999999999-1-00000000"));
      writeFileSync(join(dir, "c/.lowrank-tmp-999999999-1-00000000/x"), "");
      writeFileSync(join(dir, "c/.lowrank.lock"), dead);
      writeFileSync(join(dir, ".lowrank.lock-gone"), dead);
    },
    work: (dir) => next(join(dir, "c")),
    settle: (dir) => settleFolder(join(dir, "c")),
    mayFail: (call, dir) => isDraft(call) || isAbove(call, dir) || isLook(call),
  },
  "a file": { work: (dir) => writeFileDurable(join(dir, "new/er/f"), "new", { needed: 1000 }) },
  "a file in place of an older one": {
    before: (dir) => {
      writeFileSync(join(dir, "f"), "old");
      writeFileSync(join(dir, ".lowrank-tmp-999999999-1-00000000"), "");
    },
    work: (dir) => writeFileDurable(join(dir, "f"), "new"),
  },
  "a log": {
    work: async (dir) => {
      const log = await JsonLog.open(join(dir, "new/log"), () => false);
      try {
        await log.append({ step: 1 });
        await log.sync();
        await log.append({ step: 2 });
      } finally {
        await log.close();
      }
    },
    between: (files) => ["", '{"step":1}\n', undefined].includes(files["new/log"]),
  },
  "a log that loses lines": {
    before: (dir) => writeFileSync(join(dir, "log"), '{"step":1}\n{"step":2}\n{"st'),
    work: async (dir) => (await JsonLog.open(join(dir, "log"), (entry) => (entry as { step: number }).step < 2)).close(),
  },
  "a save cut short": {
    before: pending,
    work: (dir) => settleFolder(join(dir, "c")),
    settle: (dir) => settleFolder(join(dir, "c")),
    mayFail: isRead,
  },
  "a damaged save cut short": {
    before: async (dir) => {
      await pending(dir);
      truncateSync(join(dir, "c/.lowrank-commit/sub/b"), 1);
    },
    work: (dir) => settleFolder(join(dir, "c")),
    settle: (dir) => settleFolder(join(dir, "c")),
    mayFail: isRead,
  },
  "a save that moved all but its empty folders": {
    before: async (dir) => {
      await old(join(dir, "c"));
      mkdirSync(join(dir, "c/.lowrank-commit/sub"), { recursive: true });
    },
    work: (dir) => settleFolder(join(dir, "c")),
  },
  "a lock of a dead process": {
    before: (dir) => {
      writeFileSync(join(dir, ".lowrank.lock"), dead);
      writeFileSync(join(dir, ".lowrank.lock.next"), dead);
    },
    work: async (dir) => (await lockFolder(dir)).release(),
  },
  "the removal of older checkpoints": {
    before: async (dir) => {
      for (const step of [1, 2, 3]) await checkpoint(dir, step);
    },
    work: (dir) => pruneCheckpoints(dir, 1),
    settle: async (dir) => {
      for (const name of readdirSync(dir)) if (name.startsWith(".lowrank-tmp")) await rm(join(dir, name), { recursive: true });
    },
    between: (files) =>
      files["checkpoint-3/a"] === "3" &&
      (files["checkpoint-1/a"] === undefined) === (files["checkpoint-1/manifest.json"] === undefined),
    // One that cannot be read does not count: an older one stays for it.
    mayFail: ({ path }) => path.includes("checkpoint-3"),
  },
};

/** Ends as `work` does, and says what is wrong besides. */
async function watched(work: () => Promise<unknown>, failing = 0): Promise<{ disk: WatchedDisk; error: unknown }> {
  const disk = new WatchedDisk(failing);
  watch.disk = disk;
  const error = await work().then(
    () => undefined,
    (reason) => reason,
  );
  const running = disk.running.map(say);
  delete watch.disk;
  expect(running, "calls that nobody waited for").toEqual([]);
  expect(disk.wrong).toEqual([]);
  return { disk, error };
}

describe.each(Object.entries(SCENARIOS))("%s", (_, { before, work, settle, between, mayFail = isDraft }) => {
  const start = mkdtempSync(join(tmpdir(), "lowrank-start-"));
  beforeAll(async () => void (await before?.(start)));
  afterAll(() => rmSync(start, { recursive: true }));
  const prepared = () => {
    const dir = tempFolder();
    cpSync(start, dir, { recursive: true });
    return dir;
  };
  const files = (dir: string) => without(tree(dir), /\.lowrank/);

  it("is on the disk, and in order", async () => {
    const dir = prepared();
    const { disk, error } = await watched(() => work(dir));
    expect(error).toBeUndefined();
    expect(disk.unsafe).toEqual([]);
  });

  it("reports each call that fails, and can be done again", async () => {
    const first = prepared();
    const former = files(first);
    const count = (await watched(() => work(first))).disk.calls.length;
    const after = tree(first);
    expect(Object.keys(after).filter((name) => name.includes(".lowrank"))).toEqual([]);
    const open = openFiles();
    for (let failing = 1; failing <= count; failing++) {
      const dir = prepared();
      const { disk, error } = await watched(() => work(dir), failing);
      const call = disk.calls[failing - 1]!;
      const what = `call ${failing} of ${count}, ${say(call)}`;
      if (error !== undefined) {
        if (!(error instanceof LowrankError)) throw error;
        expect(error, what).toMatchObject({
          code: "CHECKPOINT",
          message: expect.stringMatching(`EIO of ${call.name}|new files are damaged`),
        });
      } else expect(mayFail(call, dir), `${what} failed and nothing was said`).toBe(true);
      await settle?.(dir);
      const found = files(dir);
      const states = [after, ...(error === undefined && !mayFail(call, dir) ? [] : [former])];
      const whole = states.some(
        (state) =>
          JSON.stringify(state) === JSON.stringify(without(found, /^new\/(er\/)?$/)) ||
          JSON.stringify(state) === JSON.stringify(found),
      );
      if (!whole && !between?.(found)) expect(found, what).toEqual(after);
      if (call.name === "readFile" || call.name === "rm") await endOfProcess(dir);
      await work(dir);
      const dropped = settle !== undefined && error === undefined && JSON.stringify(tree(dir)) === JSON.stringify(former);
      if (!dropped) expect(tree(dir), `${what}, then again`).toEqual(after);
      expect(openFiles(), what).toBe(open);
    }
  });
});

describe("reserved space", () => {
  const PIECE = new Uint8Array(3 << 20);
  const work = () =>
    writeFolder(
      join(tempFolder(), "c"),
      (to) => to.file("a", async (sink) => [await sink.write(PIECE), await sink.write(PIECE)].pop()),
      {
        needed: 7 << 20,
      },
    );

  it("is given back as the save grows, before its bytes are written", async () => {
    const { disk } = await watched(work);
    expect(disk.calls.map(({ name }) => name).filter((name) => /truncate|write$/.test(name))).toEqual([
      "write",
      "truncate",
      "write",
      "write",
    ]);
    const failing = 1 + disk.calls.findIndex(({ name }) => name === "truncate");
    expect((await watched(work, failing)).error).toMatchObject({ code: "CHECKPOINT" });
  });
});

describe("what is no part of a save", () => {
  const failing = async (which: (call: Call) => boolean, work: () => Promise<unknown>) => {
    watch.disk = new WatchedDisk(which);
    return work().finally(() => delete watch.disk);
  };

  it("does not fail it: the folder above need not be ours", async () => {
    const dir = tempFolder();
    await old(join(dir, "c"));
    await failing(
      ({ name, path }) => name === "readdir" && path === dir,
      () => next(join(dir, "c")),
    );
    expect(readFileSync(join(dir, "c/sub/b"), "utf8")).toBe("new");
  });

  it("does not hide why it failed", async () => {
    const dir = tempFolder();
    const stop = () => Promise.reject(new Error("stop"));
    const cleaning = ({ name, path }: Call) =>
      (name === "rm" && path.includes("-tmp-")) || (name === "close" && path.endsWith("/a"));
    const folder = failing(cleaning, () => writeFolder(join(dir, "c"), (to) => to.file("a", stop)));
    await expect(folder).rejects.toThrow("stop");
    await expect(
      failing(
        ({ name }) => name === "rm" || name === "close",
        () => writeFileDurable(join(dir, "f"), stop),
      ),
    ).rejects.toThrow("stop");
  });

  it("is dropped, or the error says that it cannot be", async () => {
    const dir = tempFolder();
    await pending(dir);
    for (const name of ["c/.lowrank-commit/sub/b", "c/sub/b"]) truncateSync(join(dir, name), 1);
    for (const which of [
      ({ name, path }: Call) => name === "rm" && path.endsWith(".lowrank-commit"),
      ({ name, path }: Call) => name === "sync" && path === join(dir, "c"),
    ])
      expect((await errorOf(failing(which, () => next(join(dir, "c"))))).message).toMatch(/EIO of (rm|sync)/);
  });
});
