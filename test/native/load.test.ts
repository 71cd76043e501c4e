import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { LowrankError } from "../../src/errors.js";
import { loadAddonFrom } from "../../src/native/load.js";

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

/** A package folder with these files: name to content, or to a path of a file to copy. */
function packageWith(files: Record<string, string | { copyOf: string }>): string {
  const root = mkdtempSync(join(tmpdir(), "lowrank-load-"));
  folders.push(root);
  const all: Record<string, string | { copyOf: string }> = { "package.json": '{"name":"lowrank"}', ...files };
  for (const [name, content] of Object.entries(all)) {
    mkdirSync(join(root, name, ".."), { recursive: true });
    if (typeof content === "string") writeFileSync(join(root, name), content);
    else copyFileSync(content.copyOf, join(root, name));
  }
  return root;
}

function failureIn(root: string): LowrankError {
  try {
    loadAddonFrom(root);
  } catch (error) {
    return error as LowrankError;
  }
  throw new Error("it was loaded");
}

describe("the loader", () => {
  it("says that a checkout has not been built", () => {
    expect(failureIn(packageWith({ "binding.gyp": "{}" }))).toMatchObject({
      code: "NATIVE",
      message: "The native addon has not been built in this checkout.",
      hint: "Build it: npm run build",
    });
  });

  it("says that a package has no addon for this platform", () => {
    const error = failureIn(packageWith({}));
    expect(error.message).toBe(`This package brings no native addon for ${process.platform}-${process.arch}.`);
    expect(error.hint).toContain("build from source");
  });

  it("says that the file is damaged", () => {
    for (const content of ["", "not a library", "\x7fELF"]) {
      const error = failureIn(packageWith({ "build/Release/lowrank.node": content }));
      expect(error).toMatchObject({ code: "NATIVE", message: expect.stringContaining("damaged") });
      expect(error.hint).toContain("npm ci && npm run build");
      expect(error.cause).toBeInstanceOf(Error);
    }
  });

  it("says which library, symbol or newer system library is missing", () => {
    const load = (text: string, ...flags: string[]) =>
      failureIn(packageWith({ "build/Release/lowrank.node": { copyOf: library(text, ...flags) } }));
    const nowhere = library("int none_of_that_name(void) { return 1; }", "-Wl,-soname,liblowrank-none.so.7");
    expect(load("int none_of_that_name(void); int f(void) { return none_of_that_name(); }", nowhere)).toMatchObject({
      code: "NATIVE",
      message: expect.stringMatching(/^The native addon needs a library that is not installed: liblowrank-none\.so\.7: /),
      hint: expect.stringContaining("libstdc++6"),
    });
    // A version that no system library has, as a binary of a newer distribution asks for.
    const versioned = library(
      "int none_of_that_name(void) { return 1; }",
      "-Wl,-soname,libm.so.6",
      `-Wl,--version-script=${written("versions", "GLIBC_9.99 { none_of_that_name; };")}`,
    );
    expect(load("int none_of_that_name(void); int f(void) { return none_of_that_name(); }", versioned)).toMatchObject({
      code: "NATIVE",
      message: "The native addon needs a newer C or C++ library than this system has.",
      hint: expect.stringContaining("build from source"),
    });
    expect(load("int none_of_that_name(void); int (*f)(void) = none_of_that_name;").message).toMatch(
      /^The native addon cannot be loaded: .*undefined symbol: none_of_that_name/,
    );
    expect(load("int f(void) { return 1; }")).toMatchObject({ code: "NATIVE", hint: "Build it again: npm run build" });
  });

  it("hands on what is no error at all", () => {
    const root = packageWith({ "build/Release/lowrank.node": { copyOf: foreignAddon() } });
    const path = join(root, "build/Release/lowrank.node");
    const cache = createRequire(import.meta.url).cache;
    Object.defineProperty(cache, path, {
      configurable: true,
      get() {
        throw "a string";
      },
    });
    try {
      expect(failureIn(root).message).toBe("The native addon cannot be loaded: a string");
    } finally {
      delete cache[path];
    }
  });

  it("refuses an addon of another ABI", () => {
    const error = failureIn(packageWith({ "build/Release/lowrank.node": { copyOf: foreignAddon() } }));
    expect(error).toMatchObject({ code: "NATIVE", message: expect.stringMatching(/ABI undefined but the library needs \d+/) });
  });
});

/** A file of this content in a folder of its own. */
function written(name: string, content: string): string {
  return join(packageWith({ [name]: content }), name);
}

/** A shared library compiled from C. */
function library(text: string, ...flags: string[]): string {
  const source = written("library.c", text);
  const path = source.replace(/c$/, "so");
  execFileSync("g++", ["-x", "c", "-shared", "-fPIC", "-o", path, source, "-x", "none", ...flags]);
  return path;
}

/** Some other Node-API addon that is installed for the tests anyway. */
function foreignAddon(): string {
  return createRequire(import.meta.url).resolve(`@rolldown/binding-${process.platform}-${process.arch}-gnu`);
}
