import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { TrainingArguments } from "../../src/train/arguments.js";
import { errorOf, tempFolder } from "../io/files.js";
import { ARGS, collect, countingExamples, losses, tinyPeft } from "./tiny.js";

const dataset = countingExamples(13);
const SGD: TrainingArguments = { ...ARGS, optim: "sgd", learningRate: 0.5, maxSteps: 6, saveStrategy: "no" };

const run = async (outputDir: string, args: TrainingArguments, stopAt?: number, allowChange: string[] = []) => {
  await using peft = await tinyPeft({ r: 4 });
  const controller = new AbortController();
  const events: Awaited<ReturnType<typeof collect>> = [];
  const reason = new Error("stop");
  await collect({ model: peft, dataset, args: { ...args, outputDir }, allowChange }, controller.signal, (event) => {
    events.push(event);
    if (event.type === "step" && event.step === stopAt) controller.abort(reason);
  }).catch((error) => {
    if (error !== reason) throw error;
  });
  return events;
};

describe("optim: sgd", () => {
  it("lowers the loss, and an interrupted run resumes bit-exactly", async () => {
    const folder = tempFolder();
    const events = await run(join(folder, "whole"), SGD);
    const curve = losses(events);
    expect(curve).toHaveLength(6);
    expect(curve.at(-1)!).toBeLessThan(curve[0]!);
    await run(join(folder, "parts"), SGD, 2);
    await run(join(folder, "parts"), { ...SGD, resumeFromCheckpoint: true });
    const weights = (name: string) => readFileSync(join(folder, name, "adapter_model.safetensors"));
    expect(Buffer.compare(weights("parts"), weights("whole"))).toBe(0);
  });

  it("neither continues a run of AdamW nor is continued by it, not even when the change is allowed", async () => {
    const folder = tempFolder();
    for (const [from, to] of [
      ["sgd", "adamw_torch"],
      ["adamw_torch", "sgd"],
    ] as const) {
      const outputDir = join(folder, from);
      await run(outputDir, { ...SGD, optim: from }, 2);
      const resumed = { ...SGD, optim: to, resumeFromCheckpoint: true } as const;
      expect((await errorOf(run(outputDir, resumed))).message).toMatch(/optim/);
      expect(await errorOf(run(outputDir, resumed, undefined, ["optim"]))).toMatchObject({
        code: "CHECKPOINT",
        message: expect.stringContaining("another optimizer made it"),
      });
    }
  });
});
