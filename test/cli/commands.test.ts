import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { scope } from "../../src/tensor/scope.js";
import { tempFolder } from "../io/files.js";
import { buildOnce, jsonLines, lowrank, makeJob } from "./run.js";

beforeAll(buildOnce, 120_000);

describe("lowrank train", () => {
  it("prints the events of the run, and generate, chat and merge use what it saved", async () => {
    const { model, config, out } = await makeJob(tempFolder());
    const train = await lowrank(["train", config, "--json"]);
    expect(train.code).toBe(0);
    const events = jsonLines(train.stdout);
    expect(events.map(({ type }) => type)).toEqual(["start", "step", "step", "step", "step", "checkpoint", "done"]);
    expect(events[1]).toHaveProperty("targetTokens");
    expect(train.stderr).toMatch(/accepted without effect: preprocessing_num_workers/);
    expect(train.stderr).toMatch(/step 4\/4|done: 4 steps/);
    for (const name of [
      "adapter_model.safetensors",
      "adapter_config.json",
      "README.md",
      "trainer_state.json",
      "all_results.json",
      "tokenizer.json",
    ])
      expect(readdirSync(out)).toContain(name);

    const generate = await lowrank([
      "generate",
      "--adapter",
      out,
      "--prompt",
      "Count to 3",
      "--max-new-tokens",
      "6",
      "--temperature",
      "0",
      "--json",
    ]);
    expect(generate).toMatchObject({ code: 0 });
    const tokens = jsonLines(generate.stdout);
    const done = tokens.pop()!;
    expect(tokens.map(({ text }) => text).join("")).toBe(done.text);
    expect(tokens.length).toBe(done.tokens);
    const plain = await lowrank([
      "generate",
      "--adapter",
      out,
      "--prompt",
      "Count to 3",
      "--max-new-tokens",
      "6",
      "--temperature",
      "0",
    ]);
    expect(plain.stdout).toBe(`${done.text}\n`);

    const merged = join(out, "../merged");
    expect(await lowrank(["merge", "--model", model, "--adapter", out, "--out", merged, "--dtype", "float32"])).toMatchObject({
      code: 0,
    });
    await using peft = await PeftModel.fromPretrained(await load(model), out);
    await using whole = await load(merged);
    const [expected, actual] = [await logits(peft.base), await logits(whole)];
    const size = Math.max(...expected.map(Math.abs));
    expect(Math.max(...actual.map((value, i) => Math.abs(value - expected[i]!)))).toBeLessThan(1e-5 * size);
    await using base = await load(model);
    const before = await logits(base);
    expect(Math.max(...before.map((value, i) => Math.abs(value - expected[i]!)))).toBeGreaterThan(1e-2 * size);
  });

  it("saves a checkpoint at Ctrl-C, says how to resume, and resumes to the same bytes", async () => {
    const [whole, parts] = [
      await makeJob(tempFolder(), "seed: 1\nlora_dropout: 0.1\n"),
      await makeJob(tempFolder(), "seed: 1\nlora_dropout: 0.1\n"),
    ];
    const steps = "max_steps=40";
    expect(await lowrank(["train", whole.config, steps, "save_strategy=no"])).toMatchObject({ code: 0 });
    const stopped = await lowrank(["train", parts.config, steps, "--json"], {
      signalWhen: { pattern: /"type":"step"/, signal: "SIGINT" },
    });
    expect(stopped.code).toBe(130);
    const last = jsonLines(stopped.stdout).at(-1)!;
    expect(last.type).toBe("checkpoint");
    expect(last.step).toBeLessThan(40);
    expect(stopped.stderr).toContain(`lowrank train ${parts.config} --resume`);
    expect(existsSync(join(parts.out, "adapter_model.safetensors"))).toBe(false);
    const resumed = await lowrank(["train", parts.config, steps, "--resume", "--json"]);
    expect(resumed.code).toBe(0);
    expect(jsonLines(resumed.stdout).find(({ type }) => type === "start")).toMatchObject({ step: last.step });
    const weights = ({ out }: { out: string }) => readFileSync(join(out, "adapter_model.safetensors"));
    expect(Buffer.compare(weights(parts), weights(whole))).toBe(0);
  });

  it("--dry-run shows counts, an example, memory and parameters, and writes nothing", async () => {
    const { config, out } = await makeJob(tempFolder());
    const { code, stdout } = await lowrank(["train", config, "--dry-run"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/10 rows, 10 examples/);
    expect(stdout).toMatch(/⟦a<end>⟧/);
    expect(stdout).toMatch(/trainable params: 9,728 \|\| all params: 149,312/);
    expect(stdout).toMatch(/about [\d.]+ MiB of memory/);
    expect(existsSync(out)).toBe(false);
  });
});

describe("other commands", () => {
  it("chat answers each line where stdin is no terminal", async () => {
    const { model } = await makeJob(tempFolder());
    const flags = ["--max-new-tokens", "3", "--temperature", "0", "--json"];
    const { code, stdout } = await lowrank(["chat", "--model", model, ...flags], { stdin: "hello\n\nhello\n" });
    expect(code).toBe(0);
    const answers = jsonLines(stdout).filter(({ type }) => type === "done");
    expect(answers).toHaveLength(2);
    expect(answers[0]!.text).toBe(answers[1]!.text);
  });

  it("data preview marks what is learnt; estimate needs no weights", async () => {
    const { model, config } = await makeJob(tempFolder());
    const preview = await lowrank(["data", "preview", config, "--row", "2"]);
    expect(preview.stdout).toContain("Count to 1<end><s>assistant: ⟦ab<end>⟧");
    const json = jsonLines((await lowrank(["estimate", config, "--json"])).stdout)[0]!;
    expect(json).toMatchObject({ trainableParameters: 9_728, allParameters: 149_312, tokens: 128, hostBytes: 0 });
    // Values, gradients and two moments, each parameter rounded up to 256; the header and the table of parameters.
    expect(json.optimizerBytes).toBeGreaterThanOrEqual(9_728 * 16);
    expect(json.optimizerBytes).toBeLessThan(9_728 * 16 * 1.2);
    expect(readdirSync(model)).toContain("model.safetensors");
  });

  it("doctor says what keeps cuda:0 from being used", async () => {
    const env = { LOWRANK_CUDA_PLUGIN: "/none.so" };
    const [doctor] = jsonLines((await lowrank(["doctor", "--json"], { env })).stdout);
    const message = "Device 'cuda:0' needs the CUDA plugin, which this installation does not have.";
    expect(doctor).toMatchObject({
      problems: [],
      cuda: { usable: false, message, remedy: expect.stringContaining("device cpu") },
    });
    expect((await lowrank(["doctor"], { env })).stdout).toContain(`CUDA      ${message}\n          → Compute on device cpu`);
  });

  it("doctor and bench print JSON", async () => {
    const { model } = await makeJob(tempFolder());
    const [doctor] = jsonLines((await lowrank(["doctor", "--json"])).stdout);
    expect(doctor).toMatchObject({
      problems: [],
      kernels: { threads: expect.any(Number) },
      lowrank: expect.stringMatching(/^\d/),
    });
    expect(doctor).toHaveProperty("cache");
    const step = jsonLines(
      (await lowrank(["bench", "step", "--model", model, "--seq", "32", "--rank", "4", "--steps", "1", "--json"])).stdout,
    ).at(-1)!;
    const keys =
      "kind quant dtype isa threads seq batch rank seconds tokens_per_s p10 p90 peak_rss_mib loss share_of_peak by_op".split(" ");
    expect(Object.keys(step)).toEqual(expect.arrayContaining(keys));
    expect(step).toMatchObject({ kind: "step", quant: "none", seq: 32, batch: 1, rank: 4 });
    const generate = jsonLines((await lowrank(["bench", "generate", "--model", model, "--prompt", "8", "--new", "4"])).stdout).at(
      -1,
    )!;
    const measured = "cold_first_token_s decode_cpu_ms decode_tok_s first_token_s isa kind prompt_tok_s threads".split(" ");
    expect(Object.keys(generate).sort()).toEqual(measured);
    for (const key of measured.filter((name) => /_(s|ms)$/.test(name))) expect(generate[key], key).toBeGreaterThan(0);
  });
});

const load = (folder: string) => AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32" });

async function logits(model: CausalLM): Promise<Float32Array> {
  using result = scope(() => model.logits(model.hiddenStates(packSequences([[10, 20, 30, 40]], model.device))));
  return result.readFloat32();
}
