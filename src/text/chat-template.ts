import { Worker } from "node:worker_threads";
import { LowrankError } from "../errors.js";
import type { RenderLimits } from "./jinja/interpreter.js";
import { hasGenerationMarks, type Rendered, type RenderRequest } from "./jinja/render.js";
import type { WorkerJob, WorkerResult } from "./jinja/worker.js";

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
}

export interface Conversation extends RenderOptions {
  messages: readonly ChatMessage[];
}

const MAX_TEMPLATE_CHARS = 256 * 1024;
const BATCH = 64;
/** Longest time one rendering may take on a quiet machine is far below this; it only ends what hangs. */
const MILLISECONDS = 1000;

/** Characters of all texts inside a value. */
function sizeOf(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 8;
  return Object.entries(value).reduce((n, [key, x]) => n + key.length + sizeOf(x), 8);
}

/** Limits of one rendering: a base, and a share for the size of the largest conversation. */
function limitsFor(requests: RenderRequest[]): RenderLimits {
  const chars = Math.max(...requests.map((r) => sizeOf([r.messages, r.tools, r.documents, r.variables])));
  return { steps: 200_000 + 8 * chars, outputChars: 1_000_000 + 16 * chars, milliseconds: MILLISECONDS };
}

type Job = { work: WorkerJob; resolve: (results: WorkerResult[]) => void; reject: (error: Error) => void };

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
    const patience = work.limits.milliseconds * work.requests.length + 500;
    this.timer = setTimeout(() => this.fail(`it ran for more than ${work.limits.milliseconds} ms`), patience);
    this.worker.postMessage(work);
  }

  private start(): Worker {
    const options = {
      resourceLimits: { maxOldGenerationSizeMb: 96, maxYoungGenerationSizeMb: 16, stackSizeMb: 4 },
      execArgv: [],
    };
    const worker = import.meta.url.endsWith(".ts")
      ? new Worker(fromSource(new URL("./jinja/worker.ts", import.meta.url)), { ...options, eval: true })
      : new Worker(new URL("./jinja/worker.js", import.meta.url), options);
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
      this.fail(error.code === "ERR_WORKER_OUT_OF_MEMORY" ? "it used too much memory" : error.message);
    });
    return worker;
  }

  /** Ends the worker and refuses the job it was at; all jobs if it never came up. */
  private fail(message: string): void {
    const { worker, ready } = this;
    this.worker = undefined;
    this.ready = false;
    void worker?.terminate();
    if (!ready) {
      const error = new LowrankError("TEMPLATE", `The worker that renders chat templates cannot start: ${message}`);
      for (const job of this.queue.splice(0)) job.reject(error);
      return;
    }
    this.settle((job) => job.reject(new WorkerFailure(message)));
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

class WorkerFailure extends Error {}
const renderer = new TemplateWorker();

/** Code that starts the worker from TypeScript (tests, examples): a worker does not inherit its host's loader. */
function fromSource(file: URL): string {
  // The worker's own code has no place of its own: a bare name would be looked for from the current folder.
  const tsx = import.meta.resolve("tsx/esm/api");
  return `import(${JSON.stringify(tsx)}).then(({ register }) => { register(); return import(${JSON.stringify(file.href)}); });`;
}

function request(conversation: Conversation): RenderRequest {
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

const WHO: Record<string, string> = {
  template: "The chat template refused the conversation",
  api: "The conversation cannot be rendered",
  limit: "The chat template was stopped",
  runtime: "The chat template failed",
};

function refused(by: string, message: string): LowrankError {
  return new LowrankError("TEMPLATE", `${WHO[by]}: ${message}`, { details: { raisedBy: by, message } });
}

async function renderSome(template: string, requests: RenderRequest[]): Promise<(Rendered | LowrankError)[]> {
  try {
    const results = await renderer.run({ template, requests, limits: limitsFor(requests) });
    return results.map((r) => ("refusedBy" in r ? refused(r.refusedBy, r.message) : r));
  } catch (error) {
    if (!(error instanceof WorkerFailure)) throw error;
    if (requests.length === 1) return [refused("limit", error.message)];
    // One of them did it: find out which, one by one.
    const single: (Rendered | LowrankError)[] = [];
    for (const r of requests) single.push(...(await renderSome(template, [r])));
    return single;
  }
}

/**
 * Renders many conversations with one template, as transformers' apply_chat_template does, in a worker under limits of time,
 * memory, steps and size.
 *
 * @returns for each conversation what was printed, or the error that refused it (code TEMPLATE; details.raisedBy is
 *   `template` for raise_exception, `api` for arguments that do not go together, `runtime` or `limit`)
 */
export async function renderChatBatch(
  template: string,
  conversations: readonly Conversation[],
): Promise<(Rendered | LowrankError)[]> {
  if (template.length > MAX_TEMPLATE_CHARS) {
    throw new LowrankError(
      "TEMPLATE",
      `The chat template is ${template.length} characters long; the limit is ${MAX_TEMPLATE_CHARS}`,
    );
  }
  const out: (Rendered | LowrankError)[] = [];
  for (let i = 0; i < conversations.length; i += BATCH) {
    out.push(...(await renderSome(template, conversations.slice(i, i + BATCH).map(request))));
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
