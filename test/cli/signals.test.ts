import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { interruptible } from "../../src/cli/interrupt.js";
import { tempFolder } from "../io/files.js";
import { outcome } from "../train/matrix.js";
import { buildOnce, jsonLines, lowrank, makeModel } from "./run.js";

beforeAll(buildOnce, 600_000);

/** A run on the embedded model: accumulation, dropout, evaluation and checkpoints of its own. */
function makeJob(more: Record<string, unknown> = {}, rows = 24): { config: string; out: string } {
  const folder = tempFolder();
  const out = join(folder, "out");
  const data = Array.from({ length: rows }, (_, i) => ({
    instruction: `Count to ${i % 24}`,
    input: "",
    output: "abcdefghijklmnopqrstuvwxyz".slice(0, 1 + (i % 24)),
  }));
  writeFileSync(join(folder, "rows.json"), JSON.stringify(data));
  const config = join(folder, "job.yaml");
  const keys = {
    model_name_or_path: "lowrank/tiny",
    stage: "sft",
    do_train: true,
    finetuning_type: "lora",
    lora_rank: 4,
    lora_dropout: 0.1,
    lora_target: "all",
    dataset: join(folder, "rows.json"),
    cutoff_len: 64,
    output_dir: out,
    logging_steps: 1,
    per_device_train_batch_size: 2,
    gradient_accumulation_steps: 2,
    learning_rate: 1e-3,
    max_steps: 14,
    save_steps: 4,
    val_size: 0.2,
    eval_strategy: "steps",
    eval_steps: 3,
    ...more,
  };
  writeFileSync(
    config,
    Object.entries(keys)
      .map(([key, value]) => `${key}: ${JSON.stringify(value)}\n`)
      .join(""),
  );
  return { config, out };
}

/** All a finished run leaves but the paths, which differ from job to job. */
const leftBy = ({ out }: { out: string }) => outcome(out);

describe("lowrank train", () => {
  it("saves first at SIGTERM, Ctrl-C and SIGHUP, in a step, in an evaluation and in a save, and resumes to the same", async () => {
    const whole = makeJob();
    expect(await lowrank(["train", whole.config])).toMatchObject({ code: 0 });
    const parts = makeJob();
    const stops: [RegExp, NodeJS.Signals][] = [
      [/"type":"step","step":2,/, "SIGTERM"],
      [/"type":"eval","step":3,/, "SIGHUP"],
      [/"type":"step","step":6,/, "SIGINT"], // its evaluation comes now
      [/"type":"step","step":8,/, "SIGTERM"], // its save comes now
      [/"type":"checkpoint","step":12,/, "SIGINT"],
    ];
    let reached = 0;
    for (const [pattern, signal] of stops) {
      const resume = reached > 0 ? ["--resume"] : [];
      const stopped = await lowrank(["train", parts.config, "--json", ...resume], { signalWhen: { pattern, signal } });
      const events = jsonLines(stopped.stdout);
      if (events.at(-1)?.type === "done") break; // it was too fast for the signal
      expect(stopped.stderr).toContain("a checkpoint is saved");
      expect(stopped.stderr).toContain(`lowrank train ${parts.config} --resume`);
      expect(stopped.code).toBe(130);
      expect(events.at(-1)).toMatchObject({ type: "checkpoint" });
      expect(events.at(-1)!.step).toBeGreaterThan(reached);
      reached = events.at(-1)!.step as number;
      expect(existsSync(join(parts.out, ".lowrank.lock"))).toBe(false);
    }
    expect(reached).toBeGreaterThan(0);
    expect(await lowrank(["train", parts.config, "--resume"])).toMatchObject({ code: 0 });
    expect(leftBy(parts)).toEqual(leftBy(whole));
  });

  it("ends with 130 and leaves nothing when it is stopped while it tokenises or loads", async () => {
    const { config, out } = makeJob({}, 20_000);
    for (const [pattern, signal] of [
      [/./, "SIGINT"],
      [/Loading/, "SIGTERM"],
    ] as const) {
      const stopped = await lowrank(["train", config, "max_steps=1000000"], { signalWhen: { pattern, signal } });
      expect(stopped.code, stopped.stderr).toBe(130);
      expect(existsSync(out) ? readdirSync(out).filter((name) => !name.startsWith("checkpoint-")) : []).not.toContain(
        "adapter_config.json",
      );
    }
  });

  it("ends at once at a second Ctrl-C, but not at one that follows within an instant, nor at a second SIGTERM", async () => {
    // One step must outlast the second signal: Node no longer listens in the last 30 ms of a process.
    const long = {
      max_steps: 1_000_000,
      eval_strategy: "no",
      val_size: 0,
      per_device_train_batch_size: 1600,
      gradient_accumulation_steps: 1,
      disable_shuffling: true,
    };
    const pattern = /"type":"start"/;
    const twice = makeJob(long, 2400);
    const ended = await lowrank(["train", twice.config, "--json"], {
      signalWhen: { pattern, signal: "SIGINT", again: { after: 500, signal: "SIGINT" } },
    });
    expect(ended.code).toBe(130);
    expect(jsonLines(ended.stdout).map(({ type }) => type)).not.toContain("checkpoint");

    for (const again of [
      { after: 20, signal: "SIGINT" as const },
      { after: 300, signal: "SIGTERM" as const },
    ]) {
      const { config } = makeJob(long, 2400);
      const env = { npm_config_user_agent: "npm" };
      const saved = await lowrank(["train", config, "--json"], { env, signalWhen: { pattern, signal: "SIGINT", again } });
      expect(saved.code).toBe(130);
      expect(jsonLines(saved.stdout).at(-1)).toMatchObject({ type: "checkpoint" });
    }
  });
});

describe("a second Ctrl-C that is seen in the same instant as the first", () => {
  const signals = async (agent: string | undefined) => {
    vi.stubEnv("npm_config_user_agent", agent);
    const exits: number[] = [];
    const exit = vi.spyOn(process, "exit").mockImplementation(((code: number) => exits.push(code)) as never);
    const said = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    const aborted = await interruptible("stopping", async (signal) => {
      const stop = process.listeners("SIGINT").at(-1)!;
      for (let i = 0; i < 3; i++) {
        stop("SIGINT");
        exits.push(0);
      }
      return signal.aborted;
    });
    for (const spy of [exit, said]) spy.mockRestore();
    vi.unstubAllEnvs();
    expect(aborted).toBe(true);
    return exits;
  };

  it("came while a step was enqueued, and ends the process; npm's repeat of the first does not", async () => {
    expect(await signals(undefined)).toEqual([0, 130, 0, 130, 0]);
    expect(await signals("npm/10 node/v20")).toEqual([0, 0, 130, 0]);
  });
});

describe("a base whose content changes under its path", () => {
  it("is named: a resume refuses it unless told, and so do chat and generate with the adapter", async () => {
    const model = await makeModel(join(tempFolder(), "model"));
    const { config, out } = makeJob({ model_name_or_path: model, max_steps: 2, save_steps: 1, eval_strategy: "no" });
    expect(await lowrank(["train", config])).toMatchObject({ code: 0 });
    const read = (name: string) => JSON.parse(readFileSync(join(out, "checkpoint-1", name), "utf8"));
    const hash = read("manifest.json").baseHash;
    expect(hash).toMatch(/^[0-9a-f]{64}$/);
    expect(read("lowrank_adapter.json").base_hash).toBe(hash);

    const weights = join(model, "model.safetensors");
    const bytes = readFileSync(weights);
    bytes[bytes.length - 4]! ^= 1;
    writeFileSync(weights, bytes);
    const again = ["train", config, "max_steps=3", "--resume", "--allow-change", "max_steps"];
    const refused = await lowrank(again);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain(`base: "${hash}" →`);
    expect(refused.stderr).toContain("--allow-change base");
    expect(await lowrank([...again, "--allow-change", "base"])).toMatchObject({ code: 0 });

    // The last checkpoint was trained on the changed base, the first one was not.
    const generate = ["generate", "--model", model, "--prompt", "Count", "--max-new-tokens", "2", "--adapter"];
    expect(await lowrank([...generate, out])).toMatchObject({ code: 0 });
    const other = await lowrank([...generate, join(out, "checkpoint-1")]);
    expect(other.code).toBe(1);
    expect(other.stderr).toMatch(/was trained on .*\n.*--ignore-mismatched-base/);
    expect(await lowrank([...generate, join(out, "checkpoint-1"), "--ignore-mismatched-base"])).toMatchObject({ code: 0 });
  });
});
