import { defineConfig } from "vitest/config";

// The long checks that need strace or many processes: one file at a time, so that kills and limits meet a quiet machine.
export default defineConfig({
  test: { include: ["test/faults/**/*.faults.ts"], testTimeout: 1_200_000, maxWorkers: 1, pool: "forks" },
});
