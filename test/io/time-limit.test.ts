import { afterEach, expect, it, vi } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { withinTime } from "../../src/io/time-limit.js";

afterEach(() => vi.restoreAllMocks());
const tooLong = () => new LowrankError("INVALID_FILE", "too long");
const endless = () => {
  for (;;);
};

it("gives what the body gives, and throws what it throws, also inside another limit", () => {
  expect(withinTime(1000, () => withinTime(1000, () => 5, tooLong) + 1, tooLong)).toBe(6);
  expect(() => withinTime(1000, () => JSON.parse("{"), tooLong)).toThrow(SyntaxError);
});

it("stops a body that does not come to an end", () => {
  expect(() => withinTime(20, endless, tooLong)).toThrow("too long");
});

it("runs it again with more time where the process got too little of it, but not for ever", () => {
  const cpuUsage = vi.spyOn(process, "cpuUsage");
  const none = { user: 0, system: 0 };
  cpuUsage.mockReturnValue(none);
  let runs = 0;
  const second = () => (++runs === 1 ? endless() : runs);
  expect(withinTime(5, second, tooLong)).toBe(2);
  expect(() => withinTime(1, endless, tooLong)).toThrow("too long");
});
