/** Something a template does that Python's Jinja refuses too, or that this renderer does not do. */
export class TemplateRuntimeError extends Error {}
/** The template itself called raise_exception. */
export class TemplateRaised extends Error {}
export type LimitName = "work" | "depth" | "time" | "memory" | "size" | "number";
/** The template used more than it is given. */
export class TemplateLimitError extends Error {
  constructor(
    readonly limit: LimitName,
    message: string,
  ) {
    super(message);
  }
}

/** What one rendering may use. */
export interface RenderLimits {
  /** Units of work. One is at most one node evaluated, one value made or 32 characters of text touched: time and memory both follow. */
  work: number;
  /** Time on the processor, in milliseconds: ends only what the count of work fails to see. */
  milliseconds: number;
}

const CHECK = 1 << 14;

/** Counts what the rendering of the moment has used. Everything that costs time or memory pays here before it is done. */
class Meter {
  private limits: RenderLimits = { work: Number.POSITIVE_INFINITY, milliseconds: Number.POSITIVE_INFINITY };
  private used = 0;
  private nextCheck = CHECK;
  private clock: () => number = () => 0;
  private began = 0;

  start(limits: RenderLimits, clock: () => number): void {
    this.limits = limits;
    this.used = 0;
    this.nextCheck = CHECK;
    this.clock = clock;
    this.began = clock();
  }

  stop(): void {
    this.limits = { work: Number.POSITIVE_INFINITY, milliseconds: Number.POSITIVE_INFINITY };
  }

  spend(units: number): void {
    this.used += units;
    // Written so that a count that is not a number is refused too.
    if (!(this.used <= this.limits.work))
      throw new TemplateLimitError("work", `it needs more than ${this.limits.work} units of work`);
    if (this.used < this.nextCheck) return;
    this.nextCheck = this.used + CHECK;
    if (this.clock() - this.began > this.limits.milliseconds)
      throw new TemplateLimitError("time", `it ran for more than ${this.limits.milliseconds} ms`);
  }

  /** Pays for reading or making a text of so many characters. */
  text(characters: number): void {
    this.spend(1 + characters / 32);
  }
}

export const meter = new Meter();

/** Python's default: JSON and calls nested deeper than this are a RecursionError there too. */
export const MAX_DEPTH = 200;
