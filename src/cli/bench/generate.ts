import { loadModel } from "../model.js";
import { rounded } from "./statistics.js";

export interface GenerateBenchOptions {
  model: string;
  prompt: number;
  new: number;
  loadIn4bit?: true;
}

/** Times the prompt and the decoding of one sequence, greedy, after a short warm-up. */
export async function benchGenerate(options: GenerateBenchOptions): Promise<Record<string, unknown>> {
  const model = await loadModel(options.model, { loadIn4bit: options.loadIn4bit === true });
  try {
    const ids = Array.from({ length: options.prompt }, (_, i) => (i * 7919) % model.vocabSize);
    await model.generateIds([ids.slice(0, 16)], { maxNewTokens: 4, doSample: false, eosTokenId: null });
    const begun = performance.now();
    let first = 0;
    let tokens = 0;
    for await (const _token of model.stream(ids, { maxNewTokens: options.new, doSample: false, eosTokenId: null })) {
      if (tokens === 0) first = performance.now();
      tokens++;
    }
    const firstSeconds = (first - begun) / 1000;
    const decodeSeconds = (performance.now() - first) / 1000;
    const { isa, threads } = model.device.info;
    return {
      kind: "generate",
      prompt_tok_s: rounded(options.prompt / firstSeconds),
      decode_tok_s: rounded((tokens - 1) / decodeSeconds),
      first_token_s: rounded(firstSeconds),
      threads,
      isa,
    };
  } finally {
    model.dispose();
  }
}
