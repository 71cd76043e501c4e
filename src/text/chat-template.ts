import { Worker } from "node:worker_threads";
import { LowrankError } from "../errors.js";
import type { RenderLimits } from "./jinja/limits.js";
import { hasGenerationMarks, type Rendered, type RenderRequest } from "./jinja/render.js";
import type { Refusal, WorkerJob, WorkerResult } from "./jinja/worker.js";

export { hasGenerationMarks, type Rendered };

/** A message as chat templates take it: a role, a content, and whatever else the template reads. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [key: string]: unknown;
}

export interface RenderOptions {
  tools?: readonly unknown[] | null;
  documents?: readonly unknown[] | null;
  /** Open the assistant's next message at the end (default false). */
  addGenerationPrompt?: boolean;
  /** Leave the last message open, to be continued (default false). */
  continueFinalMessage?: boolean;
  /** Special tokens by the names templates use (`bos_token`, …), and further variables. */
  variables?: Readonly<Record<string, unknown>>;
  /** What `strftime_now` takes for now. */
  now?: Date;
  /** Also return the regions between `{% generation %}` marks. */
  marks?: boolean;
  /** Whose template it is, for errors: a model's name or folder. */
  templateName?: string;
}

export interface Conversation extends RenderOptions {
  messages: readonly ChatMessage[];
}

const MAX_TEMPLATE_CHARS = 256 * 1024;
const BATCH = 64;
const MAX_NESTING = 200;
/** What any template may use, and what the conversation adds: real templates take tens of units for a message. */
const WORK = { base: 120_000, perValue: 500, perCharacter: 1 };
/** Time on the processor for the base; far above what its work takes. */
const MILLISECONDS = 100;
/** What a worker that does not answer is given on top before it is ended, on a machine however busy. */
const PATIENCE = 5000;

/** Values inside a value, and characters of all its texts. @throws for what is no data, or nested too deeply */
export function measure(value: unknown, depth = 0): { values: number; characters: number } {
  if (typeof value === "string") return { values: 1, characters: value.length };
  if (typeof value === "function" || typeof value === "symbol") throw notData(`holds a ${typeof value}`);
  if (typeof value !== "object" || value === null || value instanceof Number) return { values: 1, characters: 0 };
  if (depth > MAX_NESTING) throw notData(`is nested more than ${MAX_NESTING} deep`);
  if (!Array.isArray(value) && Object.prototype.toString.call(value) !== "[object Object]")
    throw notData(`holds a ${value.constructor?.name ?? "strange object"}`);
  const sum = { values: 1, characters: 0 };
  for (const [key, x] of Object.entries(value)) {
    const inner = measure(x, depth + 1);
    sum.values += inner.values;
    sum.characters += inner.characters + (Array.isArray(value) ? 0 : key.length);
  }
  return sum;
}

const notData = (what: string) =>
  new LowrankError("TEMPLATE", `The conversation cannot be rendered: it ${what}`, {
    hint: "Messages, tools and variables are data: texts, numbers, lists and plain objects.",
    details: { raisedBy: "api", message: `it ${what}` },
  });

/** Limits of one rendering: a base, and a share for the size of the conversation. */
export function limitsFor(r: RenderRequest): RenderLimits {
  const { values, characters } = measure([r.messages, r.tools, r.documents, r.variables]);
  const work = WORK.base + WORK.perValue * values + WORK.perCharacter * characters;
  return { work, milliseconds: Math.ceil((MILLISECONDS * work) / WORK.base) };
}

type Job = { work: WorkerJob; resolve: (results: WorkerResult[]) => void; reject: (error: Error) => void };

/** A thread that renders templates. Its heap has room for the largest conversations; the count of work keeps it far smaller. */
export function startWorker(): Worker {
  const options = {
    resourceLimits: { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 6, stackSizeMb: 4 },
    execArgv: [],
  };
  return import.meta.url.endsWith(".ts")
    ? new Worker(fromSource(new URL("./jinja/worker.ts", import.meta.url)), { ...options, eval: true })
    : new Worker(new URL("./jinja/worker.js", import.meta.url), options);
}

/** One long-lived worker that renders templates. It is replaced when it must be killed, and never keeps the process alive. */
class TemplateWorker {
  private worker: Worker | undefined;
  private ready = false;
  private current: Job | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly queue: Job[] = [];

  run(work: WorkerJob): Promise<WorkerResult[]> {
    return new Promise((resolve, reject) => {
      this.queue.push({ work, resolve, reject });
      this.next();
    });
  }

  private next(): void {
    if (this.current || this.queue.length === 0) return;
    this.worker ??= this.start();
    this.worker.ref();
    if (!this.ready) return;
    this.current = this.queue.shift();
    const { work } = this.current!;
    const patience = work.limits.reduce((ms, limit) => ms + limit.milliseconds, PATIENCE);
    this.timer = setTimeout(() => this.fail("time", "it did not come to an end"), patience);
    this.worker.postMessage(work);
  }

  private start(): Worker {
    const worker = startWorker();
    this.ready = false;
    worker.on("message", (message: "ready" | WorkerResult[]) => {
      if (worker !== this.worker) return;
      if (message === "ready") {
        this.ready = true;
        this.next();
        return;
      }
      this.settle((job) => job.resolve(message));
    });
    worker.on("error", (error: NodeJS.ErrnoException) => {
      if (worker !== this.worker) return;
      if (error.code === "ERR_WORKER_OUT_OF_MEMORY") this.fail("memory", "it used too much memory");
      else this.fail("time", error.message);
    });
    return worker;
  }

  /** Ends the worker and refuses the job it was at; all jobs if it never came up. */
  private fail(limit: "time" | "memory", message: string): void {
    const { worker, ready } = this;
    this.worker = undefined;
    this.ready = false;
    void worker?.terminate();
    if (!ready) {
      const error = new LowrankError("TEMPLATE", `The worker that renders chat templates cannot start: ${message}`);
      for (const job of this.queue.splice(0)) job.reject(error);
      return;
    }
    this.settle((job) => job.reject(new WorkerFailure(limit, message)));
  }

  private settle(done: (job: Job) => void): void {
    clearTimeout(this.timer);
    const job = this.current;
    this.current = undefined;
    if (this.queue.length === 0) this.worker?.unref();
    if (job) done(job);
    this.next();
  }
}

class WorkerFailure extends Error {
  constructor(
    readonly limit: "time" | "memory",
    message: string,
  ) {
    super(message);
  }
}
const renderer = new TemplateWorker();

/** Code that starts the worker from TypeScript (tests, examples): a worker does not inherit its host's loader. */
function fromSource(file: URL): string {
  // The worker's own code has no place of its own: a bare name would be looked for from the current folder.
  const tsx = import.meta.resolve("tsx/esm/api");
  return `import(${JSON.stringify(tsx)}).then(({ register }) => { register(); return import(${JSON.stringify(file.href)}); });`;
}

export function requestOf(conversation: Conversation): RenderRequest {
  return {
    messages: conversation.messages,
    tools: conversation.tools ?? null,
    documents: conversation.documents ?? null,
    addGenerationPrompt: conversation.addGenerationPrompt ?? false,
    continueFinalMessage: conversation.continueFinalMessage ?? false,
    variables: { ...conversation.variables },
    now: (conversation.now ?? new Date()).getTime(),
    marks: conversation.marks ?? false,
  };
}

const WHO: Record<Refusal["refusedBy"], (template: string) => string> = {
  template: (template) => `${template} refused the conversation`,
  api: () => "The conversation cannot be rendered",
  limit: (template) => `${template} was stopped at its limit of`,
  runtime: (template) => `${template} failed`,
};

function refused({ refusedBy, message, limit }: Refusal, name: string | undefined, milliseconds = 0): LowrankError {
  const who = WHO[refusedBy](`The chat template${name === undefined ? "" : ` of ${name}`}`);
  return new LowrankError("TEMPLATE", `${who}${limit ? ` ${limit}` : ""}: ${message}`, {
    details: {
      raisedBy: refusedBy,
      message,
      ...(limit && { limit, milliseconds }),
      ...(name !== undefined && { template: name }),
    },
  });
}

async function renderSome(template: string, conversations: readonly Conversation[]): Promise<(Rendered | LowrankError)[]> {
  const names = conversations.map((c) => c.templateName);
  try {
    const requests = conversations.map(requestOf);
    const results = await renderer.run({ template, requests, limits: requests.map(limitsFor) });
    return results.map((r, i) =>
      "refusedBy" in r ? refused(r, names[i], r.milliseconds) : { text: r.text, regions: r.regions },
    );
  } catch (error) {
    if (conversations.length === 1) {
      if (error instanceof WorkerFailure)
        return [refused({ refusedBy: "limit", message: error.message, limit: error.limit }, names[0])];
      if (error instanceof LowrankError && error.details.raisedBy === "api") return [error];
    } else if (error instanceof WorkerFailure || (error instanceof LowrankError && error.details.raisedBy === "api")) {
      // One of them did it: find out which, one by one.
      const single: (Rendered | LowrankError)[] = [];
      for (const c of conversations) single.push(...(await renderSome(template, [c])));
      return single;
    }
    throw error;
  }
}

/**
 * Renders many conversations with one template, as transformers' apply_chat_template does, in a worker under limits of time,
 * memory, steps and size.
 *
 * @returns for each conversation what was printed, or the error that refused it (code TEMPLATE; details.raisedBy is
 *   `template` for raise_exception, `api` for arguments that do not go together, `runtime`, or `limit` with details.limit)
 */
export async function renderChatBatch(
  template: string,
  conversations: readonly Conversation[],
): Promise<(Rendered | LowrankError)[]> {
  if (template.length > MAX_TEMPLATE_CHARS) {
    const message = `it is ${template.length} characters long, more than ${MAX_TEMPLATE_CHARS}`;
    return conversations.map((c) => refused({ refusedBy: "limit", message, limit: "size" }, c.templateName));
  }
  const out: (Rendered | LowrankError)[] = [];
  for (let i = 0; i < conversations.length; i += BATCH) {
    out.push(...(await renderSome(template, conversations.slice(i, i + BATCH))));
  }
  return out;
}

/** Renders one conversation; see {@link renderChatBatch}. @throws LowrankError TEMPLATE */
export async function renderChatTemplate(
  template: string,
  messages: readonly ChatMessage[],
  options: RenderOptions = {},
): Promise<string> {
  const [result] = await renderChatBatch(template, [{ ...options, messages }]);
  if (result instanceof LowrankError) throw result;
  return result!.text;
}
