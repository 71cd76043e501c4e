import { defineConfig } from "vitest/config";

export default defineConfig({
  // The examples import the package by its name.
  resolve: { alias: { lowrank: `${import.meta.dirname}/src/index.ts` } },
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    // Two workers: native kernels bring their own threads.
    maxWorkers: 2,
    pool: "forks",
  },
});
