/** What the host does when the thread that renders templates misbehaves: a thread of the test's own stands in for it. */
import { EventEmitter } from "node:events";
import { beforeEach, expect, it, vi } from "vitest";
import { LowrankError } from "../../src/errors.js";
import type { WorkerJob } from "../../src/text/jinja/worker.js";

class FakeWorker extends EventEmitter {
  static readonly started: FakeWorker[] = [];
  /** What the next threads do with a job; they come up unless it is undefined. */
  static behave: ((worker: FakeWorker, job: WorkerJob) => void) | undefined;
  readonly answered: WorkerJob[] = [];
  terminated = false;

  constructor() {
    super();
    FakeWorker.started.push(this);
    if (FakeWorker.behave) queueMicrotask(() => this.emit("message", "ready"));
    else queueMicrotask(() => this.emit("error", new Error("no stack")));
  }
  postMessage(job: WorkerJob) {
    this.answered.push(job);
    queueMicrotask(() => FakeWorker.behave!(this, job));
  }
  ref() {}
  unref() {}
  terminate() {
    this.terminated = true;
  }
}

vi.mock("node:worker_threads", () => ({ Worker: FakeWorker, parentPort: null }));
const { renderChatBatch, renderChatTemplate } = await import("../../src/text/chat-template.js");

const say = (content: string) => ({ messages: [{ role: "user", content }] });
const honest = (worker: FakeWorker, { requests }: WorkerJob) =>
  worker.emit(
    "message",
    requests.map((r) => ({ text: String(r.messages[0]!.content), regions: [], milliseconds: 0 })),
  );
const outOfMemory = Object.assign(new Error("heap"), { code: "ERR_WORKER_OUT_OF_MEMORY" });

/** Dies at a conversation "bad", with the error given. */
const dying = (error: Error) => (worker: FakeWorker, job: WorkerJob) => {
  if (job.requests.some((r) => r.messages[0]!.content === "bad")) worker.emit("error", error);
  else honest(worker, job);
};

beforeEach(() => {
  FakeWorker.started.length = 0;
});

it("finds out which of many conversations ended the thread, and renders the others", async () => {
  for (const [error, limit] of [
    [outOfMemory, "memory"],
    [new Error("stack"), "time"],
  ] as const) {
    FakeWorker.behave = dying(error);
    const results = await renderChatBatch("t", [say("a"), say("bad"), say("b")]);
    expect(results).toMatchObject([{ text: "a" }, { code: "TEMPLATE", details: { raisedBy: "limit", limit } }, { text: "b" }]);
  }
  expect(FakeWorker.started.some((worker) => worker.terminated)).toBe(true);
});

it("ends a thread that does not answer, and does not hear it any more", async () => {
  vi.useFakeTimers();
  let silent: FakeWorker | undefined;
  FakeWorker.behave = (worker) => {
    silent = worker;
    vi.advanceTimersByTime(60_000);
  };
  try {
    expect(await renderChatBatch("t", [say("a")])).toMatchObject([{ details: { raisedBy: "limit", limit: "time" } }]);
  } finally {
    vi.useRealTimers();
  }
  expect(silent!.terminated).toBe(true);
  FakeWorker.behave = (worker, job) => {
    silent!.emit("message", [{ text: "late", regions: [], milliseconds: 0 }]);
    silent!.emit("error", new Error("late"));
    honest(worker, job);
  };
  expect(await renderChatTemplate("t", say("b").messages)).toBe("b");
});

it("refuses everything that waits when the thread cannot start", async () => {
  FakeWorker.behave = (worker) => worker.emit("error", new Error("gone"));
  await renderChatBatch("t", [say("a")]); // no thread is left
  FakeWorker.behave = undefined;
  const error = { code: "TEMPLATE", message: expect.stringContaining("cannot start: no stack") };
  for (const waiting of [renderChatBatch("t", [say("a")]), renderChatBatch("t", [say("b"), say("c")])])
    await expect(waiting).rejects.toMatchObject(error);
  FakeWorker.behave = honest;
  expect(await renderChatTemplate("t", say("d").messages)).toBe("d");
});

it("refuses what is no data before the thread sees it, also an object without a constructor", async () => {
  FakeWorker.behave = honest;
  const strange = Object.create(null, { [Symbol.toStringTag]: { value: "Odd" } });
  const [refused] = await renderChatBatch("t", [{ messages: [{ role: "user", content: strange }] }]);
  expect(refused).toBeInstanceOf(LowrankError);
  expect(refused).toMatchObject({ details: { raisedBy: "api", message: "it holds a strange object" } });
});
