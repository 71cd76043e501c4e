// The emulated device: one object a source, named by the hash of all it is made of, so that what is current costs nothing.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { hashFiles, withIncludes } from "./files.mjs";

const FOLDER = "build/emu";
const LIBRARY = `${FOLDER}/lowrank_emu.so`;
const PROGRAM = `${FOLDER}/test_emulator`;

/** Objects by source, and the text that says how all is made. */
function plan(root) {
  const { cuda, emu } = JSON.parse(readFileSync(join(root, "native/sources.json"), "utf8"));
  const compiler = process.env.CXX || "g++";
  const rules = [];
  const objects = (sources, flags) =>
    sources.map((source) => {
      const command = `${compiler} ${flags.join(" ")} -x c++ -c ${source}`;
      const hash = hashFiles(root, withIncludes(root, source), [command, process.arch]);
      const object = `${FOLDER}/${basename(source).replace(/\.\w+$/, "")}-${hash.slice(0, 16)}.o`;
      rules.push(`${object}:\n\t${command} -o $@.part && mv $@.part $@`);
      return object;
    });
  // Kernels cannot have AddressSanitizer beside the emulator's own observers, which see more.
  const asked = process.env.CXXFLAGS ? [process.env.CXXFLAGS] : [];
  const kernel = [...emu.cflags, ...asked.map((flags) => flags.replace("address,", "")), ...emu.kernel_cflags];
  const emulator = objects(emu.sources, [...emu.cflags, ...asked]);
  const kernels = objects(cuda.sources, kernel);
  const tests = objects(emu.tests, [...kernel, "-fno-sanitize=alignment"]); // a misaligned access is among the planted mistakes
  const link = (target, inputs, flags) =>
    `${target}: ${inputs.join(" ")} ${FOLDER}/Makefile\n\t${compiler} ${flags} $(filter %.o,$^) -o $@.part ${process.env.LDFLAGS ?? ""} -ldl -pthread && mv $@.part $@`;
  const text = [
    `all: ${LIBRARY} ${PROGRAM}\n\tcp ${FOLDER}/Makefile ${FOLDER}/done`,
    // Its own `operator new`, not Node's: it fails where a test asks.
    link(LIBRARY, [...emulator, ...kernels], "-shared -Wl,-z,nodelete,-Bsymbolic-functions"),
    link(PROGRAM, [...emulator, ...tests], ""),
    ...rules,
    "",
  ].join("\n");
  return { text, objects: [...emulator, ...kernels, ...tests] };
}

const done = (root) => join(root, FOLDER, "done");

/** Whether library and program are what the sources say. */
export function emulatorIsCurrent(root) {
  const made = [LIBRARY, PROGRAM].every((file) => existsSync(join(root, file)));
  return made && existsSync(done(root)) && readFileSync(done(root), "utf8") === plan(root).text;
}

/** Writes the makefile and removes what belongs to sources of yesterday; the path. */
export function emulatorMakefile(root) {
  const { text, objects } = plan(root);
  mkdirSync(join(root, FOLDER), { recursive: true });
  for (const file of readdirSync(join(root, FOLDER)))
    if (/\.(o|part)$/.test(file) && !objects.includes(`${FOLDER}/${file}`)) rmSync(join(root, FOLDER, file));
  const path = `${FOLDER}/Makefile`;
  writeFileSync(join(root, path), text);
  return path;
}
