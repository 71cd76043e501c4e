import { parentPort } from "node:worker_threads";
import { threadMilliseconds } from "./clock.js";
import { type LimitName, type RenderLimits, TemplateLimitError, TemplateRaised } from "./limits.js";
import { RenderArgumentError, type Rendered, type RenderRequest, render } from "./render.js";

/** Who refused: the template by raise_exception, the arguments, the limits, or the template by failing. */
export type RefusedBy = "template" | "api" | "limit" | "runtime";
export interface Refusal {
  refusedBy: RefusedBy;
  message: string;
  limit?: LimitName;
}
/** What came of one request, and the processor's time it took. */
export type WorkerResult = (Rendered | Refusal) & { milliseconds: number };
export interface WorkerJob {
  template: string;
  requests: RenderRequest[];
  /** One for each request. */
  limits: RenderLimits[];
}

function refusal(error: unknown): Refusal {
  const { message } = error as Error;
  if (error instanceof TemplateRaised) return { refusedBy: "template", message };
  if (error instanceof RenderArgumentError) return { refusedBy: "api", message };
  if (error instanceof TemplateLimitError) return { refusedBy: "limit", message, limit: error.limit };
  if (error instanceof RangeError) return { refusedBy: "limit", message: `it is nested too deeply (${message})`, limit: "depth" };
  return { refusedBy: "runtime", message };
}

/** Renders every request of a job; what one of them throws is its own result. */
export function answer(job: WorkerJob): WorkerResult[] {
  return job.requests.map((request, i) => {
    const began = threadMilliseconds();
    let result: Rendered | Refusal;
    try {
      result = render(job.template, request, job.limits[i]!);
    } catch (error) {
      result = refusal(error);
    }
    return { ...result, milliseconds: threadMilliseconds() - began };
  });
}

parentPort?.on("message", (job: WorkerJob) => parentPort?.postMessage(answer(job)));
// The host waits for this: starting up does not count against a template's time.
parentPort?.postMessage("ready");
