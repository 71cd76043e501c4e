/** Training on the emulated device: the CPU's loss curve, and a device that is lost in the middle. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { getPeftModel } from "../../src/peft/peft-model.js";
import { Trainer } from "../../src/train/trainer.js";
import { cuda } from "../cuda-device.js";
import { relativeError } from "../reference/numeric.js";

const BASE = join(import.meta.dirname, "../golden/cases/train/bases/llama");
const folder = mkdtempSync(join(tmpdir(), "lowrank-emu-train-"));
afterAll(() => rmSync(folder, { recursive: true }));

const dataset = Array.from({ length: 6 }, (_, row) => {
  const inputIds = Int32Array.from({ length: 3 + row }, (_, i) => 10 + ((row * 29 + i * 3) % 300));
  return { inputIds, labels: inputIds };
});

/** Of a test on a busy machine. */
const TIME = 300_000;

/** Losses of QLoRA steps: NF4 base with double quantisation, dropout, accumulation, checkpointed layers. */
async function losses(device: string, dtype: "float32" | "bfloat16"): Promise<number[]> {
  const model = await AutoModelForCausalLM.fromPretrained(BASE, { device, dtype, loadIn4bit: true });
  const peft = getPeftModel(model, { r: 4, loraAlpha: 8, loraDropout: 0.1, targetModules: "all-linear" });
  const args = {
    outputDir: join(folder, `${device}-${dtype}`),
    maxSteps: 2,
    seed: 3,
    learningRate: 2e-2,
    perDeviceTrainBatchSize: 1,
    gradientAccumulationSteps: 2,
    gradientCheckpointing: true,
    saveStrategy: "no" as const,
    loggingSteps: 1,
  };
  const seen: number[] = [];
  for await (const event of new Trainer({ model: peft, dataset, args }).run()) if (event.type === "step") seen.push(event.loss);
  peft.dispose();
  return seen;
}

describe(`QLoRA on ${cuda}`, () => {
  // bfloat16: the CPU may multiply in float32 what it rounded, but a gradient between two values rounds to either.
  it.each([
    ["float32", 1e-4],
    ["bfloat16", 1e-2],
  ] as const)(
    "has the CPU's loss curve in %s",
    async (dtype, tolerance) => {
      const [emu, cpu] = [await losses(cuda, dtype), await losses("cpu", dtype)];
      expect(emu).toHaveLength(2);
      expect(emu.every((loss, i) => i === 0 || loss !== emu[i - 1])).toBe(true);
      expect(relativeError(emu, cpu)).toBeLessThan(tolerance);
    },
    TIME,
  );
});

// Only the emulated one fails where a test asks.
describe.skipIf(cuda !== "emu")("a device that is lost while training", () => {
  const child = (out: string, fail: string) =>
    spawnSync(process.execPath, [join(import.meta.dirname, "../faults/train-child.mjs"), join(folder, out), "2", "emu"], {
      encoding: "utf8",
      env: { ...process.env, LOWRANK_EMU_FAIL: fail },
    });
  const saved = (stdout: string) => [...stdout.matchAll(/"saved":(\d+)/g)].map(([, step]) => Number(step));

  it(
    "ends in a typed error; the last checkpoint is whole, and the run goes on from it",
    () => {
      const whole = child("whole", "");
      expect(whole.stderr).toBe("");
      const lost = child("lost", "750:700:sticky");
      expect({ signal: lost.signal, status: lost.status }).toEqual({ signal: null, status: 1 });
      expect(lost.stderr).toContain("DEVICE_LOST");
      const steps = saved(lost.stdout);
      expect(steps).toEqual([1]);
      expect(existsSync(join(folder, "lost", "checkpoint-1"))).toBe(true);
      const resumed = child("lost", "");
      expect(resumed.stdout).toContain('{"start":1}');
      expect(resumed.stdout).toContain('{"done":true}');
      const adapter = (name: string) => readFileSync(join(folder, name, "adapter_model.safetensors"));
      expect(adapter("lost").equals(adapter("whole"))).toBe(true);
      expect(readdirSync(join(folder, "lost")).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    },
    TIME,
  );
});
