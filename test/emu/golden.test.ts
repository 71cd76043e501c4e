/** Golden cases through the CUDA kernels: all small ones, and the quickest of the larger. `npm run golden -- DIR --device emu` runs any. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { findCases, runCase } from "../golden/runner.js";

const cases = join(import.meta.dirname, "../golden/cases");
const SMALL = ["op", "optimizer", "blockwise8", "eval", "nf4", "nf4_nonfinite", "nf4_storage"];
const LARGER = [
  ...["train/sft_lion", "train/sft_left_padding", "train/sft_modules_to_save", "train/sft_adamw_8bit"],
  ...["peft/adapter-dora-tied-target", "peft/combine-cat", "peft/qlora-nf4", "peft/qlora-lorabias-merge"],
];
const isSmall = (path: string) => SMALL.includes(JSON.parse(readFileSync(join(path, "case.json"), "utf8")).kind);
const paths = [...findCases(cases).filter(isSmall), ...LARGER.map((name) => join(cases, name))];

describe(`golden data on ${cuda}`, () => {
  it.each(paths.map((path) => [path.slice(cases.length + 1), path]))("%s", async (_, path) => {
    expect(await runCase(path, { device: cuda })).toMatchObject({ ok: true });
  });
});
