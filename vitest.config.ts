import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    // Two workers: native kernels bring their own threads.
    maxWorkers: 2,
    pool: "forks",
  },
});
