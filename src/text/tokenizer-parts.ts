import { LowrankError } from "../errors.js";
import { BEHAVIORS } from "./split.js";

type Json = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

/** Parts that give what the Rust library gives; others are refused. */
const PARTS: Readonly<Record<string, readonly string[]>> = {
  normalizer: ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Prepend", "Replace"],
  pre_tokenizer: [
    ...["Sequence", "ByteLevel", "Split", "Punctuation", "Digits", "Metaspace", "Whitespace", "WhitespaceSplit"],
    ...["BertPreTokenizer", "FixedLength"],
  ],
  model: ["BPE", "Unigram", "WordPiece"],
  post_processor: ["Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"],
  decoder: ["Sequence", "ByteLevel", "ByteFallback", "Fuse", "Strip", "Replace", "Metaspace", "WordPiece", "BPEDecoder"],
};
/** Where a Sequence keeps its parts. */
const LISTS = ["normalizers", "pretokenizers", "processors", "decoders"];

/** Options that the JavaScript library does not know, or knows otherwise: true where they are set. */
const OPTIONS: Readonly<Record<string, (part: Json) => boolean>> = {
  "BPE.dropout": (part) => Boolean(part.dropout),
  "BPE.continuing_subword_prefix": (part) => Boolean(part.continuing_subword_prefix),
  "BPE.end_of_word_suffix": (part) => Boolean(part.end_of_word_suffix),
  // There the Rust library merges bytes of unknown characters, the JavaScript one never.
  "BPE.merges": (part) => part.byte_fallback === true && Array.isArray(part.merges) && part.merges.some(mergesBytes),
  "Unigram.byte_fallback": (part) => part.byte_fallback === true,
  "Split.pattern": (part) => !isPattern(part.pattern),
  "Replace.pattern": (part) => !isPattern(part.pattern),
  "Split.behavior": (part) => !isBehavior(part.behavior),
  "Punctuation.behavior": (part) => part.behavior !== undefined && !isBehavior(part.behavior),
  "Metaspace.add_prefix_space": (part) => part.add_prefix_space === false && part.prepend_scheme !== "never",
};
const mergesBytes = (merge: unknown) => {
  const sides: unknown[] = Array.isArray(merge) ? merge : String(merge).split(" ");
  return sides.some((side) => /^<0x[0-9A-F]{2}>$/.test(String(side)));
};
const isPattern = (value: unknown) => isObject(value) && (typeof value.Regex === "string" || typeof value.String === "string");
const isBehavior = (value: unknown) => (BEHAVIORS as readonly unknown[]).includes(value);

/**
 * Refuses a tokenizer.json with parts whose results would differ from the Rust library's.
 *
 * @throws LowrankError UNSUPPORTED; details: step, part, option
 */
export function checkParts(json: Json, path: string): void {
  for (const step of Object.keys(PARTS)) checkPart(json[step], step, path);
}

function checkPart(part: unknown, step: string, path: string): void {
  if (!isObject(part) || typeof part.type !== "string") return;
  const refuse = (what: string, option?: string): never => {
    throw new LowrankError("UNSUPPORTED", `${path} needs ${what}, which this version would not compute as tokenizers does`, {
      hint: "The tokenizers of Llama, Mistral, Qwen, Gemma, Phi and SmolLM need none of it.",
      details: { path, step, part: part.type, ...(option === undefined ? {} : { option }) },
    });
  };
  if (!PARTS[step]?.includes(part.type)) refuse(`the ${step.replace("_", "-")} ${part.type}`);
  for (const [name, isSet] of Object.entries(OPTIONS)) {
    const [type, option] = name.split(".");
    if (part.type === type && isSet(part)) refuse(`${option} of ${type} as it is set there (${step})`, option);
  }
  for (const list of LISTS) if (Array.isArray(part[list])) for (const child of part[list]) checkPart(child, step, path);
}

/** The type of a model whose file, as old ones do, does not say it: found by its fields, as in the Rust library. */
export function modelType(model: unknown): string | undefined {
  if (!isObject(model)) return undefined;
  if (typeof model.type === "string") return model.type;
  if ("merges" in model) return "BPE";
  if (Array.isArray(model.vocab)) return "Unigram";
  return "continuing_subword_prefix" in model ? "WordPiece" : "WordLevel";
}
