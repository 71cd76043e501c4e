import { LowrankError } from "../errors.js";
import type { Tokenizer } from "./tokenizer.js";

/** A family of chat formats: how each message begins and ends. `EOS` and `BOS` stand for the model's own tokens. */
interface Family {
  /** LLaMA-Factory's names for it. */
  names: readonly string[];
  /** A text that a template of this family always holds. */
  marker: string;
  prefix?: string;
  system: readonly [before: string, after: string];
  user: readonly [before: string, after: string];
  /** What stands before an answer. */
  open: string;
  /** What ends an answer; learnt with it. */
  end: string;
  /** The system text goes into the first user message. */
  systemInUser?: boolean;
}

// Private characters: they occur in no format.
const EOS = "\ue001";
const BOS = "\ue002";

const FAMILIES: readonly Family[] = [
  {
    names: ["chatml", "qwen", "qwen3", "qwen3_nothink", "yi", "smollm", "smollm2"],
    marker: "<|im_start|>",
    system: ["<|im_start|>system\n", "<|im_end|>\n"],
    user: ["<|im_start|>user\n", "<|im_end|>\n"],
    open: "<|im_start|>assistant\n",
    end: "<|im_end|>\n",
  },
  {
    names: ["llama3"],
    marker: "<|start_header_id|>",
    prefix: BOS,
    system: ["<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"],
    user: ["<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"],
    open: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    end: "<|eot_id|>",
  },
  {
    names: ["gemma", "gemma2", "gemma3"],
    marker: "<start_of_turn>",
    prefix: BOS,
    system: ["", "\n\n"],
    user: ["<start_of_turn>user\n", "<end_of_turn>\n"],
    open: "<start_of_turn>model\n",
    end: "<end_of_turn>\n",
    systemInUser: true,
  },
  {
    names: ["mistral"],
    marker: "[INST]",
    prefix: BOS,
    system: ["", "\n\n"],
    user: ["[INST] ", "[/INST]"],
    open: " ",
    end: EOS,
    systemInUser: true,
  },
  {
    names: ["phi"],
    marker: "<|end|>",
    system: ["<|system|>\n", "<|end|>\n"],
    user: ["<|user|>\n", "<|end|>\n"],
    open: "<|assistant|>\n",
    end: "<|end|>\n",
  },
  {
    names: ["granite3"],
    marker: "<|start_of_role|>",
    system: ["<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"],
    user: ["<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"],
    open: "<|start_of_role|>assistant<|end_of_role|>",
    end: "<|end_of_text|>\n",
  },
  {
    names: ["alpaca"],
    marker: "### Instruction:",
    system: ["", ""],
    user: ["### Instruction:\n", "\n\n"],
    open: "### Response:\n",
    end: `${EOS}\n\n`,
  },
  {
    names: ["default"],
    marker: "Human:",
    system: ["System: ", `${EOS}\n`],
    user: ["Human: ", `${EOS}\n`],
    open: "Assistant:",
    end: `${EOS}\n`,
  },
];

/** A text as a Jinja expression. */
const literal = (text: string): string => {
  const parts = text.split(/([\ue001\ue002])/).filter((p) => p !== "");
  if (parts.length === 0) return '""';
  return parts.map((p) => (p === EOS ? "eos_token" : p === BOS ? "bos_token" : `"${p.replaceAll("\n", "\\n")}"`)).join(" ~ ");
};
const around = ([before, after]: readonly [string, string], content: string) =>
  `{{ ${literal(before)} ~ ${content} ~ ${literal(after)} }}`;

function jinja(f: Family): string {
  const system = `${literal(f.system[0])} ~ m.content ~ ${literal(f.system[1])}`;
  const first = f.systemInUser ? `{% set held.text = ${system} %}` : `{{ ${system} }}`;
  const user = f.systemInUser
    ? `${around(f.user, "held.text ~ m.content")}{% set held.text = "" %}`
    : around(f.user, "m.content");
  const answer = `{{ ${literal(f.open)} }}{% generation %}{{ m.content ~ ${literal(f.end)} }}{% endgeneration %}`;
  return [
    f.prefix ? `{{ ${literal(f.prefix)} }}` : "",
    '{% set held = namespace(text="") %}',
    `{% for m in messages %}{% if m.role == "system" %}${first}{% elif m.role == "assistant" %}${answer}{% else %}${user}{% endif %}{% endfor %}`,
    `{% if add_generation_prompt %}{{ ${literal(f.open)} }}{% endif %}`,
  ].join("");
}

/** LLaMA-Factory template names that {@link chatTemplateFor} knows. */
export const TEMPLATE_NAMES: readonly string[] = FAMILIES.flatMap((f) => f.names);

/** The texts of a named template that a fitting tokenizer knows as tokens of their own. */
export function templateMarkers(name: string): string[] {
  const family = FAMILIES.find((f) => f.names.includes(name));
  if (!family) return [];
  const texts = [...family.system, ...family.user, family.open, family.end].join("");
  return [...new Set(texts.match(/<[^<>\s]+>/g))];
}

/**
 * The chat template to train and chat with.
 *
 * @param name a LLaMA-Factory template name, or null for the model's own template
 * @returns Jinja: the model's own where it has one, else that of the name; undefined when there is neither
 * @throws LowrankError INVALID_CONFIG for a name that is not known; TEMPLATE for one that contradicts the model's own template
 */
export function chatTemplateFor(tokenizer: Tokenizer, name: string | null): string | undefined {
  const own = tokenizer.chatTemplate;
  if (name === null) return own;
  const family = FAMILIES.find((f) => f.names.includes(name));
  if (!family) {
    throw new LowrankError("INVALID_CONFIG", `template: ${name} is not known`, {
      hint: `Leave template out to use the model's own; known are ${TEMPLATE_NAMES.join(", ")}.`,
    });
  }
  if (own === undefined) return jinja(family);
  if (own.includes(family.marker)) return own;
  const actual = FAMILIES.find((f) => own.includes(f.marker));
  throw new LowrankError(
    "TEMPLATE",
    `template: ${name} contradicts the model's own chat template${actual ? `, which is ${actual.names[0]}` : ""}`,
    {
      hint: "Leave template out: the model's own is used.",
    },
  );
}
