import { threadMilliseconds } from "./clock.js";
import { dictOf } from "./filters.js";
import { type Hidden, hiddenNames } from "./frames.js";
import { checkAttribute, Interpreter, Scope } from "./interpreter.js";
import { meter, type RenderLimits, TemplateRaised, TemplateRuntimeError } from "./limits.js";
import { range } from "./loops.js";
import { strip } from "./methods.js";
import { checkNames } from "./names.js";
import { parse } from "./parser.js";
import { text } from "./print.js";
import { strftime } from "./strftime.js";
import type { Stmt } from "./syntax.js";
import { fn, fromJs, isString, str, Value } from "./values.js";

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

const GENERATION = /\{%[-+]?\s*generation\s*[-+]?%\}/;

/** True when the template marks the assistant's own text. */
export const hasGenerationMarks = (template: string): boolean => GENERATION.test(template);

interface Program {
  body: Stmt[];
  hidden: Hidden;
}
const parsed = new Map<string, Program>();

function compile(template: string): Program {
  let program = parsed.get(template);
  if (!program) {
    const body = parse(template);
    checkNames(body);
    program = { body, hidden: hiddenNames(body) };
    if (parsed.size >= 16) parsed.clear();
    parsed.set(template, program);
  }
  return program;
}

/** What apply_chat_template does to messages: keys without a value go, reasoning is found under either of its names. */
function prepared(message: Record<string, unknown>): Record<string, unknown> {
  const given = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null && value !== undefined));
  const reasoning = given.reasoning_content ?? given.thinking ?? given.reasoning;
  return reasoning === undefined ? given : { thinking: reasoning, ...given, reasoning_content: reasoning };
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
    const part = parts.findLast((p) => p.text !== undefined);
    if (typeof part?.text === "string") {
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

const unsupported = (name: string) =>
  fn(() => {
    throw new TemplateRuntimeError(`'${name}' is not supported`);
  });

/** One argument of a function that takes one, by place or by name. */
function only(positional: readonly Value[], keywords: ReadonlyMap<string, Value>, name: string): Value {
  const value = positional[0] ?? keywords.get(name);
  if (!value || positional.length + keywords.size !== 1) throw new TemplateRuntimeError(`takes one argument, ${name}`);
  return value;
}

function globals(request: RenderRequest): Map<string, Value> {
  const now = new Date(request.now);
  return new Map<string, Value>([
    ["range", fn(range)],
    ["dict", fn(dictOf)],
    [
      "namespace",
      fn((positional, keywords) => {
        const { value } = dictOf(positional, keywords);
        for (const name of value.keys()) checkAttribute(name);
        return new Value("namespace", value);
      }),
    ],
    [
      "raise_exception",
      fn((positional, keywords) => {
        throw new TemplateRaised(text(only(positional, keywords, "message")));
      }),
    ],
    [
      "strftime_now",
      fn((positional, keywords) => {
        const format = only(positional, keywords, "format");
        if (!isString(format)) throw new TemplateRuntimeError("strftime_now needs a text");
        return str(strftime(now, format.value));
      }),
    ],
    ...["cycler", "joiner", "lipsum"].map((name) => [name, unsupported(name)] as const),
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
  if (request.continueFinalMessage && !template.includes("content"))
    throw new RenderArgumentError("continueFinalMessage is set but the template does not read the content of messages");
  const variables = {
    ...request.variables,
    messages,
    tools: request.tools,
    documents: request.documents,
    add_generation_prompt: request.addGenerationPrompt,
  };
  const scope = new Scope();
  for (const [name, value] of globals(request)) scope.names.set(name, value);
  for (const [name, value] of Object.entries(variables)) scope.names.set(name, fromJs(value));
  meter.start(limits, threadMilliseconds);
  try {
    const { body, hidden } = compile(template);
    const interpreter = new Interpreter(request.marks, hidden);
    const printed = interpreter.render(body, scope);
    return { text: request.continueFinalMessage ? cutAtTag(printed, lastText) : printed, regions: interpreter.regions };
  } finally {
    meter.stop();
  }
}
