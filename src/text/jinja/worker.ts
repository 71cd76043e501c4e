import { parentPort } from "node:worker_threads";
import type { RenderLimits } from "./interpreter.js";
import { RenderArgumentError, type Rendered, type RenderRequest, render } from "./render.js";
import { TemplateLimitError, TemplateRaised } from "./values.js";

/** Who refused: the template by raise_exception, the arguments, the limits, or the template by failing. */
export type RefusedBy = "template" | "api" | "limit" | "runtime";
export type WorkerResult = Rendered | { refusedBy: RefusedBy; message: string };
export interface WorkerJob {
  template: string;
  requests: RenderRequest[];
  limits: RenderLimits;
}

function refusal(error: unknown): WorkerResult {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof TemplateRaised) return { refusedBy: "template", message };
  if (error instanceof RenderArgumentError) return { refusedBy: "api", message };
  if (error instanceof TemplateLimitError) return { refusedBy: "limit", message };
  if (error instanceof RangeError)
    return { refusedBy: "limit", message: `it is nested too deeply or makes too much text (${message})` };
  return { refusedBy: "runtime", message };
}

parentPort?.on("message", (job: WorkerJob) => {
  const results = job.requests.map((request): WorkerResult => {
    try {
      return render(job.template, request, job.limits);
    } catch (error) {
      return refusal(error);
    }
  });
  parentPort?.postMessage(results);
});
// The host waits for this: starting up does not count against a template's time.
parentPort?.postMessage("ready");
