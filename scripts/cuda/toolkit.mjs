// The CUDA toolkit: NVCC, nvcc on PATH, /usr/local/cuda, or the wheels of native/sources.json from PyPI, fetched once into .cache/cuda.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

/** The first release that knows every architecture of sources.json. */
const OLDEST = [12, 8];

/** There is no compiler here and none to be had: not a fault of what it would compile. */
export class NoToolkit extends Error {}

/** The version an nvcc states, or undefined where it does not run. */
function versionOf(nvcc) {
  const { status, stdout } = spawnSync(nvcc, ["--version"], { encoding: "utf8" });
  return status === 0 ? /release (\d+)\.(\d+), V([\d.]+)/.exec(stdout) : null;
}

function fetchWheels(root, wheels, say) {
  const name = createHash("sha256").update(wheels.join("\n")).digest("hex").slice(0, 16);
  const folder = join(root, ".cache/cuda", `wheels-${name}`);
  if (!existsSync(folder)) {
    say("no nvcc here: fetching NVIDIA's compiler from PyPI (300 MB, once)");
    mkdirSync(join(root, ".cache/cuda"), { recursive: true });
    for (const old of readdirSync(join(root, ".cache/cuda")))
      if (old.startsWith("wheels-")) rmSync(join(root, ".cache/cuda", old), { recursive: true });
    const part = `${folder}.part`;
    const args = [
      "-m",
      "pip",
      "install",
      "--quiet",
      "--disable-pip-version-check",
      "--no-deps",
      "--only-binary=:all:",
      "--target",
      part,
      ...wheels,
    ];
    const { status, stderr, error } = spawnSync("python3", args, { encoding: "utf8" });
    if (status !== 0)
      throw new NoToolkit(`no nvcc here, and pip could not fetch ${wheels.join(", ")}:\n${error?.message ?? stderr}`);
    renameSync(part, folder);
  }
  const home = join(folder, "nvidia", "cu13");
  return { nvcc: join(home, "bin/nvcc"), libraries: join(home, "lib") };
}

/** { nvcc, libraries, version }: the compiler, the folder of libcudart_static.a where nvcc does not know it, and its version. */
export function findToolkit(root, { wheels }, say) {
  const named = process.env.NVCC;
  for (const nvcc of named ? [named] : ["nvcc", "/usr/local/cuda/bin/nvcc"]) {
    const found = versionOf(nvcc);
    const recent = found && (Number(found[1]) - OLDEST[0] || Number(found[2]) - OLDEST[1]) >= 0;
    if (recent) return { nvcc, libraries: undefined, version: found[3] };
    if (named)
      throw new Error(found ? `NVCC is ${found[3]}; ${OLDEST.join(".")} or newer is needed` : `NVCC=${named} does not run`);
  }
  const fetched = fetchWheels(root, wheels, say);
  const found = versionOf(fetched.nvcc);
  if (!found) throw new Error(`the fetched compiler ${fetched.nvcc} does not run`);
  return { ...fetched, version: found[3] };
}
