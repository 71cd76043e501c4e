import { spawn } from "node:child_process";
import { join } from "node:path";
import { LowrankError } from "../../errors.js";
import { loadModel } from "../model.js";
import { rounded } from "./statistics.js";

export interface GenerateBenchOptions {
  model: string;
  prompt: number;
  new: number;
  loadIn4bit?: true;
}

/** Times the prompt and the decoding of one sequence, greedy, after a short warm-up, and the first token of a process that starts. */
export async function benchGenerate(options: GenerateBenchOptions): Promise<Record<string, unknown>> {
  const model = await loadModel(options.model, { loadIn4bit: options.loadIn4bit === true });
  try {
    const ids = Array.from({ length: options.prompt }, (_, i) => (i * 7919) % model.vocabSize);
    await model.generateIds([ids.slice(0, 16)], { maxNewTokens: 4, doSample: false, eosTokenId: null });
    const begun = performance.now();
    let first = 0;
    let tokens = 0;
    let cpu = process.cpuUsage();
    for await (const _token of model.stream(ids, { maxNewTokens: options.new, doSample: false, eosTokenId: null })) {
      if (tokens === 0) {
        first = performance.now();
        cpu = process.cpuUsage();
      }
      tokens++;
    }
    const firstSeconds = (first - begun) / 1000;
    const decodeSeconds = (performance.now() - first) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    const { isa, threads } = model.device.info;
    const hasTokenizer = (await model.tokenizer()) !== undefined;
    return {
      kind: "generate",
      prompt_tok_s: rounded(options.prompt / firstSeconds),
      decode_tok_s: rounded((tokens - 1) / decodeSeconds),
      decode_cpu_ms: rounded((user + system) / 1000 / (tokens - 1)),
      first_token_s: rounded(firstSeconds),
      ...(hasTokenizer && { cold_first_token_s: rounded(await coldFirstToken(options)) }),
      threads,
      isa,
    };
  } finally {
    model.dispose();
  }
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
