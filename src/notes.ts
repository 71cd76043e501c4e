/** What the small files of a checkpoint or adapter hold without effect here is said once for each file, so that nobody believes in it. */
import { join } from "node:path";

/** Called with one sentence on a file that was read. The default, {@link warn}, makes it a process warning. */
export type OnNote = (note: string) => void;

/** A process warning of type LowrankNote: printed to stderr unless the program listens and says otherwise. */
export const warn: OnNote = (note) => process.emitWarning(note, "LowrankNote");

/** For what has been said before. */
export const quiet: OnNote = () => {};

/** An object of a file that remembers which of its keys were read. */
export class Keys {
  readonly json: Readonly<Record<string, unknown>>;
  readonly #read = new Set<string>();

  constructor(json: Readonly<Record<string, unknown>>) {
    this.json = json;
  }

  read(key: string): unknown {
    this.#read.add(key);
    return this.json[key];
  }

  /** A number, or undefined. A value of another type stays unread. */
  number(key: string): number | undefined {
    return typeof this.json[key] === "number" ? (this.read(key) as number) : undefined;
  }

  /** Keys that nothing read, with their values; null says as little as an absent key. */
  unread(): [key: string, value: unknown][] {
    return Object.entries(this.json).filter(([key, value]) => value !== null && !this.#read.has(key));
  }
}

const ANY = Symbol("any value");
const names = (text: string): [string, unknown][] =>
  text
    .trim()
    .split(/\s+/)
    .map((name) => [name, ANY]);

/** Keys that change nothing anybody could miss, with the only value of which that is true where it is not true of all. */
const WITHOUT_MEANING: Readonly<Record<string, ReadonlyMap<string, unknown>>> = {
  // How a file was made, how Python runs the model, and heads of other tasks. Sources: transformers 5's configuration_utils.py,
  // modeling_rope_utils.py (which moves original_max_position_embeddings to where it counts) and utils/quantization_config.py.
  "config.json": new Map([
    ...names(`_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation cache_implementation dtype
      id2label is_llama_config label2id max_window_layers original_max_position_embeddings output_attentions output_hidden_states
      pretraining_tp problem_type return_dict tokenizer_class torch_dtype transformers_version unsloth_fixed unsloth_version use_cache`),
    ...names(`_load_in_8bit bnb_4bit_compute_dtype llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight llm_int8_skip_modules
      llm_int8_threshold`).map(([name, value]): [string, unknown] => [`quantization_config.${name}`, value]),
    ["embd_pdrop", 0],
    ["resid_pdrop", 0],
    ["is_encoder_decoder", false],
  ]),
  // The model has its own begin and padding tokens. Source: transformers 5's generation/configuration_utils.py.
  "generation_config.json": new Map([
    ...names(`_from_model_config bos_token_id cache_config cache_implementation output_attentions output_hidden_states output_logits
      output_scores pad_token_id return_dict_in_generate transformers_version use_cache`),
    ["diversity_penalty", 0],
    ["early_stopping", false],
    ["encoder_no_repeat_ngram_size", 0],
    ["encoder_repetition_penalty", 1],
    ["guidance_scale", 1],
    ["length_penalty", 1],
    ["low_memory", false],
    ["min_length", 0],
    ["min_new_tokens", 0],
    ["num_beam_groups", 1],
    ["num_beams", 1],
    ["num_return_sequences", 1],
    ["penalty_alpha", 0],
    ["remove_invalid_values", false],
    ["renormalize_logits", false],
    ["token_healing", false],
  ]),
  // Texts are neither padded nor cut, and tokenizer.json says what the tokenizer is. Source: transformers 5's tokenization_utils_base.py.
  "tokenizer_config.json": new Map([
    ...names(`_commit_hash backend is_local legacy local_files_only max_length model_input_names model_max_length name_or_path
      pad_to_multiple_of pad_token_type_id padding padding_side processor_class return_token_type_ids special_tokens_map_file
      spaces_between_special_tokens stride tokenizer_class tokenizer_file truncation truncation_side truncation_strategy
      unsloth_fixed use_fast vocab_size`),
    ["do_lower_case", false],
    ["errors", "replace"],
    ["sp_model_kwargs", {}],
    ["split_special_tokens", false],
    ["use_default_system_prompt", false],
  ]),
};

/** Keys with which transformers, told to trust it, runs Python code that lies in the checkpoint. */
const CODE = new Set(["auto_map", "custom_pipelines"]);
/** Names that one sentence lists. */
const MOST_NAMES = 12;

/** Says which keys of a file have no effect here. @param folder where it lies, if it is a file. @param unread keys and values that nothing read. */
export function noteUnread(
  file: "config.json" | "generation_config.json" | "tokenizer_config.json" | "adapter_config.json",
  folder: string | undefined,
  unread: readonly (readonly [key: string, value: unknown])[],
  onNote: OnNote = warn,
): void {
  const meaningless = WITHOUT_MEANING[file];
  const missed = unread.filter(([key, value]) => {
    if (!meaningless?.has(key)) return true;
    const harmless = meaningless.get(key);
    return harmless !== ANY && JSON.stringify(harmless) !== JSON.stringify(value);
  });
  const source = folder === undefined ? file : join(folder, file);
  const keys = missed.map(([key]) => key);
  for (const key of keys) if (CODE.has(key)) onNote(`${source}: ${key} names code in the checkpoint; lowrank never runs it`);
  const others = keys.filter((key) => !CODE.has(key));
  if (others.length === 0) return;
  onNote(`${source} has keys without effect here: ${listed(others.map(shown))}`);
}

/** The first of many, and how many more there are. */
export function listed(texts: readonly string[]): string {
  const more = texts.length > MOST_NAMES ? ` and ${texts.length - MOST_NAMES} more` : "";
  return texts.slice(0, MOST_NAMES).join(", ") + more;
}

/** What a file holds as it is printed: as it is where it is a plain name, else quoted, short, in printable ASCII. */
export function shown(key: string): string {
  if (/^[\w.-]{1,64}$/.test(key)) return key;
  const text = JSON.stringify(key.length > 64 ? `${key.slice(0, 63)}…` : key);
  return text.replace(/[^ -~]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
