/** Kinds of golden/peft about configurations alone: `targets`, and `api_text`, what is counted and printed. */
import { isDeepStrictEqual } from "node:util";
import { LowrankError } from "../../../src/errors.js";
import type { JsonObject } from "../../../src/io/json.js";
import { LoraConfig } from "../../../src/peft/config.js";
import { countAdded, countBase, countParameters, parametersText } from "../../../src/peft/count.js";
import { shapeOf } from "../../../src/peft/model-shape.js";
import { planAdapter } from "../../../src/peft/plan.js";
import { DEFAULT_TARGETS, type ModelModules, type ModuleInfo, resolveTargets, selectTargets } from "../../../src/peft/targets.js";
import { Errors } from "../errors.js";
import type { GoldenCase, GoldenHandler, GoldenOutcome } from "../types.js";
import { load } from "./peft-model.js";

interface TargetEntry {
  model: string;
  config: JsonObject;
  matchedByName?: string[];
  excludedByName?: string[];
  injected?: string[];
  injectError?: string;
  matchError?: string;
  configError?: string;
  resolvedTargetModules?: string[] | string;
}

const targets: GoldenHandler = async ({ spec }: GoldenCase): Promise<GoldenOutcome> => {
  const problems: string[] = [];
  for (const [type, expected] of Object.entries(spec.defaultTargets)) {
    if (!isDeepStrictEqual(DEFAULT_TARGETS[type], expected)) problems.push(`default targets of ${type}`);
  }
  for (const [i, entry] of (spec.entries as TargetEntry[]).entries()) {
    const { modelType, names, kinds, outputEmbedding } = spec.models[entry.model];
    const modules: ModuleInfo[] = names.map((name: string) => ({ name, kind: kinds[name] ?? "other" }));
    const problem = checkEntry({ modules, modelType, outputEmbedding }, entry);
    if (problem !== undefined) problems.push(`entry ${i} ${JSON.stringify(entry.config)}: ${problem}`);
  }
  return problems.length === 0 ? { ok: true, maxError: 0 } : { ok: false, reason: problems.join("; ").slice(0, 2000) };
};

function checkEntry(model: ModelModules, entry: TargetEntry): string | undefined {
  const failed = entry.configError ?? entry.matchError ?? (entry.matchedByName?.length ? undefined : entry.injectError);
  try {
    const config = LoraConfig.fromJSON({ peft_type: "LORA", ...entry.config });
    const selection = selectTargets(model, config);
    if (failed !== undefined && selection.targeted.length > 0) return `accepted, expected ${failed}`;
    if (entry.matchedByName && !isDeepStrictEqual(selection.targeted, entry.matchedByName))
      return `targets ${selection.targeted}`;
    if (entry.excludedByName && !isDeepStrictEqual(selection.excluded, entry.excludedByName))
      return `excludes ${selection.excluded}`;
    const matchesAll = Object.values(selection.unmatched).every((entries) => entries.length === 0);
    if (entry.injected) {
      if (!isDeepStrictEqual(selection.targeted, entry.injected)) return `targets ${selection.targeted}`;
      // The saved list is a set, in any order.
      const sorted = (value: string[] | string | undefined) => (Array.isArray(value) ? [...value].sort() : value);
      if (!isDeepStrictEqual(sorted(selection.targetModules), sorted(entry.resolvedTargetModules)))
        return `saves ${selection.targetModules}`;
    }
    // Where PEFT is silent about an entry that matches nothing, the strict form refuses.
    const refused = outcomeOf(() => resolveTargets(model, config)) !== undefined;
    if (refused !== (entry.injectError !== undefined || !matchesAll))
      return refused ? "refused" : `accepted, expected ${entry.injectError}`;
    return undefined;
  } catch (error) {
    if (!(error instanceof LowrankError) || failed === undefined) return `refused: ${(error as Error).message}`;
    return undefined;
  }
}

function outcomeOf(body: () => unknown): LowrankError | undefined {
  try {
    body();
    return undefined;
  } catch (error) {
    if (error instanceof LowrankError) return error;
    throw error;
  }
}

/** Module names and classes of a Llama-shaped model, from its config.json. */
export function llamaModules(config: { model_type: string; num_hidden_layers: number }): ModelModules {
  const linears = (parent: string, names: string) =>
    names.split(" ").map((name) => ({ name: `${parent}.${name}_proj`, kind: "Linear" }));
  const other = (name: string, kind: string) => ({ name, kind });
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i) => `model.layers.${i}`).flatMap((layer) => [
    other(layer, "DecoderLayer"),
    other(`${layer}.self_attn`, "Attention"),
    ...linears(`${layer}.self_attn`, "q k v o"),
    other(`${layer}.mlp`, "MLP"),
    ...linears(`${layer}.mlp`, "gate up down"),
    other(`${layer}.input_layernorm`, "RMSNorm"),
    other(`${layer}.post_attention_layernorm`, "RMSNorm"),
  ]);
  const head = [other("model.norm", "RMSNorm"), other("lm_head", "Linear")];
  const modules = [
    other("model", "Model"),
    other("model.embed_tokens", "Embedding"),
    other("model.layers", "ModuleList"),
    ...layers,
    ...head,
  ];
  return { modules, modelType: config.model_type, outputEmbedding: "lm_head" };
}

const apiText: GoldenHandler = async (c) => {
  const errors = new Errors();
  for (const { base, quantised, config, name, trainable, all, text } of c.spec.entries) {
    const fourBit = quantised ? { loadIn4bit: true, bnb4bitUseDoubleQuant: quantised === "nf4-dq" } : {};
    await using model = await load(c, base, fourBit);
    const plan = planAdapter(shapeOf(model), LoraConfig.fromJSON({ peft_type: "LORA", ...config }));
    const [count, sum] = [countParameters(plan), countBase(model) + countAdded(plan)];
    errors.same(`${name} on ${quantised ?? "float32"}`, [count, sum], [trainable, all]);
    errors.same(`${name} on ${quantised ?? "float32"}: text`, parametersText(count, sum), text);
  }
  return errors.outcome();
};

export const peftConfigHandlers: Record<string, GoldenHandler> = { targets, api_text: apiText };
