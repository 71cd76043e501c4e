import { describe, expect, it } from "vitest";
import { addon, isas, refusal, withRaw } from "./raw.js";

describe.each(isas.map((isa) => `cpu:${isa}`))("multiply_adds on %s", (device) => {
  it.each([0, 1])("does what was asked, in whole rounds, math %i", async (math) => {
    await withRaw(device, async (raw) => {
      const { threads } = addon.deviceInfo(raw.d);
      const done = raw.out([threads]);
      raw.kernels.multiplyAdds(raw.d, done, math, 3);
      for (const millions of await raw.f32(done)) {
        expect(millions).toBeGreaterThanOrEqual(3);
        expect(millions).toBeLessThan(3.04); // a round of AMX is 32768
      }
    });
  });

  it("refuses more tasks than threads and more than its sums can count", async () => {
    await withRaw(device, async (raw) => {
      const { threads } = addon.deviceInfo(raw.d);
      const many = raw.out([threads + 1]);
      const one = raw.out([1]);
      const error = await refusal(raw, () => raw.kernels.multiplyAdds(raw.d, many, 0, 1));
      expect(error).toMatchObject({ code: "INVALID", op: "multiply_adds", message: expect.stringContaining("one a thread") });
      for (const millions of [0, 501]) {
        const wrong = await refusal(raw, () => raw.kernels.multiplyAdds(raw.d, one, 0, millions));
        expect(wrong.message).toContain(`millions must be 1 to 500 but is ${millions}`);
      }
    });
  });
});
