// What the bundle for a GPU machine consists of, and what it may weigh.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { walk } from "../build-steps/files.mjs";

export const MOST_BYTES = 60 * 2 ** 20;

/** Packages that run the suite: vitest, and what the library imports. Left out of their closure: types, and CSS, which no test has. */
const LEFT_OUT = /^node_modules\/(@types\/|lightningcss)/;

/** Folders of the installed packages that `names` need, by package-lock.json; optional ones where they are installed. */
export function packages(root, names) {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")).packages;
  const found = new Set();
  const visit = (name, from) => {
    // As Node.js looks for it: in the package itself, then in what holds that.
    let folder = from;
    while (folder !== "" && !lock[`${folder}/node_modules/${name}`])
      folder = folder.replace(/\/?node_modules\/(@[^/]+\/)?[^/]+$/, "");
    const key = folder === "" ? `node_modules/${name}` : `${folder}/node_modules/${name}`;
    if (found.has(key) || LEFT_OUT.test(key) || !existsSync(join(root, key))) return;
    found.add(key);
    for (const next of Object.keys({ ...lock[key].dependencies, ...lock[key].optionalDependencies })) visit(next, key);
  };
  for (const name of names) visit(name, "");
  return [...found].sort();
}

/** Paths of all files that are taken over as they are, relative to the checkout. */
export function bundledFiles(root) {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const plain = (path) => !/(^|\/)(node_modules|\.[^/]*)\//.test(path) && !/\/\.[^/]*$/.test(path);
  const modules = packages(root, ["vitest", ...Object.keys(dependencies)]).flatMap((folder) =>
    walk(root, folder, (path) => !path.slice(folder.length).includes("/node_modules/") && !/\.(d\.[cm]?ts|map|md)$/.test(path)),
  );
  return [
    ...["package.json", "README.md", "LICENSE", "tsconfig.json", "vitest.gpu.config.ts"],
    ...["build/Release/lowrank.node", "build/emu/lowrank_emu.so", "build/cuda/lowrank_cuda.so"],
    ...["src", "dist", "test", "assets", "scripts"].flatMap((folder) => walk(root, folder, plain)),
    ...modules,
  ];
}

/** The newest version of a library that programs ask for by symbols of the form `GLIBC_2.34`, without what comes before `_`; "0" where none does. */
export function newestOf(symbols, paths) {
  const found = paths.flatMap((path) => [
    ...readFileSync(path, "latin1").matchAll(new RegExp(`${symbols}_(\\d+(?:\\.\\d+)*)`, "g")),
  ]);
  const versions = found.map(([, version]) => version).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return versions.at(-1) ?? "0";
}

/** The manifest of files that lie under `folder`. */
export function manifestOf(folder, files, facts) {
  const entries = files.map((path) => {
    const file = join(folder, path);
    return { path, bytes: statSync(file).size, sha256: createHash("sha256").update(readFileSync(file)).digest("hex") };
  });
  return { ...facts, files: entries };
}

/** A sentence on an archive that is too large, or undefined. */
export function tooLarge(bytes) {
  const mib = (n) => `${(n / 2 ** 20).toFixed(1)} MiB`;
  return bytes > MOST_BYTES ? `the archive has ${mib(bytes)}, more than the ${mib(MOST_BYTES)} it may have` : undefined;
}
