import { LowrankError } from "../errors.js";
import type { Kernels } from "../native/surface.js";
import { native } from "../tensor/native-errors.js";
import type { Tensor } from "../tensor/tensor.js";

/** Enqueues a kernel on the tensor's device; native errors come out as LowrankError. */
export function enqueue(at: Tensor, call: (kernels: Kernels, device: number) => void): void {
  native(() => call(at.device.kernels, at.device.number));
}

const words = new Map<number, Float64Array>();

/** The numbers as native code reads them within one call; the array is used again by the next. V8 allocates typed arrays slowly. */
export function wordsOf(numbers: readonly number[]): Float64Array {
  const array = words.get(numbers.length) ?? new Float64Array(numbers.length);
  words.set(numbers.length, array);
  array.set(numbers);
  return array;
}

/** Handle of a tensor that may be absent. */
export function handleOf(tensor: Tensor | undefined): number {
  return tensor?.handle ?? 0;
}

/** The error `[op] what must be rule but is actual`. Made only when a check failed: ops run too often to word it each time. */
export function mismatch(op: string, what: string, rule: string, actual: Tensor): LowrankError {
  const text = `${actual.dtype} [${actual.shape.join(", ")}]`;
  return new LowrankError("SHAPE_MISMATCH", `[${op}] ${what} must be ${rule} but is ${text}`, { details: { op, what } });
}

export function sameShape(a: Tensor, b: Tensor): boolean {
  return a.shape.length === b.shape.length && a.shape.every((n, i) => n === b.shape[i]);
}
