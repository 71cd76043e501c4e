import { expect, it } from "vitest";
import { Errors } from "./errors.js";

it("a relative error is absolute where nothing is expected", () => {
  const errors = new Errors();
  errors.relative("a sequence without targets", 0, 0, 1e-5);
  errors.relative("within", 100.0005, 100, 1e-5);
  expect(errors.outcome()).toMatchObject({ ok: true });
  errors.relative("not zero", 0.001, 0, 1e-5);
  errors.relative("not finite", Number.NaN, 0, 1e-5);
  errors.relative("too far", 100.01, 100, 1e-5);
  expect(errors.wrong).toHaveLength(3);
});

it("values above 1 may be off by a share of themselves where a case says so", () => {
  const errors = new Errors();
  errors.compareScaled("within", [100.05, 0.50001], [100, 0.5], 1e-4, 1e-3);
  expect(errors.outcome()).toMatchObject({ ok: true });
  errors.compareScaled("too far", [100.2], [100], 1e-4, 1e-3);
  errors.compareScaled("small ones are absolute", [0.501], [0.5], 1e-4, 1e-3);
  errors.compareScaled("no share", [100.05], [100], 1e-4, 0);
  errors.compareScaled("not finite", [Number.NaN], [100], 1e-4, 1e-3);
  expect(errors.wrong).toHaveLength(4);
});
