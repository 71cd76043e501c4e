#!/usr/bin/env node
// Compiles every CUDA source with nvcc and prints what ptxas says of each kernel: `node scripts/cuda/compile.mjs [architecture …]`, 80 and 90
// where none is named, and PTX of the lowest. A proof that the sources are CUDA; objects are thrown away. NVCC names the compiler, else PATH.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { cuda } = JSON.parse(readFileSync(join(root, "native/sources.json"), "utf8"));
const nvcc = process.env.NVCC || "nvcc";
const named = process.argv.slice(2);
const architectures = named.length > 0 ? named : ["80", "90"];
const lowest = architectures.reduce((a, b) => (Number(a) < Number(b) ? a : b));

if (spawnSync(nvcc, ["--version"]).status !== 0) {
  process.stderr.write(
    `compile: ${nvcc} does not run. Install the CUDA toolkit, or its compiler from PyPI (nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl), and name it in NVCC.\n`,
  );
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "lowrank-cuda-"));
const targets = architectures.map((a) => `-gencode=arch=compute_${a},code=sm_${a}`);
targets.push(`-gencode=arch=compute_${lowest},code=compute_${lowest}`);
let failed = 0;
for (const source of cuda.sources) {
  const flags = ["-std=c++17", "-O3", "-Xcompiler=-Wall,-fPIC", "-Xptxas=-v", "-Werror=all-warnings", ...targets];
  const { status, stdout, stderr } = spawnSync(nvcc, [...flags, "-c", source, "-o", join(folder, "object.o")], {
    cwd: root,
    encoding: "utf8",
  });
  const text = `${stdout}${stderr}`;
  const kernels = text.match(/Used \d+ registers/g) ?? [];
  const most = Math.max(0, ...kernels.map((line) => Number(line.match(/\d+/)?.[0])));
  const spills = [...text.matchAll(/(\d+) bytes spill stores/g)].filter(([, bytes]) => bytes !== "0").length;
  if (status !== 0) process.stderr.write(text);
  if (status !== 0 || spills > 0) failed++;
  console.log(
    `${source}: ${status === 0 ? `${kernels.length} kernels, at most ${most} registers, ${spills} with spills` : "failed"}`,
  );
}
rmSync(folder, { recursive: true });
process.exit(failed > 0 ? 1 : 0);
