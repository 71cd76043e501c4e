/** Who may import whom: the table of docs/architecture.md, read off the import statements of src and the includes of native. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { describe, expect, test } from "vitest";

const EVERYTHING = ["*"];

/** Folder (or file) of src → folders it may import, besides itself and what all may import. */
const SRC: Readonly<Record<string, readonly string[]>> = {
  "errors.ts": [],
  "half.ts": [],
  "notes.ts": [],
  "suggest.ts": [],
  "index.ts": EVERYTHING,
  native: [],
  tensor: ["native"],
  autograd: ["tensor"],
  io: ["native"],
  quant: ["tensor", "native", "io"],
  ops: ["autograd", "tensor", "quant", "native"],
  nn: ["ops", "autograd", "tensor", "quant"],
  text: ["io"],
  data: ["text", "io"],
  generate: ["ops", "tensor", "text"],
  models: ["nn", "ops", "autograd", "tensor", "quant", "io", "text", "generate"],
  optim: ["tensor", "quant"],
  peft: ["nn", "ops", "autograd", "tensor", "quant", "io", "models", "optim"],
  train: ["peft", "models", "nn", "ops", "autograd", "tensor", "quant", "io", "optim", "data", "text", "generate"],
  quickstart: EVERYTHING,
  cli: EVERYTHING,
};
const FOR_ALL = ["errors.ts", "half.ts", "notes.ts", "suggest.ts"];

/** Folder of native → folders it may include. The addon never sees a backend's kernels; cpu/isa binds them to a vector type. */
const NATIVE: Readonly<Record<string, readonly string[]>> = {
  abi: [],
  core: ["abi", "cpu"],
  addon: ["core", "abi", "cpu"],
  cpu: ["abi", "core", "cpu/ops", "cpu/simd"],
  "cpu/ops": ["abi", "cpu/simd", "core"],
  "cpu/isa": ["cpu", "cpu/simd"],
  "cpu/simd": [],
  test: ["abi", "core", "cpu", "cpu/simd", "addon"],
  // The kernels see the contract, the tables of codes and, where no nvcc compiles them, the emulator in CUDA's place.
  cuda: ["abi", "cuda/device"],
  "cuda/device": ["abi", "emu"],
  "cuda/ops": ["abi", "cuda", "cuda/device", "core"],
  emu: [],
  "test/emu": ["cuda/device", "emu"],
};
/** Files of a folder that only these may be included from, where the folder is more than its users need. */
const DOORS: Readonly<Record<string, readonly string[]>> = {
  "core→cpu": ["cpu/backend.h"],
  "addon→cpu": ["cpu/backend.h"],
  "test→cpu": ["cpu/backend.h", "cpu/regions.h"],
  "test→cpu/simd": ["cpu/simd/scalar.h", "cpu/simd/math.h"],
  "test→addon": ["addon/handles.h"],
  "cpu→core": [],
  "cpu/ops→core": ["core/codes.h"],
  "cuda/ops→core": ["core/codes.h"],
  "cuda/ops→cuda": ["cuda/table.cuh"],
  "cuda/device→emu": ["emu/cuda_emu.h", "emu/numbers.h"],
};

const root = join(import.meta.dirname, "..");

function files(folder: string, endings: readonly string[]): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((path) => endings.some((ending) => path.endsWith(ending)))
    .sort();
}

/** Paths that a file names, relative to `folder`; packages are left out. */
function references(folder: string, file: string, pattern: RegExp): string[] {
  const text = readFileSync(join(root, folder, file), "utf8");
  return [...text.matchAll(pattern)].map((match) => normalize(join(dirname(file), match[1]!)));
}

const IMPORT = /(?:\bfrom\s+|\bimport\s*\(\s*|^import\s+|\bimport\.meta\.resolve\(\s*)"(\.[^"]+)"/gm;
const INCLUDE = /^\s*#\s*include\s+"([^"]+)"/gm;

const folderOfSource = (path: string) => (path.includes("/") ? path.slice(0, path.indexOf("/")) : path.replace(/\.js$/, ".ts"));
const folderOfNative = (path: string) => dirname(path);

describe("src", () => {
  test("every folder stands in the table", () => {
    expect([...new Set(files("src", [".ts"]).map(folderOfSource))].filter((folder) => !(folder in SRC))).toEqual([]);
  });

  test("imports follow the table", () => {
    const wrong = files("src", [".ts", ".mjs"]).flatMap((file) => {
      const from = folderOfSource(file);
      const allowed = SRC[from] ?? [];
      return references("src", file, IMPORT)
        .filter((target) => !target.startsWith("..")) // package.json
        .map(folderOfSource)
        .filter((to) => to !== from && !FOR_ALL.includes(to) && allowed !== EVERYTHING && !allowed.includes(to))
        .map((to) => `src/${file} imports ${to}`);
    });
    expect(wrong).toEqual([]);
  });

  test("the table itself has no way around in a circle", () => {
    const reach = (from: string, seen: string[]): string[] => {
      if (seen.includes(from)) return [...seen, from];
      const next = (SRC[from] ?? []).filter((to) => to !== "*");
      return next.map((to) => reach(to, [...seen, from])).find((path) => path.length > 0) ?? [];
    };
    expect(
      Object.keys(SRC)
        .map((from) => reach(from, []))
        .filter((path) => path.length > 0),
    ).toEqual([]);
  });

  test("only native/ loads a .node file, and only ops, optim and quant enqueue kernels", () => {
    const users = files("src", [".ts"]).filter((file) =>
      /\bdevice\.kernels\b/.test(readFileSync(join(root, "src", file), "utf8")),
    );
    expect(
      [...new Set(users.map(folderOfSource))].filter(
        (folder) => !["ops", "optim", "quant", "tensor", "autograd"].includes(folder),
      ),
    ).toEqual([]);
    const loaders = files("src", [".ts"]).filter((file) =>
      /process\.dlopen|node-gyp-build|\.node["'`]/.test(readFileSync(join(root, "src", file), "utf8")),
    );
    expect([...new Set(loaders.map(folderOfSource))].filter((folder) => folder !== "native")).toEqual([]);
  });
});

describe("native", () => {
  const sources = files("native", [".h", ".cc", ".cu", ".cuh"]);

  test("every folder stands in the table", () => {
    expect([...new Set(sources.map(folderOfNative))].filter((folder) => !(folder in NATIVE))).toEqual([]);
  });

  test("includes follow the table", () => {
    const wrong = sources.flatMap((file) => {
      const from = folderOfNative(file);
      return references("native", file, INCLUDE)
        .filter((target) => {
          const to = folderOfNative(target);
          return to !== from && (!NATIVE[from]?.includes(to) || !(DOORS[`${from}→${to}`]?.includes(target) ?? true));
        })
        .map((target) => `native/${relative(".", file)} includes ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  test("the addon and the core see no CUDA header", () => {
    const cuda = sources.filter(
      (file) => /^(addon|core)\//.test(file) && /#\s*include\s+[<"]cuda/.test(readFileSync(join(root, "native", file), "utf8")),
    );
    expect(cuda).toEqual([]);
  });
});
