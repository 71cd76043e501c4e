import { isDeepStrictEqual } from "node:util";
import { LowrankError } from "../errors.js";
import type { Json, JsonObject } from "../io/json.js";
import { didYouMean } from "../suggest.js";
import { FIELDS, type Field, type LoraConfigFields } from "./config-fields.js";
import { type PythonRegex, pythonRegex } from "./python-regex.js";

export type LoraConfigOptions = Partial<LoraConfigFields>;

const NAMES = Object.keys(FIELDS) as (keyof LoraConfigFields)[];
const BY_FILE_NAME = new Map(NAMES.map((name) => [FIELDS[name].file, name]));
const OTHER_METHODS =
  "ADALORA ADAPTION_PROMPT BOFT BONE C3A CPT DELORA FOURIERFT GRALORA HRA IA3 LN_TUNING LOHA LOKR MISS MULTITASK_PROMPT_TUNING OFT OSF P_TUNING POLY PREFIX_TUNING PROMPT_TUNING RANDLORA ROAD SHIRA TRAINABLE_TOKENS VBLORA VERA WAVEFT XLORA".split(
    " ",
  );

/** Fields that must hold their default for an adapter to run: other values change the maths in ways not computed yet. */
const NOT_COMPUTED: (keyof LoraConfigFields)[] = [
  "fanInFanOut",
  "targetParameters",
  "layerReplication",
  "loftqConfig",
  "evaConfig",
  "cordaConfig",
  "loraGaConfig",
  "aloraInvocationTokens",
  "useQalora",
  "veloraConfig",
  "montecloraConfig",
  "kasaConfig",
  "arrowConfig",
  "useBdlora",
  "megatronConfig",
];
/** Initialisations that are computed. */
const INITS = /^(gaussian|orthogonal|pissa|pissa_niter_\d+|olora)$/i;
/** Others with which an adapter can be loaded: they leave the base alone, or (loftq) the base on the disk is the changed one. */
const LOADABLE_INITS = /^(eva|loftq|mica)$/i;
/** Fields that only say how an adapter was begun. */
const OF_BEGINNING: (keyof LoraConfigFields)[] = ["loftqConfig", "evaConfig"];

/** Gives the class its fields' types; the constructor below defines them from the table. */
const Fields = class {} as new () => Readonly<LoraConfigFields>;

/**
 * The configuration of a LoRA adapter, field by field that of PEFT (peft.LoraConfig, adapter_config.json). All mistakes are reported
 * at once as INVALID_CONFIG. Keys that only a newer PEFT knows are kept and written again, and refused by `assertRunnable`.
 */
export class LoraConfig extends Fields {
  readonly peftType = "LORA";
  /** Keys of adapter_config.json that are not PEFT 0.21's, as they were read. */
  readonly unknownKeys: Readonly<JsonObject>;

  constructor(options: LoraConfigOptions = {}, unknownKeys: JsonObject = {}) {
    super();
    const misnamed = Object.keys(options).filter((name) => !Object.hasOwn(FIELDS, name));
    const problems = misnamed.map((name) => `'${name}' is not an option${didYouMean(name, NAMES)}`);
    for (const name of NAMES) {
      const value = options[name] === undefined ? structuredClone(FIELDS[name].default) : options[name];
      Object.defineProperty(this, name, { value, enumerable: true });
    }
    this.unknownKeys = unknownKeys;
    problems.push(...this.problems());
    if (problems.length > 0) throw invalid("the LoRA configuration", problems);
  }

  /** Reads adapter_config.json. Throws INVALID_CONFIG, or UNSUPPORTED (details.reason "other-peft-method") for IA3, LoHa and the like. */
  static fromJSON(json: JsonObject, source = "adapter_config.json"): LoraConfig {
    const { peft_type: type, runtime_config: _never, ...rest } = json;
    if (typeof type === "string" && OTHER_METHODS.includes(type)) {
      throw new LowrankError("UNSUPPORTED", `${source} is of an adapter of the method ${type}; only LORA is supported`, {
        details: { reason: "other-peft-method", peftType: type },
      });
    }
    if (type !== "LORA") {
      const what = type === undefined ? "has no peft_type" : `has the unknown peft_type ${JSON.stringify(type)}`;
      throw new LowrankError("INVALID_CONFIG", `${source} ${what}; expected "LORA"`, { details: { source } });
    }
    const entries = Object.entries(rest);
    const options: Record<string, Json> = {};
    for (const [key, value] of entries) {
      const name = BY_FILE_NAME.get(key);
      if (name !== undefined) options[name] = value;
    }
    // fromEntries keeps a key __proto__ as a plain one.
    const unknown: JsonObject = Object.fromEntries(entries.filter(([key]) => !BY_FILE_NAME.has(key)));
    // PEFT 0.6 and older wrote null where a later one writes the empty default.
    for (const name of ["rankPattern", "alphaPattern", "loftqConfig"]) if (options[name] === null) delete options[name];
    try {
      return new LoraConfig(options as LoraConfigOptions, unknown);
    } catch (error) {
      if (error instanceof LowrankError && Array.isArray(error.details.problems)) throw invalid(source, error.details.problems);
      throw error;
    }
  }

  /**
   * The content of adapter_config.json, keys sorted: those PEFT 0.6 knew always, newer ones only where they differ from their default
   * (an old PEFT refuses keys it does not know), unknown ones as they were read.
   */
  toJSON(): JsonObject {
    const json: JsonObject = { peft_type: this.peftType, ...this.unknownKeys };
    for (const name of NAMES) {
      const value = this[name] as Json;
      if (FIELDS[name].always || !isDefault(FIELDS[name], value)) json[FIELDS[name].file] = value;
    }
    return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** The same configuration with some fields changed. */
  with(changes: LoraConfigOptions): LoraConfig {
    const own = Object.fromEntries(NAMES.map((name) => [name, this[name]]));
    return new LoraConfig({ ...own, ...changes }, this.unknownKeys);
  }

  /** Rank of a module: the first pattern in file order that matches its name, else `r`. */
  rankOf(moduleName: string): number {
    return firstMatch(this.rankPattern, moduleName) ?? this.r;
  }

  alphaOf(moduleName: string): number {
    return firstMatch(this.alphaPattern, moduleName) ?? this.loraAlpha;
  }

  /** What B·A·x is multiplied by: alpha / r, or alpha / √r with rsLoRA. */
  scalingOf(moduleName: string): number {
    const rank = this.rankOf(moduleName);
    return this.alphaOf(moduleName) / (this.useRslora ? Math.sqrt(rank) : rank);
  }

  /** Whether A and B start from the two halves of an orthogonal matrix, for which the rank must be even. */
  get isOrthogonal(): boolean {
    return /^orthogonal$/i.test(String(this.initLoraWeights));
  }

  /** Refuses, all at once, what would change the maths and is not computed here; `creating` also checks the initialisation. */
  assertRunnable(creating: boolean, source = "the LoRA configuration"): void {
    const matter = creating ? NOT_COMPUTED : NOT_COMPUTED.filter((name) => !OF_BEGINNING.includes(name));
    const problems = matter
      .filter((name) => !isDefault(FIELDS[name], this[name] as Json))
      .map((name) => `${FIELDS[name].file} = ${JSON.stringify(this[name])} is not supported yet`);
    const init = this.initLoraWeights;
    const known = typeof init !== "string" || INITS.test(init) || (!creating && LOADABLE_INITS.test(init));
    if (!known) {
      problems.push(`init_lora_weights = "${init}" is not supported yet`);
    }
    for (const [key, value] of Object.entries(this.unknownKeys)) {
      if (value === null || value === false || isDeepStrictEqual(value, {}) || isDeepStrictEqual(value, [])) continue;
      problems.push(
        `the unknown key ${key} = ${JSON.stringify(value)} may change the result${didYouMean(key, BY_FILE_NAME.keys())}`,
      );
      if (problems.length > 100) break;
    }
    if (problems.length === 0) return;
    throw new LowrankError("UNSUPPORTED", `${source} asks for what this version does not compute:\n- ${problems.join("\n- ")}`, {
      hint: "Merge the adapter into its base with PEFT, or train it without these options.",
      details: { problems },
    });
  }

  private problems(): string[] {
    const problems: string[] = [];
    const wrong = new Set<string>();
    for (const name of NAMES) {
      const expected = FIELDS[name].check(this[name]);
      if (expected === undefined) continue;
      wrong.add(name);
      problems.push(`${FIELDS[name].file} should be ${expected}, found ${JSON.stringify(this[name])}`);
    }
    if (wrong.size > 0) return problems;
    const { layersToTransform: layers, layersPattern, targetModules: targets } = this;
    const given = (value: unknown) => value !== null && value !== "" && !(Array.isArray(value) && value.length === 0);
    if (given(layersPattern) && layers === null) problems.push("layers_pattern needs layers_to_transform");
    if (typeof targets === "string" && given(layers))
      problems.push("layers_to_transform needs a list of target_modules, not text");
    if (this.loraBias && this.useDora) problems.push("lora_bias does not go with use_dora");
    if (this.loraBias && typeof this.initLoraWeights === "string")
      problems.push(`lora_bias goes with init_lora_weights true or false, found "${this.initLoraWeights}"`);
    if (this.aloraInvocationTokens !== null && this.useDora) problems.push("alora_invocation_tokens does not go with use_dora");
    if (this.isOrthogonal && this.r % 2 !== 0 && Object.keys(this.rankPattern).length === 0)
      problems.push(`orthogonal initialisation needs an even r, found ${this.r}`);
    problems.push(...this.tokenProblems(), ...this.patternProblems());
    return problems;
  }

  private tokenProblems(): string[] {
    const tokens = this.trainableTokenIndices;
    if (tokens === null) return [];
    const modules = Array.isArray(tokens) ? ["embed_tokens"] : Object.keys(tokens);
    const both = modules.filter((module) => this.modulesToSave?.includes(module));
    return both.map((module) => `${module} is in modules_to_save and has trainable_token_indices: one of the two`);
  }

  private patternProblems(): string[] {
    const text = (value: unknown) => (typeof value === "string" ? [value] : []);
    const patterns = [
      ...[...Object.keys(this.rankPattern), ...Object.keys(this.alphaPattern)].map(wrapPattern),
      ...text(this.targetModules),
      ...text(this.excludeModules),
      ...(this.modulesToSave ?? []).map(partPattern),
      ...[this.layersPattern ?? []].flat().map(layerPattern),
    ];
    const problems: string[] = [];
    for (const pattern of patterns) {
      try {
        pythonRegex(pattern);
      } catch (error) {
        problems.push((error as Error).message);
      }
    }
    return problems;
  }
}

/** PEFT's get_pattern_key: re.match(rf"(.*\.)?({pattern})$", name). */
export function matchesPattern(pattern: string, moduleName: string): boolean {
  return compiled(wrapPattern(pattern)).match(moduleName) !== null;
}

const wrapPattern = (pattern: string) => `(.*\\.)?(${pattern})$`;
/** Of an entry of modules_to_save: the module and what lies in it. */
export const partPattern = (entry: string) => `(^|.*\\.)${entry}($|\\..*)`;
/** Of an entry of layers_pattern, with the layer's index as its first group. */
export const layerPattern = (entry: string) => `(?:^|.*?\\.)${entry}\\.(\\d+)\\.`;

function firstMatch(patterns: Readonly<Record<string, number>>, moduleName: string): number | undefined {
  const key = Object.keys(patterns).find((pattern) => matchesPattern(pattern, moduleName));
  return key === undefined ? undefined : patterns[key];
}

const cache = new Map<string, PythonRegex>();

/** pythonRegex, remembered: the same few patterns meet every module's name. */
export function compiled(pattern: string): PythonRegex {
  let regex = cache.get(pattern);
  if (regex === undefined) {
    if (cache.size > 1000) cache.clear();
    regex = pythonRegex(pattern);
    cache.set(pattern, regex);
  }
  return regex;
}

const isDefault = (field: Field, value: Json) => isDeepStrictEqual(value, field.default);

function invalid(source: string, problems: string[]): LowrankError {
  return new LowrankError(
    "INVALID_CONFIG",
    `${source} has ${problems.length === 1 ? "a mistake" : `${problems.length} mistakes`}:\n- ${problems.join("\n- ")}`,
    {
      details: { problems },
    },
  );
}
