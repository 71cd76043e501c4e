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

  it("refuses an addon of another ABI", () => {
    const error = failureIn(packageWith({ "build/Release/lowrank.node": { copyOf: foreignAddon() } }));
    expect(error).toMatchObject({ code: "NATIVE", message: expect.stringContaining("ABI undefined but the library needs 2") });
  });
});

/** Some other Node-API addon that is installed for the tests anyway. */
function foreignAddon(): string {
  return createRequire(import.meta.url).resolve(`@rolldown/binding-${process.platform}-${process.arch}-gnu`);
}
