import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LowrankError } from "../errors.js";
import type { Addon } from "./surface.js";

/** The ABI number of native/abi/backend.h that this library was written for. */
const ABI = 9;

const require = createRequire(import.meta.url);

/** The folder of the package: as far from dist/native as from src/native. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

function failure(message: string, hint: string, details: Record<string, unknown>, cause?: unknown): LowrankError {
  return new LowrankError("NATIVE", message, {
    hint,
    details: { platform: `${process.platform}-${process.arch}`, node: process.version, ...details },
    cause,
  });
}

/** Path of the addon: what was compiled in this checkout, else the prebuilt one of this platform. */
function findAddon(root: string): string {
  const find = require("node-gyp-build") as { path(folder: string): string };
  try {
    return find.path(root);
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}`;
    if (existsSync(join(root, "binding.gyp")))
      throw failure("The native addon has not been built in this checkout.", "Build it: npm run build", { root }, cause);
    throw failure(
      `This package brings no native addon for ${platform}.`,
      "Run on a platform that is built for, or build from source: see the README.",
      { root },
      cause,
    );
  }
}

function explain(path: string, cause: unknown): LowrankError {
  const text = cause instanceof Error ? cause.message : String(cause);
  if (/GLIBC(XX)?_[\d.]+' not found/.test(text)) {
    return failure(
      "The native addon needs a newer C or C++ library than this system has.",
      "Use a newer distribution, or build from source: npm run build",
      { path },
      cause,
    );
  }
  if (/invalid ELF header|wrong ELF class|file too short|not a valid/i.test(text)) {
    return failure(
      "The native addon's file is damaged or was built for another platform.",
      "Remove the folders build and node_modules, then: npm ci && npm run build",
      { path },
      cause,
    );
  }
  if (/cannot open shared object file/.test(text)) {
    return failure(
      `The native addon needs a library that is not installed: ${text}`,
      "Install the package that brings it, for instance libstdc++6.",
      { path },
      cause,
    );
  }
  return failure(`The native addon cannot be loaded: ${text}`, "Build it again: npm run build", { path }, cause);
}

/** Loads the addon of the package in the folder `root`. Throws a {@link LowrankError} with code NATIVE that says why it cannot and what to do. */
export function loadAddonFrom(root: string): Addon {
  const path = findAddon(root);
  let addon: Addon;
  try {
    addon = require(path) as Addon;
  } catch (cause) {
    throw explain(path, cause);
  }
  if (addon.abi !== ABI) {
    throw failure(
      `The native addon has ABI ${addon.abi} but the library needs ${ABI}: they come from different versions.`,
      "Build both again: npm run build",
      { path },
    );
  }
  return addon;
}

/** Where the addon of this package lies. Throws as {@link loadAddonFrom}. */
export const addonPath = (): string => findAddon(ROOT);

let loaded: Addon | undefined;

/** The native addon of this package, loaded once. Throws as {@link loadAddonFrom}. */
export function loadAddon(): Addon {
  loaded ??= loadAddonFrom(ROOT);
  return loaded;
}
