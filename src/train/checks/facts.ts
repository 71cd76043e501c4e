import { existsSync } from "node:fs";
import { join } from "node:path";
import type { GenerationConfig } from "../../generate/options.js";
import type { DecoderConfig } from "../../models/config.js";
import { readConfigFile } from "../../models/config-reader.js";
import { readGeneration } from "../../models/from-pretrained.js";
import { resolveConfig, supportedModelTypes } from "../../models/registry.js";
import type { OnNote } from "../../notes.js";
import type { Tokenizer } from "../../text/tokenizer.js";

/** What the checks need to know of a model and its tokenizer. */
export interface ModelFacts {
  /** Rows of the embedding. */
  vocabSize: number;
  maxPositions: number;
  bosId: number | undefined;
  /** Tokens at which generation stops. */
  endIds: ReadonlySet<number>;
}

export function factsOf(config: DecoderConfig, generation: GenerationConfig, tokenizer: Tokenizer | undefined): ModelFacts {
  const eos = tokenizer?.eosId;
  return {
    vocabSize: config.vocabSize,
    maxPositions: config.maxPositions,
    bosId: tokenizer ? tokenizer.bosId : config.bosTokenId,
    endIds: new Set([...generation.eosTokenIds, ...(eos === undefined ? [] : [eos])]),
  };
}

/**
 * The same from a model's folder, without its weights, and its config.json. A model that cannot be run is judged as far as its tokenizer goes.
 * @param onNote told which keys of config.json and generation_config.json have no effect
 */
export async function readFacts(
  folder: string,
  tokenizer: Tokenizer,
  onNote: OnNote,
): Promise<{ facts: ModelFacts; json: Readonly<Record<string, unknown>> | undefined }> {
  const json = existsSync(join(folder, "config.json")) ? await readConfigFile(folder) : undefined;
  if (json === undefined || !supportedModelTypes().includes(String(json.model_type))) {
    const eos = tokenizer.eosId;
    const endIds = new Set(eos === undefined ? [] : [eos]);
    const unknown = Number.POSITIVE_INFINITY;
    return { facts: { vocabSize: unknown, maxPositions: unknown, bosId: tokenizer.bosId, endIds }, json: undefined };
  }
  const resolved = resolveConfig(json);
  const generation = await readGeneration(folder, resolved, onNote);
  return { facts: factsOf(resolved.config, generation, tokenizer), json };
}
