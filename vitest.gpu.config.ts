import { defineConfig } from "vitest/config";

// What scripts/gpu/suite.mjs runs on a device, one file at a time: its tests share the device's memory.
export default defineConfig({
  resolve: { alias: { lowrank: `${import.meta.dirname}/src/index.ts` } },
  test: { include: ["test/**/*.{test,gpu}.ts"], testTimeout: 300_000, maxWorkers: 1, pool: "forks" },
});
