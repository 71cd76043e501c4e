import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadRows } from "../../src/data/rows.js";
import { verifyFolder } from "../../src/io/manifest.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { ADAPTERS, adapterExam, adapterTraining } from "../../src/quickstart/adapters.js";
import { sameBytes } from "../../src/quickstart/answer.js";
import type { QuickstartEvent } from "../../src/quickstart/events.js";
import { PASS_MARK, runQuickstart } from "../../src/quickstart/run.js";
import { getDevice } from "../../src/tensor/device.js";
import { loadTrainConfig } from "../../src/train/config.js";
import { buildOnce, jsonLines, lowrank } from "../cli/run.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "quickstart-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** The events of a quickstart whose adapters are trained for a few steps only. */
async function short(
  out: string,
  options: { maxSteps?: number; seed?: number; signal?: AbortSignal } = {},
): Promise<QuickstartEvent[]> {
  const events: QuickstartEvent[] = [];
  await runQuickstart({ out, maxSteps: 2, ...options, onEvent: (event) => events.push(event) });
  return events;
}

const sha256 = async (path: string) =>
  createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
const adapterBytes = (out: string) => Promise.all(ADAPTERS.map((name) => sha256(join(out, name, "adapter_model.safetensors"))));

describe("lowrank quickstart", () => {
  let events: QuickstartEvent[];
  let out: string;
  const the = <T extends QuickstartEvent["type"]>(type: T) =>
    events.filter((event): event is QuickstartEvent & { type: T } => event.type === type);

  beforeAll(async () => {
    out = join(folder, "whole");
    buildOnce();
    const { code, stdout, stderr } = await lowrank(["quickstart", "--json", "--out", out]);
    expect(code, stderr).toBe(0);
    events = jsonLines(stdout) as QuickstartEvent[];
  }, 240_000);

  it("says what it is and ends with a verdict", () => {
    expect(the("start")).toMatchObject([{ model: "lowrank/tiny", seed: 1, threads: getDevice().info.threads }]);
    expect(the("done")).toMatchObject([{ passed: true, failures: [], folder: out }]);
    expect(events.at(-1)!.type).toBe("done");
  });

  it("holds the linears in 4 bits", () => {
    const [{ parameters, bytes }] = the("loaded") as [QuickstartEvent & { type: "loaded" }];
    // Embedding 1024 × 192 in 16 bits, the rest below 4.2 bits, norms aside.
    expect(bytes).toBeLessThan(1024 * 192 * 2 + (parameters - 1024 * 192) * (4.2 / 8) + 9 * 192 * 4 + 32_768);
  });

  it("each adapter passes its own exam, and base and other adapter do not", () => {
    expect(the("score")).toHaveLength(6);
    for (const { exam, variant, right, total } of the("score")) {
      expect(total).toBe(adapterExam(exam).length);
      if (variant === exam) expect(right / total).toBeGreaterThanOrEqual(PASS_MARK);
      else expect(right).toBe(0);
    }
  });

  it("swaps: each variant answers in its own way, on the base's knowledge", () => {
    const [{ comparisons }] = the("swapped") as [QuickstartEvent & { type: "swapped" }];
    for (const [i, { answers }] of comparisons.entries()) {
      const exam = ADAPTERS[i]!;
      expect(answers[exam]).toBe(adapterExam(exam)[0]!.answer);
      expect(answers.base).not.toBe(answers[exam]);
    }
    const [, { answers }] = comparisons as [unknown, (typeof comparisons)[number]];
    expect(answers.sailor).toContain(answers.base.replace(".", ""));
  });

  it("leaves the base as it was, bit for bit, and merges without changing an answer", () => {
    expect(the("base")).toMatchObject([{ equal: true }]);
    const [{ total, sameAfterLoading, sameAsAdapter }] = the("merged") as [QuickstartEvent & { type: "merged" }];
    expect([sameAfterLoading, total]).toEqual([120, 120]);
    expect(sameAsAdapter).toBeGreaterThanOrEqual(117);
  });

  it("saves whole folders, whose adapters answer when they are loaded", async () => {
    expect(await verifyFolder(out)).toMatchObject({ ok: true });
    expect(await verifyFolder(join(out, "merged"))).toMatchObject({ ok: true });
    const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny", { loadIn4bit: true });
    const peft = await PeftModel.fromPretrained(model, join(out, "sailor"));
    const [{ question, answer }] = adapterExam("sailor") as [{ question: string; answer: string }];
    expect(await peft.generate([{ role: "user", content: question }])).toBe(answer);
    peft.dispose();
  });

  it("leaves a configuration that trains a real model on the same rows", async () => {
    const { config, notes } = await loadTrainConfig(join(out, "real_model.yaml"));
    expect(notes).toEqual([]);
    expect(config).toMatchObject({ quantizationBit: 4, stage: "sft", loraRank: 16 });
    const rows = await loadRows({ dataset: config.dataset, datasetDir: config.datasetDir, stage: "sft" });
    expect(rows).toHaveLength(adapterTraining("identity", 1).length);
    expect(rows.every((row) => row.kind === "chat")).toBe(true);
  });
});

describe("the flow", () => {
  it("gives the same bytes for the same seed, and frees all memory", async () => {
    const before = getDevice().memory.live;
    const out = ["a", "b", "c"].map((name) => join(folder, name)) as [string, string, string];
    for (const [i, seed] of [7, 7, 8].entries()) await short(out[i]!, { seed });
    expect(await adapterBytes(out[1])).toEqual(await adapterBytes(out[0]));
    expect(await adapterBytes(out[2])).not.toEqual(await adapterBytes(out[0]));
    expect(getDevice().memory.live).toBe(before);
  }, 120_000);

  it("says what was missed, with its figure", async () => {
    const done = (await short(join(folder, "miss"))).at(-1) as QuickstartEvent & { type: "done" };
    expect(done.passed).toBe(false);
    expect(done.failures).toHaveLength(2);
    expect(done.failures[1]).toMatch(/^The adapter sailor answered \d+ of 120 exactly, \d+\.\d %; the goal is 90 %\.$/);
  }, 60_000);

  it("compares logits byte by byte", () => {
    expect(sameBytes(Float32Array.of(1, Number.NaN), Float32Array.of(1, Number.NaN))).toBe(true);
    expect(sameBytes(Float32Array.of(0), Float32Array.of(-0))).toBe(false);
    expect(sameBytes(Float32Array.of(1), Float32Array.of(1, 2))).toBe(false);
  });

  it("overwrites a former quickstart's folder", async () => {
    const out = join(folder, "again");
    await short(out, { seed: 1, maxSteps: 1 });
    const first = await adapterBytes(out);
    await short(out, { seed: 2, maxSteps: 1 });
    expect(await adapterBytes(out)).not.toEqual(first);
    expect(await verifyFolder(out)).toMatchObject({ ok: true });
  }, 60_000);

  it.each([
    ["files of someone else", async (out: string) => writeFile(join(out, "thesis.txt"), "")],
    ["a mark of another program", async (out: string) => writeFile(join(out, "quickstart.json"), '{"made_by":"me"}')],
    ["a damaged mark", async (out: string) => writeFile(join(out, "quickstart.json"), "{")],
  ])("refuses a folder with %s before it does anything", async (_, fill) => {
    const out = await mkdtemp(join(folder, "taken-"));
    await fill(out);
    const [before] = await readdir(out);
    const events: QuickstartEvent[] = [];
    const run = runQuickstart({ out, onEvent: (event) => events.push(event) });
    await expect(run).rejects.toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining(out) });
    expect(events.map(({ type }) => type)).toEqual(["start"]);
    expect(await readdir(out)).toEqual([before]);
  });

  it.each(["load", "train", "exam", "base"] as const)(
    "stops at '%s' when it is aborted, and frees everything",
    async (at) => {
      const before = getDevice().memory.live;
      const controller = new AbortController();
      const reason = new Error("enough");
      const onEvent = (event: QuickstartEvent) => {
        if (event.type === at) controller.abort(reason);
      };
      const run = runQuickstart({ out: join(folder, `stopped-${at}`), maxSteps: 2, signal: controller.signal, onEvent });
      await expect(run).rejects.toBe(reason);
      expect(getDevice().memory.live).toBe(before);
    },
    60_000,
  );
});

describe("the command", () => {
  it("ends with 130 on Ctrl-C, leaving nothing behind", async () => {
    const out = join(folder, "interrupted");
    const args = ["quickstart", "--json", "--out", out];
    const { code, stderr } = await lowrank(args, { signalWhen: { pattern: /"type":"train"/, signal: "SIGINT" } });
    expect([code, stderr.includes("Interrupted; nothing was saved")]).toEqual([130, true]);
    expect(await readdir(folder)).not.toContain("interrupted");
  }, 60_000);

  it("ends with 2 when the folder is taken or the seed is no number", async () => {
    const out = await mkdtemp(join(folder, "taken-"));
    await writeFile(join(out, "thesis.txt"), "");
    const taken = await lowrank(["quickstart", "--out", out]);
    expect([taken.code, taken.stderr.includes("--out DIR")]).toEqual([2, true]);
    expect((await lowrank(["quickstart", "--seed", "x"])).code).toBe(2);
  }, 60_000);
});
