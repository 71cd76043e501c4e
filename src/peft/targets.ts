import { LowrankError } from "../errors.js";
import { listed, type OnNote, shown } from "../notes.js";
import { didYouMean } from "../suggest.js";
import { compiled, type LoraConfig, layerPattern, matchesPattern, partPattern } from "./config.js";

/** A module of a model by its full name (without PEFT's base_model.model. prefix) and its class. */
export interface ModuleInfo {
  readonly name: string;
  /** "Linear", "Conv1D", "Embedding", or any other class name. */
  readonly kind: string;
}

export interface ModelModules {
  /** In model order, containers included. */
  readonly modules: readonly ModuleInfo[];
  readonly modelType: string;
  /** Name of the output head, which "all-linear" leaves out. */
  readonly outputEmbedding: string | null;
}

export interface TargetSelection {
  /** Names that the targets select, in model order, whatever their class. */
  readonly targeted: string[];
  /** Names that exclude_modules or modules_to_save takes out, in model order. */
  readonly excluded: string[];
  /** Modules that are trained and saved whole, in model order. */
  readonly modulesToSave: string[];
  /** target_modules as a saved configuration lists them: defaults filled in, "all-linear" spelt out, 20 or more names shortened. */
  readonly targetModules: string[] | string;
  /** Entries of the configuration that match no module. */
  readonly unmatched: Readonly<
    Record<
      "target_modules" | "exclude_modules" | "modules_to_save" | "rank_pattern" | "alpha_pattern" | "layers_to_transform",
      string[]
    >
  >;
}

/** PEFT's TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, for target_modules = null. */
export const DEFAULT_TARGETS: Readonly<Record<string, readonly string[] | string>> = {
  ...Object.fromEntries(
    "opt gptj gpt_neo llama llama4 mistral mixtral stablelm gemma gemma2 gemma3_text qwen2 qwen3"
      .split(" ")
      .map((type) => [type, ["q_proj", "v_proj"]]),
  ),
  ...Object.fromEntries("bert roberta xlm-roberta electra layoutlm".split(" ").map((type) => [type, ["query", "value"]])),
  ...Object.fromEntries(
    "bloom gpt_neox chatglm RefinedWebModel RefinedWeb falcon".split(" ").map((type) => [type, ["query_key_value"]]),
  ),
  t5: ["q", "v"],
  mt5: ["q", "v"],
  bart: ["q_proj", "v_proj"],
  gpt2: ["c_attn"],
  gpt_bigcode: ["c_attn"],
  "blip-2": ["q", "v", "q_proj", "v_proj"],
  "deberta-v2": ["query_proj", "value_proj"],
  deberta: ["in_proj"],
  mpt: ["Wqkv"],
  btlm: ["c_proj", "c_attn"],
  codegen: ["qkv_proj"],
  phi: ["q_proj", "v_proj", "fc1", "fc2"],
  gemma4: ".*language_model\\..*\\.(q_proj|v_proj)",
  nemotron_h: ["q_proj", "k_proj", "v_proj", "o_proj"],
  rwkv: ["key", "value", "receptance", "output"],
  rwkv7: ["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"],
};

const ADAPTABLE = new Set(["Linear", "Conv1D", "Embedding"]);
const SHORTEN_FROM = 20;

/** PEFT's EMBEDDING_LAYER_NAMES. */
const EMBEDDINGS = ["embed_tokens", "lm_head"];

/** Whether target_modules names an embedding, by PEFT's rule: bare names in a list, a text that matches a module of such a name. */
export function namesEmbedding({ modules }: ModelModules, { targetModules: targets }: LoraConfig): boolean {
  if (Array.isArray(targets)) return EMBEDDINGS.some((name) => targets.includes(name));
  if (targets === null || targets.toLowerCase() === "all-linear") return false;
  const embeddings = modules.filter(({ name }) => EMBEDDINGS.some((last) => name === last || name.endsWith(`.${last}`)));
  return embeddings.some(({ name }) => compiled(targets).fullMatch(name));
}

const isNamed = (name: string, entry: string) => name === entry || name.endsWith(`.${entry}`);

/**
 * Which modules a configuration selects, by the rules of PEFT (tuners_utils.check_target_module_exists): exclude_modules first, then
 * modules_to_save, then targets; text is a regular expression for the whole name, a list holds names and suffixes.
 * Throws INVALID_CONFIG when there is no target at all; `source` names the configuration then. What matches nothing is only reported here.
 */
export function selectTargets(model: ModelModules, config: LoraConfig, source = "the LoRA configuration"): TargetSelection {
  const names = model.modules.map(({ name }) => name);
  const targets = wantedTargets(model, config, source);
  const targeted: string[] = [];
  const excluded: string[] = [];
  for (const name of names) {
    if (isExcluded(name, config)) excluded.push(name);
    else if (isTarget(name, targets, config)) targeted.push(name);
  }
  const saves = config.modulesToSave ?? [];
  const unmatchedOf = (entries: readonly string[], matches: (entry: string, name: string) => boolean, among = names) =>
    entries.filter((entry) => !among.some((name) => matches(entry, name)));
  const excludes = config.excludeModules;
  const layers = config.layersToTransform === null ? [] : [config.layersToTransform].flat();
  return {
    targeted,
    excluded,
    modulesToSave: names.filter((name) => saves.some((entry) => name.endsWith(entry))),
    targetModules: typeof targets === "string" ? targets : shorten(targets, names),
    unmatched: {
      target_modules:
        typeof targets === "string"
          ? targeted.length > 0
            ? []
            : [targets]
          : unmatchedOf(targets, (entry, name) => isTarget(name, [entry], config)),
      exclude_modules:
        typeof excludes === "string"
          ? unmatchedOf([excludes], (entry, name) => compiled(entry).fullMatch(name))
          : unmatchedOf(excludes ?? [], (entry, name) => isNamed(name, entry)),
      modules_to_save: unmatchedOf(saves, (entry, name) => name.endsWith(entry)),
      rank_pattern: unmatchedOf(Object.keys(config.rankPattern), matchesPattern, targeted),
      alpha_pattern: unmatchedOf(Object.keys(config.alphaPattern), matchesPattern, targeted),
      layers_to_transform: layers.map(String).filter((layer) => !targeted.some((name) => layerOf(name, config) === layer)),
    },
  };
}

/**
 * selectTargets, where everything the configuration names must exist and be of a class LoRA is made for. Throws ADAPTER_MISMATCH that
 * lists all misses, with near ones; `onUnmatched` is told instead of entries that match nothing, as long as others match.
 */
export function resolveTargets(
  model: ModelModules,
  config: LoraConfig,
  source = "the LoRA configuration",
  onUnmatched?: OnNote,
): TargetSelection {
  const selection = selectTargets(model, config, source);
  const parts = new Set(model.modules.flatMap(({ name }) => [name, name.slice(name.lastIndexOf(".") + 1)]));
  const unmatched = Object.entries(selection.unmatched).flatMap(([key, entries]) => entries.map((entry) => ({ key, entry })));
  const only = onUnmatched !== undefined && selection.targeted.length > 0;
  const problems = only
    ? []
    : unmatched.map(({ key, entry }) => {
        const what = key.endsWith("_pattern") ? " that is targeted" : "";
        return `${key}: '${entry}' matches no module${what}${didYouMean(entry, parts)}`;
      });
  if (only && unmatched.length > 0) {
    const entries = unmatched.map(({ key, entry }) => `${key} ${shown(entry)}`);
    onUnmatched(
      `${source} has entries without effect here, which match no module (patterns: none that is targeted): ${listed(entries)}`,
    );
  }
  const kinds = new Map(model.modules.map(({ name, kind }) => [name, kind]));
  const unfit = selection.targeted.filter((name) => !ADAPTABLE.has(kinds.get(name) ?? ""));
  if (unfit.length > 0) {
    const shown = unfit.slice(0, 5).map((name) => `${name} (${kinds.get(name)})`);
    problems.push(
      `target_modules: LoRA is made for linear and embedding modules, not for ${shown.join(", ")}${unfit.length > 5 ? ` and ${unfit.length - 5} more` : ""}`,
    );
  }
  if (selection.targeted.length === 0 && problems.length === 0) {
    problems.push("no module is left: everything targeted is also in exclude_modules or modules_to_save");
  }
  if (problems.length > 0) {
    const linears = [
      ...new Set(model.modules.filter(({ kind }) => kind === "Linear").map(({ name }) => name.slice(name.lastIndexOf(".") + 1))),
    ];
    throw new LowrankError("ADAPTER_MISMATCH", `${source} does not fit the model:\n- ${problems.join("\n- ")}`, {
      hint: `Linear modules of this model: ${linears.slice(0, 20).join(", ")}; or target_modules: "all-linear".`,
      details: { problems },
    });
  }
  return selection;
}

function wantedTargets(model: ModelModules, config: LoraConfig, source: string): readonly string[] | string {
  const targets = config.targetModules ?? DEFAULT_TARGETS[model.modelType] ?? [];
  if (targets.length === 0) {
    const why = config.targetModules === null ? `there is no default for models of type '${model.modelType}'` : "it is empty";
    throw new LowrankError("INVALID_CONFIG", `${source}: target_modules must be given: ${why}`, {
      hint: 'Name modules such as ["q_proj", "v_proj"], or "all-linear".',
      details: { modelType: model.modelType },
    });
  }
  if (typeof targets !== "string" || targets.toLowerCase() !== "all-linear") return targets;
  return model.modules
    .filter(({ name, kind }) => (kind === "Linear" || kind === "Conv1D") && name !== model.outputEmbedding)
    .map(({ name }) => name);
}

function isExcluded(name: string, { excludeModules, modulesToSave }: LoraConfig): boolean {
  if (typeof excludeModules === "string" && excludeModules !== "") {
    if (compiled(excludeModules).fullMatch(name)) return true;
  } else if (Array.isArray(excludeModules) && excludeModules.some((entry) => isNamed(name, entry))) return true;
  return (modulesToSave ?? []).some((entry) => compiled(partPattern(entry)).match(name) !== null);
}

function isTarget(name: string, targets: readonly string[] | string, config: LoraConfig): boolean {
  if (typeof targets === "string") return compiled(targets).fullMatch(name);
  if (targets.includes(name)) return true; // an exact name is not bound to layers_to_transform
  if (!targets.some((entry) => name.endsWith(`.${entry}`))) return false;
  const { layersToTransform: layers } = config;
  if (layers === null || (Array.isArray(layers) && layers.length === 0)) return true;
  const layer = layerOf(name, config);
  return layer !== undefined && [layers].flat().includes(Number(layer));
}

/** Index of the layer a module lies in, as text without leading zeros. */
function layerOf(name: string, { layersPattern }: LoraConfig): string | undefined {
  const patterns = [layersPattern ?? []].flat().filter((pattern) => pattern !== "");
  const regexes = patterns.length === 0 ? [".*?\\.[^.]*\\.(\\d+)\\."] : patterns.map(layerPattern);
  for (const regex of regexes) {
    const found = compiled(regex).match(name);
    if (found) return String(Number(found[1]));
  }
  return undefined;
}

/** PEFT's _find_minimal_target_modules: shortest suffixes that select the same modules of this model and no other. */
function shorten(targets: readonly string[], names: readonly string[]): string[] {
  const wanted = new Set(targets);
  if (wanted.size < SHORTEN_FROM) return [...targets];
  const suffixes = (name: string) => {
    const parts = name.split(".");
    return parts.map((_, i) => parts.slice(parts.length - 1 - i).join("."));
  };
  const isWanted = (name: string) => suffixes(name).some((suffix) => wanted.has(suffix));
  const foreign = new Set(names.filter((name) => !isWanted(name)).flatMap(suffixes));
  const required = new Set<string>();
  for (const name of [...wanted].sort()) {
    const all = suffixes(name);
    if (all.slice(0, -1).some((suffix) => required.has(suffix))) continue; // covered already
    const found = all.find((suffix) => !required.has(suffix) && !foreign.has(suffix));
    if (found !== undefined) required.add(found);
  }
  return required.size > 0 && required.size < wanted.size ? [...required] : [...targets];
}
