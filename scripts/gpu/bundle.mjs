// `npm run gpu:bundle`: build/gpu/lowrank-gpu-<version>-linux-<arch>.tar.xz, which runs the suite on a machine with a GPU and neither network, Node.js
// nor compiler: docs/gpu-suite.md. Packs what is built; `npm run gpu:bundle` builds it first, the CUDA plugin too.
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundledFiles, manifestOf, newestOf, tooLarge } from "./manifest.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const name = `lowrank-gpu-${version}-${process.platform}-${process.arch}`;
const folder = join(root, "build/gpu", name);
const archive = `${folder}.tar.xz`;
const say = (text) => process.stderr.write(`bundle: ${text}\n`);
const git = (...args) => execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();

function copy(from, to) {
  mkdirSync(dirname(join(folder, to)), { recursive: true });
  cpSync(from, join(folder, to));
}

rmSync(join(root, "build/gpu"), { recursive: true, force: true });
const files = bundledFiles(root);
for (const path of files) copy(join(root, path), path);
copy(join(root, "scripts/gpu/run-suite.sh"), "run-suite.sh");
copy(process.execPath, "bin/node");
execFileSync("strip", [join(folder, "bin/node")]);
for (const program of ["run-suite.sh", "bin/node"]) chmodSync(join(folder, program), 0o755);

const binaries = ["bin/node", ...files.filter((path) => /^build\/.*\.(node|so)$/.test(path))].map((path) => join(folder, path));
const needs = { glibc: newestOf("GLIBC", binaries), glibcxx: newestOf("GLIBCXX", binaries) };
const changed = git("status", "--porcelain") === "" ? "" : "+";
const facts = {
  name: "lowrank",
  version,
  commit: git("rev-parse", "--short=10", "HEAD") + changed,
  node: process.version,
  ...needs,
};
const manifest = manifestOf(folder, [...files, "run-suite.sh", "bin/node"].sort(), facts);
writeFileSync(join(folder, "manifest.json"), `${JSON.stringify(manifest, null, 1)}\n`);

say(`${files.length} files; glibc ${needs.glibc}, GLIBCXX ${needs.glibcxx} or newer; compressing (a minute or two)`);
// Machine code compresses better behind the x86 filter; names sorted and without owners, so that equal contents give equal bytes.
const filters = process.arch === "x64" ? "xz -T0 --x86 --lzma2=preset=7" : "xz -T0 --lzma2=preset=7";
execFileSync(
  "tar",
  ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-I", filters, "-cf", archive, name],
  { cwd: dirname(folder) },
);
const problem = tooLarge(statSync(archive).size);
if (problem !== undefined) {
  say(problem);
  process.exit(1);
}
console.log(`${archive.slice(root.length + 1)}: ${(statSync(archive).size / 2 ** 20).toFixed(1)} MiB`);
