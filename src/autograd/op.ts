import type { Tensor } from "../tensor/tensor.js";
import { activeTape, type Sink } from "./tape.js";

/** Inputs of an op by name: tensors, lists of tensors, or absent. */
export type OpInputs = Readonly<Record<string, Tensor | readonly (Tensor | undefined)[] | undefined>>;

export interface OpSpec<I extends OpInputs, A, S, R extends Tensor | Tensor[]> {
  name: string;
  /**
   * Validates, allocates outputs and enqueues. What backward needs is handed to `save`; every tensor in it stays alive until then.
   * `recording` tells whether a backward can follow, so that forward need not keep what only it reads.
   */
  forward(inputs: I, attrs: A, save: (saved: S) => void, recording: boolean): R;
  /** Enqueues the gradients of the inputs that `sink.needs` wants. dys[i] is undefined when output i did not reach the loss. */
  backward(dys: readonly (Tensor | undefined)[], saved: S, sink: Sink, inputs: I, attrs: A): void;
}

/**
 * Makes a differentiable function of a forward and its hand-derived backward. This is how all built-in ops are made, and how users
 * write new losses and modules.
 */
export function defineOp<I extends OpInputs, A, S, R extends Tensor | Tensor[]>(
  spec: OpSpec<I, A, S, R>,
): (inputs: I, attrs: A) => R {
  return (inputs, attrs) => {
    const tape = activeTape();
    const recording = tape !== undefined && anyNeedsGrad(inputs);
    let saved: S | undefined;
    const result = spec.forward(
      inputs,
      attrs,
      (s) => {
        saved = s;
      },
      recording,
    );
    if (recording) {
      // A copy: the caller may put other tensors into the list it gets.
      const outputs: readonly Tensor[] = isTensor(result) ? [result] : [...(result as Tensor[])];
      for (const y of outputs) y.requiresGrad = true;
      tape.add({
        name: spec.name,
        outputs,
        saved: tensorsIn(saved),
        backward: (dys, sink) => spec.backward(dys, saved as S, sink, inputs, attrs),
      });
    }
    return result;
  };
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === "object" && value !== null && "handle" in value && "requiresGrad" in value;
}

function anyNeedsGrad(inputs: OpInputs): boolean {
  for (const key in inputs) {
    const value = inputs[key];
    if (value === undefined) continue;
    if (isTensor(value)) {
      if (value.requiresGrad) return true;
    } else for (const tensor of value) if (tensor?.requiresGrad) return true;
  }
  return false;
}

/** Tensors in a saved value: itself, or one level of a plain object or array, lists inside included. */
function tensorsIn(saved: unknown): Tensor[] {
  if (isTensor(saved)) return [saved];
  if (typeof saved !== "object" || saved === null) return [];
  const found: Tensor[] = [];
  for (const value of Object.values(saved) as unknown[]) {
    if (isTensor(value)) found.push(value);
    else if (Array.isArray(value)) for (const item of value) if (isTensor(item)) found.push(item);
  }
  return found;
}
