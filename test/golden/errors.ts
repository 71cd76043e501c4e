import { largestError } from "./tensors.js";
import type { GoldenOutcome } from "./types.js";

/** Largest distances found in a case, against what is allowed. */
export class Errors {
  max = 0;
  readonly wrong: string[] = [];

  compare(name: string, got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
    const worst = largestError(got, want);
    this.max = Math.max(this.max, worst);
    if (!(worst <= tolerance)) this.wrong.push(`${name} differs by ${worst.toExponential(2)} (allowed ${tolerance})`);
  }

  /** Absolute distance; elements expected above 1 in magnitude may be off by `relative` of themselves instead. */
  compareScaled(name: string, got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number, relative: number): void {
    const allowed = (value: number) => (Math.abs(value) > 1 ? Math.max(tolerance, relative * Math.abs(value)) : tolerance);
    // In units of what each element is allowed, times the tolerance, so that errors of all cases read alike.
    const scaled = (values: ArrayLike<number>) => Array.from(values, (value, i) => (value / allowed(want[i] ?? 0)) * tolerance);
    this.compare(name, scaled(got), scaled(want), tolerance);
  }

  /** Distance relative to `want`; absolute where that is zero. */
  relative(name: string, got: number, want: number, tolerance: number): void {
    this.relativeToLargest(name, [got], [want], tolerance);
  }

  /** Distance in units of the largest absolute value expected; of 1 where that is zero. */
  relativeToLargest(name: string, got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
    let largest = 0;
    for (let i = 0; i < want.length; i++) largest = Math.max(largest, Math.abs(want[i]!));
    const unit = largest || 1;
    this.compare(
      name,
      Array.from(got, (value) => value / unit),
      Array.from(want, (value) => value / unit),
      tolerance,
    );
  }

  same(name: string, got: unknown, want: unknown): void {
    if (JSON.stringify(got) !== JSON.stringify(want))
      this.wrong.push(`${name}: got ${JSON.stringify(got)}, expected ${JSON.stringify(want)}`);
  }

  outcome(): GoldenOutcome {
    return this.wrong.length === 0
      ? { ok: true, maxError: this.max }
      : { ok: false, maxError: this.max, reason: this.wrong.slice(0, 4).join("; ") };
  }
}
