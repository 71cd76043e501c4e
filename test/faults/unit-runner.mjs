/** Runs unit tests of the working folder again and again, without starting anew: {tests, changed} in, the first failure out, or "". */
import { createVitest } from "vitest/node";

// Without those that take seconds; what they are for, power cuts and kills at every call show too.
const testNamePattern = /^(?!.*(kill -9|notices every))/;
const vitest = await createVitest("test", { watch: false, reporters: [{}], bail: 1, testTimeout: 30_000, testNamePattern });
await vitest.standalone();
process.on("message", async ({ tests, changed }) => {
  for (const file of changed) vitest.invalidateFile(file);
  vitest.state.filesMap.clear(); // or failures of former runs would count for this one's bail
  const project = vitest.getRootProject();
  const { testModules, unhandledErrors } = await vitest.runTestSpecifications(tests.map((file) => project.createSpecification(file)));
  const failures = testModules.flatMap((module) => [
    ...module.errors().map(({ message }) => message),
    ...[...module.children.allTests("failed")].map((test) => `${test.fullName}: ${test.result().errors?.[0]?.message}`),
  ]);
  failures.push(...unhandledErrors.map((error) => `not awaited: ${error?.message}`));
  if (failures.length === 0 && testModules.some((module) => module.state() === "failed")) failures.push("not all tests ran");
  process.send(failures[0] ?? "");
});
process.on("disconnect", () => process.exit()); // whoever asked is gone
process.send("ready");
