/** The main job on the embedded model, step by step; `lowrank quickstart` prints what it reports. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import type { CausalLM } from "../models/causal-lm.js";
import { EMBEDDED_MODEL } from "../models/embedded.js";
import { AutoModelForCausalLM } from "../models/registry.js";
import { countBase } from "../peft/count.js";
import { PeftModel } from "../peft/peft-model.js";
import { getDevice } from "../tensor/device.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { ADAPTERS, type AdapterName, adapterExam, type QuestionAnswer } from "./adapters.js";
import { answerAll, promptIds, readLogits, sameBytes } from "./answer.js";
import type { Comparison, QuickstartEvent, QuickstartResult, Score, Variant } from "./events.js";
import { examine } from "./examine.js";
import { assertMayWrite, saveAdapters } from "./out-folder.js";
import { trainAdapter } from "./train-adapter.js";

export interface QuickstartOptions {
  /** Folder that adapters and the merged model are saved to. */
  out: string;
  /** Default 1. */
  seed?: number | undefined;
  /** Folder or id of another model of the embedded one's kind (default `lowrank/tiny`). */
  model?: string | undefined;
  /** Steps of each adapter's training (default: the recipe's). */
  maxSteps?: number | undefined;
  signal?: AbortSignal | undefined;
  onEvent: (event: QuickstartEvent) => void;
}

/** Share of its own exam that each adapter must answer exactly. */
export const PASS_MARK = 0.9;
/** The adapter that is merged. */
const MERGED: AdapterName = "sailor";
const VARIANTS: readonly Variant[] = ["base", ...ADAPTERS];

/**
 * Loads the model in NF4, trains both adapters, examines base and adapters, swaps, compares the base's logits, saves, merges, and
 * examines the merged model once it is loaded again. Deterministic for a seed and an instruction set. Missing a goal is a result, not an error.
 * @throws INVALID_ARGUMENT when `out` holds other files; the signal's reason.
 */
export async function runQuickstart(options: QuickstartOptions): Promise<QuickstartResult> {
  const started = performance.now();
  const { out, seed = 1, model: source = EMBEDDED_MODEL, signal, onEvent } = options;
  const version = packageVersion();
  const { isa, threads } = getDevice().info;
  onEvent({ type: "start", version, node: process.version, isa, threads, seed, model: source, out });
  await assertMayWrite(out);

  const model = await load(source, options);
  await using peft = new PeftModel(model);
  const tokenizer = await tokenizerOf(model);
  const examiner = new Examiner(model, tokenizer, options);
  const probe = await promptIds(
    tokenizer,
    ADAPTERS.flatMap((adapter) => adapterExam(adapter).slice(0, 8)).map((row) => row.question),
  );
  const logits = await readLogits(model, probe);

  for (const adapter of ADAPTERS) {
    const { question } = adapterExam(adapter)[0]!;
    const say = async (when: "before" | "after") => {
      const [answer = ""] = await examiner.answer([question], when === "before" ? "base" : adapter);
      onEvent({ type: "answer", adapter, when, question, answer });
    };
    await say("before");
    const onStep = ({ step, totalSteps, loss, tokensPerSecond, etaSeconds }: TrainFigures) =>
      onEvent({ type: "train", adapter, step, totalSteps, loss, tokensPerSecond, etaSeconds });
    const trained = await trainAdapter(peft, tokenizer, adapter, { seed, maxSteps: options.maxSteps, signal, onStep });
    onEvent({ type: "trained", adapter, ...trained });
    await say("after");
  }

  const scores: Score[] = [];
  for (const exam of ADAPTERS) for (const variant of VARIANTS) scores.push((await examiner.examine(exam, variant)).score);
  onEvent({ type: "swapped", ...(await swap(peft, signal)) });
  const equal = await baseIsUntouched(peft, probe, logits);
  onEvent({ type: "base", equal, logits: logits.length });
  await saveAdapters(out, peft, { version, seed, isa, scores });
  onEvent({ type: "saved", what: "adapters", folder: out });
  const merged = await mergeAndReload(peft, examiner, options);
  onEvent({ type: "merged", adapter: MERGED, ...merged });

  const failures = [...missedGoals(scores)];
  if (!equal) failures.push("With the adapters off, the logits differ from the base's.");
  if (merged.sameAfterLoading < merged.total)
    failures.push(`The merged model, saved and loaded, gave ${merged.sameAfterLoading} of ${merged.total} answers unchanged.`);
  const result = { passed: failures.length === 0, failures, scores, seconds: (performance.now() - started) / 1000, folder: out };
  onEvent({ type: "done", ...result });
  return result;
}

type TrainFigures = Pick<QuickstartEvent & { type: "train" }, "step" | "totalSteps" | "loss" | "tokensPerSecond" | "etaSeconds">;

function packageVersion(): string {
  return (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }).version;
}

async function load(source: string, { signal, onEvent }: QuickstartOptions): Promise<CausalLM> {
  const started = performance.now();
  const model = await AutoModelForCausalLM.fromPretrained(source, {
    loadIn4bit: true,
    ...(signal && { signal }),
    onProgress: (progress) => {
      if (progress.phase === "load") onEvent({ type: "load", done: progress.done, total: progress.total });
    },
  });
  const seconds = (performance.now() - started) / 1000;
  onEvent({ type: "loaded", parameters: countBase(model), bytes: model.device.memory.live, seconds });
  return model;
}

async function tokenizerOf(model: CausalLM): Promise<Tokenizer> {
  const tokenizer = await model.tokenizer();
  if (!tokenizer)
    throw new LowrankError("NOT_FOUND", `${model.nameOrPath} has no tokenizer`, { hint: "Give the folder of a whole model." });
  return tokenizer;
}

/** Asks one model, with one of its adapters or none. */
class Examiner {
  readonly #model: CausalLM;
  readonly #tokenizer: Tokenizer;
  readonly #options: QuickstartOptions;

  constructor(model: CausalLM, tokenizer: Tokenizer, options: QuickstartOptions) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#options = options;
  }

  answer(questions: readonly string[], variant: Variant): Promise<string[]> {
    const adapter = variant === "base" ? null : variant;
    return answerAll(this.#model, this.#tokenizer, questions, { adapter, signal: this.#options.signal });
  }

  async examine(exam: AdapterName, variant: Variant): Promise<{ score: Score; answers: string[] }> {
    const { signal, onEvent } = this.#options;
    const answers: string[] = [];
    const ask = async (questions: readonly string[]) => {
      const batch = await this.answer(questions, variant);
      answers.push(...batch);
      return batch;
    };
    const onProgress = ({ done, total }: { done: number; total: number }) =>
      onEvent({ type: "exam", exam, variant, done, total });
    const { right, total } = await examine(adapterExam(exam), ask, { signal, onProgress });
    const score = { exam, variant, right, total };
    onEvent({ type: "score", ...score });
    return { score, answers };
  }
}

/** Asks one question of each exam of all variants, by switching the adapters of the one loaded model. */
async function swap(peft: PeftModel<CausalLM>, signal: AbortSignal | undefined) {
  const generate = async (question: string) =>
    (
      await peft.generate([{ role: "user", content: question }], { doSample: false, maxNewTokens: 32, ...(signal && { signal }) })
    ).trim();
  const times: number[] = [];
  const comparisons: Comparison[] = [];
  for (const exam of ADAPTERS) {
    const { question } = adapterExam(exam)[0] as QuestionAnswer;
    const answers = {} as Record<Variant, string>;
    {
      using _off = peft.disableAdapter();
      answers.base = await generate(question);
    }
    for (const adapter of ADAPTERS) {
      const started = performance.now();
      peft.setAdapter(adapter);
      times.push((performance.now() - started) * 1000);
      answers[adapter] = await generate(question);
    }
    comparisons.push({ question, answers });
  }
  times.sort((a, b) => a - b);
  return { comparisons, swaps: times.length, swapMicroseconds: times[times.length >> 1]! };
}

async function baseIsUntouched(peft: PeftModel<CausalLM>, probe: readonly number[][], logits: Float32Array): Promise<boolean> {
  using _off = peft.disableAdapter();
  return sameBytes(logits, await readLogits(peft.base, probe));
}

/**
 * Merges one adapter into 16-bit weights (no second rounding to 4 bits), saves the model, loads it again and compares the answers of its
 * exam: loaded with saved, and merged with unmerged. The adapters are gone afterwards.
 */
async function mergeAndReload(peft: PeftModel<CausalLM>, examiner: Examiner, options: QuickstartOptions) {
  const questions = adapterExam(MERGED).map((row) => row.question);
  const { signal, onEvent, out } = options;
  const apart = await examiner.answer(questions, MERGED);
  peft.setAdapter(MERGED);
  const model = await peft.mergeAndUnload({ dtype: "bfloat16" });
  const before = await examiner.answer(questions, "base");
  const folder = join(out, "merged");
  await model.savePretrained(folder, signal && { signal });
  onEvent({ type: "saved", what: "merged", folder });
  await using again = await AutoModelForCausalLM.fromPretrained(folder, signal && { signal });
  const loaded = await answerAll(again, await tokenizerOf(again), questions, { adapter: null, signal });
  const right = adapterExam(MERGED).filter((row, i) => row.answer === loaded[i]).length;
  const same = (a: readonly string[], b: readonly string[]) => a.filter((answer, i) => answer === b[i]).length;
  return { total: questions.length, right, sameAfterLoading: same(before, loaded), sameAsAdapter: same(apart, loaded) };
}

function* missedGoals(scores: readonly Score[]): Generator<string> {
  for (const { exam, variant, right, total } of scores) {
    if (variant === exam && right / total < PASS_MARK)
      yield `The adapter ${exam} answered ${right} of ${total} exactly, ${((100 * right) / total).toFixed(1)} %; the goal is ${100 * PASS_MARK} %.`;
  }
}
