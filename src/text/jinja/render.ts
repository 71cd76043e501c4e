import { Environment, parse, tokenize } from "@huggingface/jinja";
import { PythonInterpreter, type RenderLimits } from "./interpreter.js";
import { range } from "./loops.js";
import { strip } from "./methods.js";
import { text } from "./print.js";
import { strftime } from "./strftime.js";
import { bool, dict, fn, fromJs, none, str, TemplateRaised, undef, type Value } from "./values.js";

/** Everything one rendering needs; only data, so that it can be sent to the worker. */
export interface RenderRequest {
  messages: readonly Record<string, unknown>[];
  tools: readonly unknown[] | null;
  documents: readonly unknown[] | null;
  addGenerationPrompt: boolean;
  continueFinalMessage: boolean;
  /** Further variables: special tokens by name, and the caller's own. */
  variables: Record<string, unknown>;
  /** Milliseconds since 1970 that `strftime_now` takes for now. */
  now: number;
  /** Also find the regions between `{% generation %}` marks. */
  marks: boolean;
}

export interface Rendered {
  text: string;
  /** Ranges of characters between generation marks, in order; empty without marks. */
  regions: [start: number, end: number][];
}

/** The arguments do not go together; nothing was rendered. */
export class RenderArgumentError extends Error {}

const GENERATION = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g;

/** True when the template marks the assistant's own text. */
export const hasGenerationMarks = (template: string): boolean => template.search(GENERATION) >= 0;

/** Characters that occur in no text: one opens a marked region, the next closes it. */
function sentinels(template: string, request: RenderRequest): [string, string] {
  const used =
    template +
    JSON.stringify([request.messages, request.tools, request.documents, request.variables], (_, v) =>
      typeof v === "bigint" ? String(v) : v,
    );
  for (let code = 0xe000; code < 0xf8ff; code += 2) {
    const pair: [string, string] = [String.fromCharCode(code), String.fromCharCode(code + 1)];
    if (!used.includes(pair[0]) && !used.includes(pair[1])) return pair;
  }
  throw new RenderArgumentError("the conversation uses every private character of Unicode");
}

type Program = Parameters<PythonInterpreter["render"]>[0];
const parsed = new Map<string, Program>();

/** Parses a template; generation tags become blocks that print `open` and `close`, so that white space around them is cut as around any tag. */
function compile(template: string, open: string, close: string): Program {
  const key = open + close + template;
  let program = parsed.get(key);
  if (!program) {
    // Jinja reads any line end as \n.
    const marked = template
      .replace(/\r\n?/g, "\n")
      .replace(GENERATION, (_, left: string, end: string | undefined, right: string) => {
        const mark = end ? close : open;
        return `{%${left} if true %}${mark}{% endif ${right}%}`;
      });
    program = parse(tokenize(marked, { trim_blocks: true, lstrip_blocks: true })) as unknown as Program;
    if (parsed.size >= 16) parsed.clear();
    parsed.set(key, program);
  }
  return program;
}

/** What apply_chat_template does to messages: keys without a value go, reasoning is found under either of its names. */
function prepared(message: Record<string, unknown>): Record<string, unknown> {
  const out = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null && value !== undefined));
  const reasoning = out.reasoning_content ?? out.thinking ?? out.reasoning;
  if (reasoning !== undefined) {
    out.reasoning_content ??= reasoning;
    out.thinking ??= reasoning;
  }
  return out;
}

const CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG ";

/** Appends the tag to the last text of the last message; returns that text as it was. */
function tagLast(messages: Record<string, unknown>[]): string {
  const last = messages.at(-1)!;
  if (typeof last.content === "string") {
    const before = last.content;
    last.content += CONTINUE_TAG;
    return before;
  }
  if (Array.isArray(last.content)) {
    const parts = last.content.map((part) => ({ ...part }));
    const part = parts.findLast((p) => typeof p.text === "string");
    if (part) {
      const before = part.text as string;
      part.text += CONTINUE_TAG;
      last.content = parts;
      return before;
    }
  }
  throw new RenderArgumentError("continueFinalMessage is set but the last message has no text to continue");
}

function cutAtTag(rendered: string, lastText: string): string {
  const tag = CONTINUE_TAG.trim();
  const at = rendered.lastIndexOf(tag);
  if (at < 0 || !rendered.includes(strip(lastText, undefined, true, true))) {
    throw new RenderArgumentError(
      "continueFinalMessage is set but the last message does not appear in what the template printed",
    );
  }
  const before = rendered.slice(0, at);
  return rendered.startsWith(CONTINUE_TAG, at) ? before : strip(before, undefined, false, true);
}

function globals(request: RenderRequest): Map<string, Value> {
  const raise = fn((args) => {
    throw new TemplateRaised(text(args[0] ?? undef));
  });
  const now = new Date(request.now);
  return new Map<string, Value>([
    ["true", bool(true)],
    ["True", bool(true)],
    ["false", bool(false)],
    ["False", bool(false)],
    ["none", none],
    ["None", none],
    ["range", range],
    [
      "dict",
      fn((args) =>
        dict(new Map(args.filter((a) => a.value instanceof Map).flatMap((a) => [...(a.value as Map<string, Value>)]))),
      ),
    ],
    ["raise_exception", raise],
    ["strftime_now", fn((args) => str(strftime(now, text(args[0] ?? undef))))],
  ]);
}

/**
 * Renders one conversation as transformers' apply_chat_template does.
 *
 * @throws RenderArgumentError for arguments it refuses; TemplateRaised, TemplateRuntimeError, TemplateLimitError
 */
export function render(template: string, request: RenderRequest, limits: RenderLimits): Rendered {
  if (request.messages.length === 0)
    throw new RenderArgumentError("Cannot apply chat template to an empty conversation. Provide at least one message.");
  if (request.continueFinalMessage && request.addGenerationPrompt) {
    throw new RenderArgumentError(
      "continueFinalMessage and addGenerationPrompt are not compatible: the first goes on with the last message, the second opens a new one.",
    );
  }
  const messages = request.messages.map(prepared);
  const lastText = request.continueFinalMessage ? tagLast(messages) : "";
  const [open, close] = request.marks ? sentinels(template, request) : ["", ""];
  const program = compile(template, open, close);
  const scope = new Environment();
  for (const [name, value] of globals(request)) scope.setVariable(name, value as never);
  const variables = {
    ...request.variables,
    messages,
    tools: request.tools,
    documents: request.documents,
    add_generation_prompt: request.addGenerationPrompt,
  };
  for (const [name, value] of Object.entries(variables)) scope.setVariable(name, fromJs(value) as never);
  const rendered = new PythonInterpreter(scope, limits).render(program);
  const found = request.marks ? cutMarks(rendered, open, close) : { text: rendered, regions: [] };
  return request.continueFinalMessage ? { ...found, text: cutAtTag(found.text, lastText) } : found;
}

function cutMarks(rendered: string, open: string, close: string): Rendered {
  const regions: [number, number][] = [];
  let out = "";
  let start: number | undefined;
  for (const char of rendered.split(new RegExp(`([${open}${close}])`, "u"))) {
    if (char === open) start ??= out.length;
    else if (char === close) {
      if (start !== undefined && out.length > start) regions.push([start, out.length]);
      start = undefined;
    } else out += char;
  }
  return { text: out, regions };
}
