import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readRunState, restoreTensors } from "../../src/train/run-state.js";
import { errorOf, safetensorsBytes, tempFolder } from "../io/files.js";

const STATE = {
  step: 3,
  trainedTokens: 10,
  targetTokens: 5,
  lossSum: 1.5,
  runtimeSeconds: 2,
  skippedSteps: 0,
  bestMetric: null,
  bestGlobalStep: null,
  logHistory: [{ step: 1 }],
  identity: {},
};

describe("the state of a run", () => {
  const read = (state: unknown) => {
    const folder = tempFolder();
    writeFileSync(join(folder, "lowrank_state.json"), JSON.stringify(state));
    return readRunState(folder);
  };

  it("is read as it was written", async () => {
    expect(await read(STATE)).toEqual(STATE);
    expect(await read({ ...STATE, bestMetric: 0.5, bestGlobalStep: 2 })).toMatchObject({ bestMetric: 0.5, bestGlobalStep: 2 });
  });

  it.each([
    ["step", -1, "-1"],
    ["step", 1.5, "1.5"],
    ["targetTokens", undefined, "nothing"],
    ["lossSum", "x", '"x"'],
    ["bestMetric", "x", '"x"'],
    ["bestGlobalStep", -1, "-1"],
    ["logHistory", {}, "{}"],
    ["logHistory", [null], "[null]"],
    ["identity", [], "[]"],
  ])("is refused where %s is %j", async (key, value, found) => {
    expect(await errorOf(read({ ...STATE, [key]: value }))).toMatchObject({
      code: "CHECKPOINT",
      message: expect.stringContaining(`its ${key} is ${found}`),
    });
  });

  it("is absent where none was saved, which is not the same as unreadable", async () => {
    const folder = tempFolder();
    expect(await errorOf(readRunState(folder))).toMatchObject({
      code: "CHECKPOINT",
      hint: expect.stringContaining("adapter_name_or_path"),
    });
    mkdirSync(join(folder, "lowrank_state.json"));
    expect((await errorOf(readRunState(folder))).code).toBe("INVALID_FILE");
  });
});

describe("the tensors of a run", () => {
  it("of another optimizer are refused", async () => {
    const folder = tempFolder();
    writeFileSync(
      join(folder, "optimizer.safetensors"),
      safetensorsBytes({ momentum: { dtype: "F32", shape: [0], data_offsets: [0, 0] } }),
    );
    const tensor = { dtype: "float32", byteLength: 4 };
    const optimizer = { arena: { values: tensor }, state: { exp_avg: tensor } };
    expect(await errorOf(restoreTensors(folder, optimizer as never))).toMatchObject({
      code: "CHECKPOINT",
      message: expect.stringContaining("another optimizer made it: it holds momentum"),
    });
  });
});
