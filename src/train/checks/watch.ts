import { type Finding, finding } from "./finding.js";

/** What the watch sees of a step. */
export interface WatchedStep {
  step: number;
  loss: number;
  gradNorm: number;
  lr: number;
  targetTokens: number;
}

/** Steps of a window, and the targets it holds at least: the loss of a few tokens says little. */
const WINDOW_STEPS = 3;
const WINDOW_TARGETS = 100;
const START_TARGETS = 30;
/** A rise that is no noise: this much in nats, and this share of the way to a model that guesses. */
const RISE = 1.5;
const WAY_TO_GUESSING = 0.5;
const EXPLODED = 100;
/** Steps at either end of a run that are compared, and the standard errors that they must differ by. */
const LEAST_COMPARED = 5;
const MOST_COMPARED = 50;
const STANDARD_ERRORS = 4;
/** A median absolute deviation times this is the standard deviation of a normal distribution. */
const MAD_TO_DEVIATION = 1.4826;

/**
 * Watches a run for a learning rate that is too high.
 *
 * `diverging`: every one of the last steps (at least 3, with at least 100 targets) has a loss above start + max(1.5, (ln V − start) / 2), where V is
 * the vocabulary, ln V the loss of guessing, and start the lower of the first step's loss (of the first 30 targets) and the mean of the first window; and their mean is above start + 4 standard deviations of the steps before, where there are 5.
 * `gradient-exploding`: every one of them has a gradient norm above 100 times the median of the first window.
 */
export class LossWatch {
  readonly #guessing: number;
  readonly #steps: WatchedStep[] = [];
  readonly #said = new Set<string>();
  #start: { loss: number; gradNorm: number } | undefined;

  constructor(vocabSize: number) {
    this.#guessing = Math.log(vocabSize);
  }

  /** Takes a finite step; returns what it shows for the first time. */
  see(step: WatchedStep): Finding[] {
    if (step.targetTokens === 0) return [];
    this.#steps.push(step);
    const window = this.#window();
    if (!window) return [];
    this.#start ??= {
      loss: Math.min(meanLoss(this.#untouched()), meanLoss(window)),
      gradNorm: median(window.map(({ gradNorm }) => gradNorm)),
    };
    const { loss: start, gradNorm } = this.#start;
    const limit = start + Math.max(RISE, WAY_TO_GUESSING * (this.#guessing - start));
    const found: Finding[] = [];
    // The first step ran before any change, so it is no sign of one.
    const later = window.filter((seen) => seen !== this.#steps[0]);
    if (
      later.length >= WINDOW_STEPS &&
      later.every(({ loss }) => loss > limit) &&
      meanLoss(later) > start + this.#noise(later.length)
    )
      found.push(
        finding(
          "warning",
          "diverging",
          `Step ${step.step}: the loss rose from ${start.toFixed(2)} to ${meanLoss(later).toFixed(2)} and stays there (guessing gives ${this.#guessing.toFixed(2)}): the training diverges`,
          `Stop, and lower the learning rate (now ${step.lr.toPrecision(2)}) to a tenth or less, or warm up longer.`,
        ),
      );
    if (gradNorm > 0 && later.length >= WINDOW_STEPS && later.every((seen) => seen.gradNorm > EXPLODED * gradNorm))
      found.push(
        finding(
          "warning",
          "gradient-exploding",
          `Step ${step.step}: the gradient's norm stays above ${EXPLODED} times that of the start (${step.gradNorm.toPrecision(3)} against ${gradNorm.toPrecision(3)})`,
          `Lower the learning rate (now ${step.lr.toPrecision(2)}), and keep max_grad_norm at 1 or below.`,
        ),
      );
    return found.filter(({ code }) => !this.#said.has(code) && this.#said.add(code));
  }

  /** At the end: the loss is above that of the start by more than chance. */
  atEnd(): Finding[] {
    const n = Math.min(MOST_COMPARED, Math.floor(this.#steps.length / 3));
    if (n < LEAST_COMPARED || this.#said.has("diverging")) return [];
    const [first, last] = [this.#steps.slice(0, n), this.#steps.slice(-n)];
    const difference = meanLoss(last) - meanLoss(first);
    if (difference <= STANDARD_ERRORS * Math.sqrt(squaredError(first) + squaredError(last))) return [];
    return [
      finding(
        "warning",
        "loss-above-start",
        `The loss ended at ${meanLoss(last).toFixed(3)}, above the ${meanLoss(first).toFixed(3)} it started from (means of ${n} steps)`,
        "Lower the learning rate; without shuffling, later rows may just be harder.",
      ),
    ];
  }

  /** What chance explains: some standard deviations of single steps, by the median of the first ones, so that a rise among them counts little. */
  #noise(window: number): number {
    const before = this.#steps.slice(0, Math.min(this.#steps.length - window, MOST_COMPARED)).map(({ loss }) => loss);
    if (before.length < LEAST_COMPARED) return 0;
    const middle = median(before);
    return STANDARD_ERRORS * MAD_TO_DEVIATION * median(before.map((loss) => Math.abs(loss - middle)));
  }

  /** The first step, before anything was changed, or as many as it takes for some targets. */
  #untouched(): WatchedStep[] {
    let targets = 0;
    const until = this.#steps.findIndex((step) => {
      targets += step.targetTokens;
      return targets >= START_TARGETS;
    });
    return this.#steps.slice(0, until + 1);
  }

  /** The last steps that are enough to judge by, or undefined. */
  #window(): WatchedStep[] | undefined {
    let targets = 0;
    for (let i = this.#steps.length - 1; i >= 0; i--) {
      targets += this.#steps[i]!.targetTokens;
      const steps = this.#steps.length - i;
      if (steps >= WINDOW_STEPS && targets >= WINDOW_TARGETS) return this.#steps.slice(i);
    }
    return undefined;
  }
}

/** By target tokens. */
function meanLoss(steps: readonly WatchedStep[]): number {
  const targets = steps.reduce((sum, { targetTokens }) => sum + targetTokens, 0);
  return steps.reduce((sum, { loss, targetTokens }) => sum + loss * targetTokens, 0) / targets;
}

/** Of the mean, from the spread of the steps. */
function squaredError(steps: readonly WatchedStep[]): number {
  const mean = meanLoss(steps);
  return steps.reduce((sum, { loss }) => sum + (loss - mean) ** 2, 0) / (steps.length * (steps.length - 1));
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
