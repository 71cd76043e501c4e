import { LowrankError } from "../errors.js";
import type { Tensor } from "./tensor.js";

/** The tensors that the innermost open scope frees when it ends. */
let current: Set<Tensor> | undefined;

/** Called for every new tensor: the open scope, if any, owns it. */
export function adopt(tensor: Tensor): Set<Tensor> | undefined {
  current?.add(tensor);
  return current;
}

/**
 * Runs `body` and frees every tensor it made, except those in its result (a tensor, or arrays and plain objects of
 * them), which go to the enclosing scope or the caller. What the tape saved stays alive until the backward pass.
 * Synchronous: an ordered stream needs no waiting inside, and a scope left by `await` would own other code's tensors.
 */
export function scope<T>(body: () => T): T {
  const outer = current;
  const own = new Set<Tensor>();
  current = own;
  let result: T;
  try {
    result = body();
    if (result instanceof Promise)
      throw new LowrankError("INVALID_ARGUMENT", "[scope] the body must be synchronous, it returned a promise");
  } catch (error) {
    current = outer;
    for (const tensor of own) tensor.dispose();
    throw error;
  }
  current = outer;
  const kept = new Set<object>();
  collect(result, kept);
  for (const tensor of own) {
    if (kept.has(tensor)) tensor.moveTo(outer);
    else tensor.dispose();
  }
  return result;
}

/** Runs `body` outside every scope: what it makes lives until it is disposed. */
export function detached<T>(body: () => T): T {
  const outer = current;
  current = undefined;
  try {
    return body();
  } finally {
    current = outer;
  }
}

function collect(value: unknown, into: Set<object>): void {
  if (typeof value !== "object" || value === null || into.has(value)) return;
  into.add(value);
  if (Array.isArray(value)) for (const item of value) collect(item, into);
  else if (Object.getPrototypeOf(value) === Object.prototype) for (const item of Object.values(value)) collect(item, into);
}
