/** Why a CUDA plugin cannot be used: each reason is a sentence of its own, with a remedy. Plugins are small C files. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { openDevice, pluginOf, pluginProblem, realDevice } from "../../src/native/plugin.js";
import { getDevice } from "../../src/tensor/device.js";

/** What starting the child that tries a plugin comes to, where a test says so. */
const child = vi.hoisted(() => ({ fails: undefined as string | undefined }));
vi.mock("node:child_process", async (original) => {
  const real = await original<typeof import("node:child_process")>();
  const spawnSync = (...args: Parameters<typeof real.spawnSync>) => {
    const { fails: code } = child;
    return code === undefined
      ? real.spawnSync(...args)
      : { status: null, error: Object.assign(new Error(`spawn ${code}`), { code }) };
  };
  return { ...real, spawnSync };
});

/** A file that a test says is not there. */
const absent = vi.hoisted(() => ({ name: undefined as string | undefined }));
vi.mock("node:fs", async (original) => {
  const real = await original<typeof import("node:fs")>();
  return { ...real, existsSync: (path: string) => !(absent.name && path.endsWith(absent.name)) && real.existsSync(path) };
});

const folder = mkdtempSync(join(tmpdir(), "lowrank-plugin-"));
const before = process.env.LOWRANK_CUDA_PLUGIN;
afterEach(() => {
  child.fails = undefined;
  absent.name = undefined;
  if (before === undefined) delete process.env.LOWRANK_CUDA_PLUGIN;
  else process.env.LOWRANK_CUDA_PLUGIN = before;
});
afterAll(() => rmSync(folder, { recursive: true }));

let count = 0;
/** A shared library of this C text, that includes the contract. */
function plugin(text: string): string {
  const path = join(folder, `plugin${count++}`);
  writeFileSync(
    `${path}.c`,
    `#include "${join(import.meta.dirname, "../../native/abi/backend.h")}"\n#include <stdio.h>\n#include <stdlib.h>\n${text}`,
  );
  execFileSync("gcc", ["-shared", "-fPIC", "-o", `${path}.so`, `${path}.c`]);
  return `${path}.so`;
}
const opens = (body: string) => plugin(`const lr_backend* lr_backend_open(int32_t device, lr_error* error) { ${body} }`);
const says = (text: string) =>
  opens(
    `error->code = LR_DEVICE; error->op = "openDevice"; snprintf(error->text, 256, "%s", ${JSON.stringify(text)}); return 0;`,
  );

function problemOf(path: string): { message: string; hint: string | undefined; code: string } {
  process.env.LOWRANK_CUDA_PLUGIN = path;
  const problem = pluginProblem("cuda:0");
  if (!problem) throw new Error("the plugin was opened");
  return problem;
}

describe("a CUDA plugin", () => {
  it("that is missing", () => {
    const { code, message, hint } = problemOf(join(folder, "none.so"));
    expect(code).toBe("DEVICE_NOT_FOUND");
    expect(message).toBe("Device 'cuda:0' needs the CUDA plugin, which this installation does not have.");
    expect(hint).toContain("npm run build:cuda");
  });

  it("that is damaged", () => {
    for (const content of ["", "no library", "\x7fELF"]) {
      writeFileSync(join(folder, "damaged.so"), content);
      expect(problemOf(join(folder, "damaged.so")).message).toBe(
        "The CUDA plugin's file is damaged or was built for another platform.",
      );
    }
  });

  it("that lacks its function, or a library", () => {
    expect(problemOf(plugin("int f(void) { return 1; }")).message).toBe(
      "The CUDA plugin is none: it lacks the function lr_backend_open.",
    );
    const nowhere = plugin("int none_of_that_name(void) { return 1; }");
    const path = join(folder, "needs.so");
    writeFileSync(join(folder, "needs.c"), "int none_of_that_name(void); int f(void) { return none_of_that_name(); }");
    execFileSync("gcc", ["-shared", "-fPIC", "-o", path, join(folder, "needs.c"), nowhere]);
    rmSync(nowhere);
    expect(problemOf(path).message).toBe(`The CUDA plugin needs a library that is not installed: ${nowhere}`);
  });

  it("of another version", () => {
    const other = opens("static lr_backend table; table.abi = LR_ABI_VERSION + 1; table.size = sizeof table; return &table;");
    expect(problemOf(other).message).toMatch(
      /^The CUDA plugin belongs to another version of this package: .* built for ABI \d+ .* needs ABI \d+ /,
    );
    const size = opens("static lr_backend table; table.abi = LR_ABI_VERSION; table.size = 8; return &table;");
    expect(problemOf(size).message).toContain("with 8 bytes");
  });

  it("that says itself why the device cannot be used", () => {
    expect(problemOf(says("no NVIDIA driver is installed\nInstall one."))).toMatchObject({
      code: "DEVICE_NOT_FOUND",
      message: "Device 'cuda:0' cannot be used: no NVIDIA driver is installed.",
      hint: "Install one.",
    });
    expect(problemOf(says("")).message).toBe("Device 'cuda:0' cannot be used: it gave no reason.");
  });

  it("that crashes takes a child process down, not this one", () => {
    const { message, hint } = problemOf(opens("abort();"));
    expect(message).toBe("Opening device 'cuda:0' ended the process that tried it with SIGABRT.");
    expect(hint).toContain("driver");
    expect(problemOf(opens("return *(const lr_backend**)1;")).message).toContain("SIGSEGV");
  });

  it("that cannot be tried, or not to the end", () => {
    const path = says("nothing");
    child.fails = "ETIMEDOUT";
    expect(problemOf(path).message).toBe("Opening device 'cuda:0' did not end within 60 seconds.");
    child.fails = "EAGAIN";
    expect(problemOf(path).message).toBe("Device 'cuda:0' could not be tried in a process of its own: spawn EAGAIN");
  });

  it("that needs a newer system library, or a symbol that nobody has", () => {
    const compile = (name: string, text: string, ...flags: string[]) => {
      writeFileSync(join(folder, `${name}.c`), text);
      execFileSync("gcc", ["-shared", "-fPIC", "-o", join(folder, `${name}.so`), join(folder, `${name}.c`), ...flags]);
      return join(folder, `${name}.so`);
    };
    // A version that no system library has, as a binary of a newer distribution asks for.
    writeFileSync(join(folder, "versions"), "GLIBC_9.99 { none_of_that_name; };");
    const script = `-Wl,--version-script=${join(folder, "versions")}`;
    const versioned = compile("versioned", "int none_of_that_name(void) { return 1; }", "-Wl,-soname,libm.so.6", script);
    const newer = compile("newer", "int none_of_that_name(void); int f(void) { return none_of_that_name(); }", versioned);
    expect(problemOf(newer)).toMatchObject({
      message: "The CUDA plugin needs a newer C or C++ library than this system has.",
      hint: expect.stringContaining("npm run build:cuda"),
    });
    const unbound = compile("unbound", "int none_of_that_name(void); int (*f)(void) = none_of_that_name;");
    expect(problemOf(unbound).message).toMatch(/^The CUDA plugin cannot be loaded: .*undefined symbol: none_of_that_name/);
  });

  it("is opened here only after it was opened there; other devices need no child", () => {
    const opened: unknown[][] = [];
    const answer = (...of: unknown[]) => {
      opened.push(of);
      if (opened.length > 3) throw new Error("[openDevice] gone in the meantime");
      return 7;
    };
    const addon = { openDevice: answer, openPlugin: answer } as unknown as Parameters<typeof openDevice>[0];
    expect(openDevice(addon, "cpu")).toBe(7);
    const emulated = pluginOf("emu");
    if (emulated === undefined || !existsSync(emulated)) return console.warn("not checked: the emulated device is not built");
    expect(openDevice(addon, "emu")).toBe(7);
    process.env.LOWRANK_CUDA_PLUGIN = emulated;
    expect(pluginProblem("cuda:0")).toBeUndefined();
    expect(openDevice(addon, "cuda:0")).toBe(7);
    expect(opened).toEqual([["cpu"], ["emu", emulated], ["cuda:0", emulated]]);
    expect(() => openDevice(addon, "cuda:0")).toThrow("Device 'cuda:0' cannot be used: gone in the meantime.");
    delete process.env.LOWRANK_CUDA_PLUGIN;
    expect(pluginOf("cuda:0") ?? "build/cuda/lowrank_cuda.so").toMatch(/build\/cuda\/lowrank_cuda\.so$/);
  });

  it("is what getDevice speaks of", () => {
    process.env.LOWRANK_CUDA_PLUGIN = says("the NVIDIA driver finds no GPU\nSee what nvidia-smi lists.");
    expect(() => getDevice("cuda:0")).toThrow("Device 'cuda:0' cannot be used: the NVIDIA driver finds no GPU.");
    for (const name of ["cuda", "cuda:1", "tpu"]) {
      expect(() => getDevice(name)).toThrow(LowrankError);
      expect(() => getDevice(name)).toThrow(`There is no device '${name}'`);
    }
  });
});

describe("the name of a device", () => {
  it("emu says what to do where no checkout was built", () => {
    absent.name = "lowrank_emu.so";
    expect(pluginProblem("emu")).toMatchObject({
      code: "DEVICE_NOT_FOUND",
      message: "There is no device 'emu': it exists only in a checkout.",
      hint: "Build it there: npm run build",
    });
  });

  it("with dry: before it is that of the device whose memory is counted", () => {
    expect([realDevice("dry:cpu"), realDevice("dry:cuda:0"), realDevice("cpu")]).toEqual(["cpu", "cuda:0", "cpu"]);
  });
});
