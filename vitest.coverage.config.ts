import { defineConfig } from "vitest/config";
import base from "./vitest.config.js";

/** What must be covered: parsers, the durable writer, the TypeScript side of the native edge, the checks of training. */
const GROUPS = [
  "src/io/*.ts",
  "src/text/**/*.ts",
  "src/data/{convert,dataset-info,json,pieces,placeholders,readers,rows}.ts",
  "src/models/{config,config-reader,rope,plan,layout,bitsandbytes}.ts",
  "src/models/*/config.ts",
  "src/peft/{adapter-file,config,config-fields,python-regex,targets}.ts",
  "src/train/{config,config-keys,arguments,run-state,checkpoints}.ts",
  "src/train/checks/*.ts",
  "src/native/*.ts",
];

/** The tests that reach them in their own process: a child's or a worker's branches are not seen. */
const TESTS = [
  "test/{io,text,data,models,checks}/**/*.test.ts",
  "test/peft/{adapter,adapter-file,base,config,parts,targets}.test.ts",
  "test/train/{arguments,config,run-state,trainer,trainer-resume}.test.ts",
  "test/native/{load,plugin}.test.ts",
  "test/golden/golden.test.ts",
  "test/hostile/bombs.coverage.ts",
];

// Not merged by mergeConfig, which would add the lists of tests up.
export default defineConfig({
  ...base,
    test: {
      ...base.test,
      include: TESTS,
      coverage: {
        include: GROUPS,
        reporter: ["text-summary", "json", "html"],
        thresholds: { branches: 98, ...Object.fromEntries(GROUPS.map((group) => [group, { branches: 98 }])) },
      },
    },
});
