import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";
import type { TrainingArguments } from "../../src/train/arguments.js";
import { Trainer } from "../../src/train/trainer.js";
import { errorOf, tempFolder } from "../io/files.js";
import { leavesNothing } from "../tensor/live.js";
import { ARGS, collect, countingExamples, loadTiny, losses, tinyPeft } from "./tiny.js";

const dataset = countingExamples(6);
const args: TrainingArguments = { ...ARGS, maxSteps: 4, saveSteps: 2, evalStrategy: "steps", evalSteps: 2 };
const { kernels } = getDevice();
const { embedding } = kernels;
afterEach(() => {
  kernels.embedding = embedding;
});

/** Warnings, start, step 1, step 2, eval, checkpoint, step 3, step 4, eval, checkpoint, done. */
async function countEvents(full: boolean): Promise<number> {
  await using model = full ? await loadTiny() : await tinyPeft();
  const outputDir = join(tempFolder(), "run");
  return (await collect({ model, dataset, evalDataset: dataset.slice(0, 2), args: { ...args, outputDir } })).length;
}

describe("a run that is left frees everything", () => {
  it.each(["break", "throw", "abort", "return"] as const)(
    "by %s, at any event, with an adapter and with all parameters",
    async (how) => {
      for (const full of [false, true]) {
        const count = await countEvents(full);
        expect(count).toBeGreaterThanOrEqual(10);
        for (let n = 0; n < count; n++) {
          await leavesNothing(async () => {
            await using model = full ? await loadTiny() : await tinyPeft();
            const outputDir = join(tempFolder(), "run");
            const controller = new AbortController();
            let seen = 0;
            const events = new Trainer({ model, dataset, evalDataset: dataset.slice(0, 2), args: { ...args, outputDir } }).run({
              signal: controller.signal,
            });
            const loop = async () => {
              for await (const _ of events) {
                if (seen++ !== n) continue;
                if (how === "break") break;
                if (how === "throw") throw new Error("enough");
                if (how === "abort") controller.abort(new Error("enough"));
                if (how === "return") await events.return();
              }
            };
            const ended = await loop().then(
              () => "ended",
              (error: Error) => error.message,
            );
            // An abort at the last event comes too late.
            expect(ended).toBe(how === "throw" || (how === "abort" && n < count - 1) ? "enough" : "ended");
            expect(seen).toBeGreaterThan(n);
          });
        }
      }
    },
  );

  it("also when it cannot begin", async () => {
    await using peft = await tinyPeft();
    peft.trainable.setTrainable(false);
    await leavesNothing(async () => {
      const bad = { ...args, lrSchedulerType: "cosine_with_min_lr" } as const;
      await errorOf(collect({ model: peft, dataset, args: bad }));
      await errorOf(collect({ model: peft, dataset, args: { ...args, outputDir: join(import.meta.filename, "run") } }));
    });
  });
});

/** The `call`-th embedding of the run looks up an id that the table does not have: an error that only the device sees. */
function breakEmbedding(call: number): void {
  let calls = 0;
  kernels.embedding = (d, y, table, ids, scale) => {
    if (++calls !== call) return embedding(d, y, table, ids, scale);
    const rows = 4096;
    using wrong = Tensor.from(new Int32Array(rows).fill(1_000_000), [rows]);
    using out = Tensor.empty([rows, 64]);
    embedding(d, out.handle, table, wrong.handle, scale);
    embedding(d, y, table, ids, scale);
  };
}

describe("an op that fails on the device", () => {
  it("ends the run with a typed error, frees everything, and the run resumes from its last checkpoint", async () => {
    const folder = tempFolder();
    const run = async (outputDir: string, more: TrainingArguments = {}) => {
      await using peft = await tinyPeft({ loraDropout: 0.1 });
      return losses(
        await collect({ model: peft, dataset, args: { ...args, ...more, outputDir, evalStrategy: "no", maxSteps: 6 } }),
      );
    };
    const weights = (name: string) => readFileSync(join(folder, name, "adapter_model.safetensors"));
    const whole = await run(join(folder, "whole"));
    for (const call of [3, 4]) {
      const name = `broken-${call}`;
      breakEmbedding(call);
      await leavesNothing(async () => {
        const error = await errorOf(run(join(folder, name)));
        expect(error).toMatchObject({ name: "LowrankError", details: { op: expect.stringMatching(/embedding/) } });
      });
      kernels.embedding = embedding;
      expect(await run(join(folder, name), { resumeFromCheckpoint: true })).toEqual(whole.slice(2));
      expect(Buffer.compare(weights(name), weights("whole"))).toBe(0);
    }
  });
});
