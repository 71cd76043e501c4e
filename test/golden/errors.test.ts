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
