// Builds with other flags than those that ship: the addon from a copy of the sources in .cache, so that neither the ordinary build nor
// the loader knows of it, and the C++ tests.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { missingTools } from "./tools.mjs";

const PARTS = [
  "binding.gyp",
  "native",
  "package.json",
  "scripts",
  "src",
  "test",
  "tsconfig.json",
  "vitest.config.ts",
  "vitest.counts.config.ts",
];

/** What a script named `script` says and does; whatever fails ends the process with 1. */
export function steps(root, script) {
  const fail = (text) => {
    process.stderr.write(`${script}: ${text}\n`);
    process.exit(1);
  };
  const run = (command, args, options = {}) => {
    process.stderr.write(`${script}: ${[command, ...args].join(" ").replaceAll(root, ".")}\n`);
    const { status, signal, error } = spawnSync(command, args, { stdio: "inherit", cwd: root, ...options });
    if (status !== 0) fail(`${command} ended with ${error?.message ?? signal ?? status}`);
  };

  return {
    fail,
    run,

    /** Fails with the one command that installs what is missing; `more`: further [found, what, package]. */
    need(more = []) {
      const { problems, packages } = missingTools();
      for (const [found, what, name] of [
        [spawnSync("cmake", ["--version"]).status === 0, "cmake", "cmake"],
        [existsSync("/usr/include/gtest/gtest.h"), "GoogleTest", "libgtest-dev"],
        ...more,
      ]) {
        if (found) continue;
        problems.push(what);
        if (!packages.includes(name)) packages.push(name);
      }
      if (problems.length > 0) fail(`needs ${problems.join(", ")}.\n  apt-get install -y ${packages.join(" ")}`);
    },

    /** Builds and runs native/test with these flags; the folder of the build. */
    nativeTests(name, flags, env = {}) {
      const folder = join(root, ".cache/native-tests", name);
      const define = ["-DCMAKE_BUILD_TYPE=None", `-DCMAKE_CXX_FLAGS=${flags}`];
      run("cmake", ["-S", root, "-B", folder, ...define, "-Wno-dev", "--log-level=WARNING"]);
      run("cmake", ["--build", folder, "-j", "2", "--", "--no-print-directory", "-s"]);
      run(join(folder, "native-tests"), ["--gtest_brief=1"], { cwd: folder, env: { ...process.env, ...env } });
      return folder;
    },

    /** The folder of a copy of the sources; what an earlier run built there stays. */
    copy(name) {
      const shadow = join(root, ".cache", name);
      mkdirSync(shadow, { recursive: true });
      for (const part of PARTS) {
        rmSync(join(shadow, part), { recursive: true, force: true });
        cpSync(join(root, part), join(shadow, part), {
          recursive: true,
          preserveTimestamps: true,
          filter: (path) => !path.includes("golden/cases"),
        });
      }
      symlinkSync(join(root, "test/golden/cases"), join(shadow, "test/golden/cases"));
      rmSync(join(shadow, "node_modules"), { force: true });
      symlinkSync(join(root, "node_modules"), join(shadow, "node_modules"));
      return shadow;
    },

    buildCopy: (shadow, env = {}) =>
      run(process.execPath, ["scripts/build.mjs"], { cwd: shadow, env: { ...process.env, ...env } }),

    testCopy: (shadow, args, env = {}) =>
      run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...args], { cwd: shadow, env: { ...process.env, ...env } }),
  };
}
