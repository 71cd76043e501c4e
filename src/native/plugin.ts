import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { addonPath, ROOT } from "./load.js";
import type { Addon } from "./surface.js";

/** Opens the plugin where a crash ends nobody else. */
const PROBE = `const [addon, name, path] = process.argv.slice(1);
try { require(addon).openPlugin(name, path); } catch (error) { process.stdout.write(error.message); process.exitCode = 1; }`;
const PROBE_TIME = 60_000;

/** Whether a device of that name comes from a plugin: "emu", "cuda:0". */
export const isPluginDevice = (name: string): boolean => name === "emu" || /^cuda(:|$)/.test(name);

const DRY = "dry:";
/** The device of which `name` is a dry run ("dry:cpu": it counts memory and computes nothing), or `name` itself. */
export const realDevice = (name: string): string => (name.startsWith(DRY) ? name.slice(DRY.length) : name);

/**
 * Path of the library that brings the device `name`, or undefined when this installation has none. The emulated device exists where the package
 * was built from its sources: it is for tests, and in no package. LOWRANK_CUDA_PLUGIN names another library for "cuda:0".
 */
export function pluginOf(name: string): string | undefined {
  const path =
    name === "emu"
      ? join(ROOT, "build/emu/lowrank_emu.so")
      : process.env.LOWRANK_CUDA_PLUGIN || join(ROOT, "build/cuda/lowrank_cuda.so");
  return isPluginDevice(name) && existsSync(path) ? path : undefined;
}

/**
 * The number of the device `name`, opened by the addon itself or by the plugin that brings it. A CUDA plugin is opened in a child process first, so that a
 * broken driver cannot end this one. Throws DEVICE_NOT_FOUND with what is wrong and what to do.
 */
export function openDevice(addon: Addon, name: string): number {
  const real = realDevice(name);
  if (!isPluginDevice(real)) return addon.openDevice(name);
  const path = requirePlugin(real);
  // A dry run asks nothing of the driver.
  if (name === "emu" || name !== real) return addon.openPlugin(name, path);
  const failure = probe(name, path);
  if (failure) throw failure;
  try {
    return addon.openPlugin(name, path);
  } catch (error) {
    throw explain(name, path, (error as Error).message);
  }
}

/** What keeps the device `name` from being used, or undefined when nothing does. For `lowrank doctor`. */
export function pluginProblem(name: string): LowrankError | undefined {
  try {
    return probe(name, requirePlugin(name));
  } catch (error) {
    return error as LowrankError;
  }
}

function absent(name: string, message: string, hint: string, details: Record<string, unknown> = {}): LowrankError {
  return new LowrankError("DEVICE_NOT_FOUND", message, { hint, details: { device: name, ...details } });
}

function requirePlugin(name: string): string {
  if (name !== "emu" && name !== "cuda:0")
    throw absent(
      name,
      `There is no device '${name}': this version computes on one GPU, 'cuda:0'.`,
      "Write cuda:0, and choose the GPU by CUDA_VISIBLE_DEVICES.",
    );
  const path = pluginOf(name);
  if (path !== undefined) return path;
  if (name === "emu")
    throw absent(name, "There is no device 'emu': it exists only in a checkout.", "Build it there: npm run build");
  throw absent(
    name,
    `Device '${name}' needs the CUDA plugin, which this installation does not have.`,
    "Compute on device cpu, or build the plugin in a checkout: npm run build:cuda",
  );
}

function probe(name: string, path: string): LowrankError | undefined {
  const { NODE_OPTIONS: _, ...env } = process.env;
  const { status, signal, stdout, error } = spawnSync(process.execPath, ["-e", PROBE, addonPath(), name, path], {
    env,
    encoding: "utf8",
    timeout: PROBE_TIME,
    stdio: ["ignore", "pipe", "ignore"],
  });
  if (status === 0) return undefined;
  if ((error as NodeJS.ErrnoException | undefined)?.code === "ETIMEDOUT")
    return absent(
      name,
      `Opening device '${name}' did not end within ${PROBE_TIME / 1000} seconds.`,
      "See whether nvidia-smi answers; restart the machine or its driver if not.",
      { plugin: path },
    );
  if (error)
    return absent(
      name,
      `Device '${name}' could not be tried in a process of its own: ${error.message}`,
      "Allow this process to start others.",
      { plugin: path },
    );
  if (signal)
    return absent(
      name,
      `Opening device '${name}' ended the process that tried it with ${signal}.`,
      "Install the NVIDIA driver anew; if it stays, report it with the output of lowrank doctor.",
      {
        plugin: path,
      },
    );
  return explain(name, path, stdout);
}

const REBUILD = "Install the package again, or build the plugin again in a checkout: npm run build:cuda";

/** The addon's words about a plugin that it could not open, as a sentence and a remedy. The plugin itself says both, on two lines. */
function explain(name: string, path: string, text: string): LowrankError {
  const failure = (message: string, hint: string) => absent(name, message, hint, { plugin: path, text });
  if (/invalid ELF header|wrong ELF class|file too short/.test(text))
    return failure("The CUDA plugin's file is damaged or was built for another platform.", REBUILD);
  if (/lr_backend_open/.test(text)) return failure("The CUDA plugin is none: it lacks the function lr_backend_open.", REBUILD);
  if (/was built for ABI/.test(text))
    return failure(`The CUDA plugin belongs to another version of this package: ${bare(text)}.`, REBUILD);
  if (/GLIBC(XX)?_[\d.]+' not found/.test(text))
    return failure(
      "The CUDA plugin needs a newer C or C++ library than this system has.",
      "Use a newer distribution, or build the plugin here: npm run build:cuda",
    );
  const library = /: ([^:\s]+): cannot open shared object file/.exec(text)?.[1];
  if (library !== undefined)
    return failure(`The CUDA plugin needs a library that is not installed: ${library}`, "Install the package that brings it.");
  if (/cannot be loaded/.test(text)) return failure(`The CUDA plugin cannot be loaded: ${bare(text)}`, REBUILD);
  const [sentence, remedy] = bare(text).split("\n");
  return failure(
    `Device '${name}' cannot be used: ${sentence || "it gave no reason"}.`,
    remedy ?? "Run lowrank doctor, or compute on device cpu.",
  );
}

/** Without the op that the addon puts in front. */
const bare = (text: string): string => text.replace(/^\[\w+\] ?/, "");
