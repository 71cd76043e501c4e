import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { buildOnce } from "./cli/run.js";

const root = join(import.meta.dirname, "..");
const node = (...args: string[]) => spawnSync(process.execPath, args, { cwd: root, encoding: "utf8", timeout: 30_000 });

beforeAll(buildOnce, 120_000);

/** The package as its users import it, by name. */
describe("the public API", () => {
  it("is what the README and examples use, and nothing internal", () => {
    const { stdout } = node("--input-type=module", "-e", 'console.log(Object.keys(await import("lowrank")).sort().join(" "))');
    expect(stdout.trim().split(" ")).toEqual([
      "Adafactor",
      "Adam",
      "AdamW",
      "AutoModelForCausalLM",
      "AutoTokenizer",
      "CausalLM",
      "Embedding",
      "Linear",
      "Lion",
      "LoraConfig",
      "LowrankError",
      "Module",
      "ParameterArena",
      "PeftModel",
      "RMSNorm",
      "SGD",
      "Tensor",
      "Tokenizer",
      "Trainer",
      "Weight",
      "buildExamples",
      "checkpoint",
      "createSchedule",
      "defineOp",
      "estimateRun",
      "getDevice",
      "getPeftModel",
      "linear",
      "loadRows",
      "loadTrainConfig",
      "loraPlusGroups",
      "mergeIntoCheckpoint",
      "parseTrainConfig",
      "prepareData",
      "prepareRun",
      "previewSegments",
      "renderChatTemplate",
      "renderPreview",
      "scope",
      "supportedModelTypes",
      "valueAndGrad",
    ]);
  });

  it("can be required, and nothing undisposed keeps the process alive", () => {
    const [major, minor] = process.versions.node.split(".").map(Number);
    if (major === 20 && minor! < 19) return;
    const script = 'const { Tensor } = require("lowrank"); globalThis.t = Tensor.zeros([1000]); console.log(typeof Tensor)';
    const { status, stdout } = node("--input-type=commonjs", "-e", script);
    expect({ status, stdout: stdout.trim() }).toEqual({ status: 0, stdout: "function" });
  });
});
