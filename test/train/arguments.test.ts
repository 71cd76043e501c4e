import { expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { resolveArguments, stepCount } from "../../src/train/arguments.js";

it("arguments have defaults, and all their mistakes are listed at once", () => {
  expect(resolveArguments({})).toMatchObject({ seed: 42, loggingSteps: 1, outputDir: undefined });
  expect(resolveArguments({ loggingSteps: 5 })).toMatchObject({ seed: 42, loggingSteps: 5 });
  const wrong = () => resolveArguments({ seed: -1, learningRate: "x", learningrate: 1 } as never);
  expect(wrong).toThrow(LowrankError);
  expect(wrong).toThrow(
    /3 mistakes:\n- learningRate should be a number from 0 on, found "x"\n- seed should be an integer from 0 on, found -1\n- 'learningrate' is no argument of a Trainer/,
  );
});

it("a number of steps is a count, or a share of all, rounded up", () => {
  expect([stepCount(3, 100), stepCount(0.25, 10), stepCount(0.001, 10)]).toEqual([3, 3, 1]);
});
