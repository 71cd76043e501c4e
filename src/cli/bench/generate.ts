import { spawn } from "node:child_process";
import { join } from "node:path";
import { LowrankError } from "../../errors.js";
import type { CausalLM } from "../../models/causal-lm.js";
import { loadModel } from "../model.js";
import { quantiles, rounded } from "./statistics.js";

export interface GenerateBenchOptions {
  model: string;
  prompt: number;
  new: number;
  loadIn4bit?: true;
}

const ROUNDS = 3;

/**
 * Times the prompt and the decoding of one sequence, greedy: medians of three rounds after a first that is not counted, since it reads the
 * tokenizer and grows the pool. Then the first token of a process that starts.
 */
export async function benchGenerate(options: GenerateBenchOptions): Promise<Record<string, unknown>> {
  const model = await loadModel(options.model, { loadIn4bit: options.loadIn4bit === true });
  try {
    await answer(model, options);
    const rounds: Round[] = [];
    while (rounds.length < ROUNDS) rounds.push(await answer(model, options));
    const median = (name: keyof Round) => quantiles(rounds.map((round) => round[name])).median;
    const { isa, threads } = model.device.info;
    const hasTokenizer = (await model.tokenizer()) !== undefined;
    return {
      kind: "generate",
      prompt_tok_s: rounded(options.prompt / median("first")),
      decode_tok_s: rounded(1 / median("next")),
      decode_cpu_ms: rounded(median("cpu") * 1000),
      first_token_s: rounded(median("first")),
      ...(hasTokenizer && { cold_first_token_s: rounded(await coldFirstToken(options)) }),
      threads,
      isa,
    };
  } finally {
    model.dispose();
  }
}

/** Seconds: of the first token, of each further one, and of the processor for each of these. */
interface Round {
  first: number;
  next: number;
  cpu: number;
}

async function answer(model: CausalLM, { prompt, new: wanted }: GenerateBenchOptions): Promise<Round> {
  const ids = Array.from({ length: prompt }, (_, i) => (i * 7919) % model.vocabSize);
  const begun = performance.now();
  let first = 0;
  let tokens = 0;
  let cpu = process.cpuUsage();
  for await (const _token of model.stream(ids, { maxNewTokens: wanted, doSample: false, eosTokenId: null })) {
    if (tokens++ > 0) continue;
    first = performance.now();
    cpu = process.cpuUsage();
  }
  const { user, system } = process.cpuUsage(cpu);
  return {
    first: (first - begun) / 1000,
    next: (performance.now() - first) / 1000 / (tokens - 1),
    cpu: (user + system) / 1e6 / (tokens - 1),
  };
}

/** Seconds from the start of a process of its own to the first token it prints, its files in the system's cache: the best of three. */
async function coldFirstToken({ model, loadIn4bit }: GenerateBenchOptions): Promise<number> {
  const cli = join(import.meta.dirname, "../main.js");
  const args = ["generate", "--model", model, "--prompt", "Hello", "--max-new-tokens", "1", "--json"];
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < 3; run++) {
    const begun = performance.now();
    const child = spawn(process.execPath, [cli, ...args, ...(loadIn4bit ? ["--load-in-4bit"] : [])], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    const printed = await new Promise<boolean>((resolve) => {
      child.stdout.once("data", () => resolve(true));
      child.once("close", () => resolve(false));
    });
    if (!printed)
      throw new LowrankError("INVALID_ARGUMENT", `lowrank ${args.join(" ")} printed no token`, { hint: "Run it to see why." });
    best = Math.min(best, (performance.now() - begun) / 1000);
    child.stdout.resume();
    if (child.exitCode === null) await new Promise((resolve) => child.once("close", resolve));
  }
  return best;
}
