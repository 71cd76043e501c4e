import { isAbsolute, relative, resolve, sep } from "node:path";
import { Command } from "commander";
import { LowrankError } from "../../errors.js";
import { formatBytes } from "../../io/space.js";
import { ADAPTERS } from "../../quickstart/adapters.js";
import type { QuickstartEvent, Score } from "../../quickstart/events.js";
import { NEXT_CONFIG } from "../../quickstart/out-folder.js";
import { runQuickstart } from "../../quickstart/run.js";
import { EXIT } from "../exit.js";
import { interruptible } from "../interrupt.js";
import { integerFrom } from "../options.js";
import { formatDuration, ProgressBar, paint, print, printJson, say } from "../output.js";
import { loadingBar } from "../progress.js";

interface QuickstartFlags {
  out: string;
  seed: number;
  json?: true;
}

/** `lowrank quickstart`: the main job, on the model that is part of the package. Exit 1 when an adapter or a proof misses its goal. */
export function quickstartCommand(): Command {
  return new Command("quickstart")
    .description("train, swap, merge and examine two adapters on the embedded toy model, in under a minute")
    .option("--out <folder>", "where adapters and merged model go; new, or made by an earlier quickstart", "lowrank-quickstart")
    .option("--seed <n>", "seed of data order and adapters", integerFrom(0), 1)
    .option("--json", "print what happens, one JSON line each")
    .action(async ({ out, seed, json }: QuickstartFlags) => {
      const show = new Display(json === true);
      let saved = false;
      const onEvent = (event: QuickstartEvent) => {
        saved ||= event.type === "saved";
        show.event(event);
      };
      await interruptible("Stopping. Ctrl-C again ends at once.", async (signal) => {
        try {
          const { passed } = await runQuickstart({ out: resolve(out), seed, signal, onEvent });
          if (!passed) process.exitCode = EXIT.failed;
        } catch (error) {
          if (!signal.aborted || error !== signal.reason) throw error;
          throw new LowrankError(
            "ABORTED",
            saved ? `Interrupted; both adapters are saved in ${shown(resolve(out))}` : "Interrupted; nothing was saved",
          );
        }
      });
    });
}

const comma = (n: number) => n.toLocaleString("en-US");
const heading = (text: string) => say(`\n${paint("bold", text)}`);

/** A path as one would type it here. */
function shown(path: string): string {
  const near = relative(process.cwd(), path);
  if (near.startsWith("..") || isAbsolute(near)) return path;
  return `.${sep}${near}`;
}

/** Shows the run to a person on stderr, its table on stdout; with `json` the events on stdout instead of the table. */
class Display {
  readonly #json: boolean;
  readonly #loading = loadingBar("the model in NF4");
  #bar: ProgressBar | undefined;
  #scores: Score[] = [];

  constructor(json: boolean) {
    this.#json = json;
  }

  event(event: QuickstartEvent): void {
    if (this.#json) printJson(event);
    switch (event.type) {
      case "start":
        banner(event);
        break;
      case "load":
        this.#loading.onProgress({ phase: "load", done: event.done, total: event.total });
        break;
      case "loaded":
        this.#loading.finish();
        say(`${comma(event.parameters)} parameters in ${formatBytes(event.bytes)}: linears in NF4 with double quantisation`);
        break;
      case "answer":
        if (event.when === "before") heading(`Adapter ${event.adapter}`);
        say(`${event.when === "before" ? "Before:" : "After: "} ${event.question} → ${paint("cyan", event.answer)}`);
        break;
      case "train": {
        this.#bar ??= new ProgressBar("Training");
        const note = `step ${event.step}/${event.totalSteps} loss ${event.loss.toFixed(4)} ${formatDuration(event.etaSeconds)} left`;
        this.#bar.update(event.step / event.totalSteps, note);
        break;
      }
      case "trained": {
        const { seconds, parameters, examples, loss } = event;
        const what = `${comma(parameters)} parameters on ${comma(examples)} examples, last loss ${loss.toFixed(4)}`;
        this.#finish(`done in ${seconds.toFixed(1)} s: ${what}`);
        break;
      }
      case "exam": {
        if (!this.#bar) heading("Exams: questions that were never trained, answers must match exactly");
        this.#bar ??= new ProgressBar("Examining");
        const runs = ADAPTERS.length * (ADAPTERS.length + 1);
        this.#bar.update((this.#scores.length + event.done / event.total) / runs, `${event.variant} on ${event.exam}`);
        break;
      }
      case "score":
        this.#scores.push(event);
        break;
      case "swapped":
        this.#finish("done");
        if (!this.#json) print(scoreTable(this.#scores));
        swapped(event);
        break;
      case "base": {
        const verdict = event.equal ? "equal the base's, bit for bit" : paint("red", "differ from the base's");
        say(`With the adapters off, ${comma(event.logits)} logits ${verdict}.`);
        break;
      }
      case "saved":
        if (event.what === "adapters") heading("Merge, save, load again");
        break;
      case "merged": {
        const { adapter, total, sameAfterLoading, sameAsAdapter } = event;
        say(`${adapter} merged into 16-bit weights, saved, loaded again. Of ${total} answers of its exam`);
        say(`  ${sameAfterLoading} are the same as before saving, ${sameAsAdapter} the same as with the adapter apart.`);
        break;
      }
      case "done":
        done(event);
        break;
    }
  }

  #finish(note: string): void {
    this.#bar?.finish(note);
    this.#bar = undefined;
  }
}

function banner({ version, node, isa, threads, seed }: QuickstartEvent & { type: "start" }): void {
  say(`${paint("bold", `lowrank ${version} quickstart`)}
Loads a small chat model in 4 bits, trains two LoRA adapters on it, swaps them, merges one, saves everything.
It is a toy: 1.8 million parameters that know 48 made-up people. The way is the one a real model takes.
Node.js ${node}, ${isa} kernels, ${threads} threads, seed ${seed}
`);
}

function swapped({ comparisons, swaps, swapMicroseconds }: QuickstartEvent & { type: "swapped" }): void {
  heading(`One model in memory, its adapters swapped ${swaps} times in ${swapMicroseconds.toFixed(0)} µs each`);
  for (const { question, answers } of comparisons) {
    say(question);
    for (const [variant, answer] of Object.entries(answers)) say(`  ${variant.padEnd(9)} ${paint("cyan", answer)}`);
  }
}

function done({ passed, failures, seconds, folder }: QuickstartEvent & { type: "done" }): void {
  const at = shown(folder);
  say(`
${paint("bold", `Saved in ${at}`)}
  identity, sailor   the adapters, in PEFT's format
  merged             the whole model with sailor merged, in Hugging Face's format
  ${NEXT_CONFIG}    the same job for a real model

${passed ? paint("green", `All goals met in ${seconds.toFixed(0)} s.`) : paint("red", `Missed after ${seconds.toFixed(0)} s:\n- ${failures.join("\n- ")}`)}

Talk to it:          npx lowrank chat --model lowrank/tiny --adapter ${at}${sep}sailor
Next, a real model:  npx lowrank train ${at}${sep}${NEXT_CONFIG}`);
}

/** Exact matches: a row an exam, a column a variant. */
export function scoreTable(scores: readonly Score[]): string {
  const cell = (exam: string, variant: string) => {
    const score = scores.find((s) => s.exam === exam && s.variant === variant);
    return score ? `${((100 * score.right) / score.total).toFixed(1)} %` : "";
  };
  const rows = [
    ["exact match", "questions", "base", "own adapter", "other adapter"],
    ...ADAPTERS.map((exam) => {
      const other = ADAPTERS.find((name) => name !== exam)!;
      const { total } = scores.find((s) => s.exam === exam)!;
      return [`${exam} exam`, String(total), cell(exam, "base"), cell(exam, exam), cell(exam, other)];
    }),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) => row.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  "))
    .join("\n");
}
