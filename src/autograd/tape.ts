import { LowrankError } from "../errors.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";

/** Where a backward function puts gradients. */
export interface Sink {
  /** Whether the gradient of this input is wanted. */
  needs(input: Tensor | undefined): boolean;
  /**
   * The tensor to write the gradient of `input` into. With `accumulate` it holds a gradient already (a parameter's slice of the
   * arena, or what another use of a shared activation gave) and the new one must be added. Only for inputs that `needs` wants.
   */
  into(input: Tensor): { tensor: Tensor; accumulate: boolean };
  /** The same for an op that writes its gradient plus another tensor in one pass: `present`, which may be `tensor` itself, or nothing. */
  onto(input: Tensor): { tensor: Tensor; present: Tensor | undefined };
  /** For an op whose gradient is itself a tensor: takes it over (+=, or as it is when it is the first). */
  give(input: Tensor, gradient: Tensor): void;
}

/** Is told how a differentiated computation proceeds, for work that goes on beside it. */
export interface PassWatch {
  /** An op was recorded. */
  recorded?(): void;
  /** An op was undone, and what only it needed is free. */
  undone?(): void;
}

export interface TapeEntry {
  name: string;
  outputs: readonly Tensor[];
  /** References the entry holds until its backward is done. */
  saved: readonly Tensor[];
  /** `dys[i]` is undefined when output i did not reach the loss. */
  backward(dys: readonly (Tensor | undefined)[], sink: Sink): void;
}

let active: Tape | undefined;

/** The tape that records now, if any. */
export function activeTape(): Tape | undefined {
  return active;
}

/** Runs `body` without recording: inside, nothing needs a gradient. */
export function noGrad<T>(body: () => T): T {
  return withTape(undefined, body);
}

function withTape<T>(tape: Tape | undefined, body: () => T): T {
  const outer = active;
  active = tape;
  try {
    return body();
  } finally {
    active = outer;
  }
}

/** The record of one differentiated computation, in program order. */
export class Tape implements Sink {
  readonly #entries: TapeEntry[] = [];
  readonly #gradients = new Map<Tensor, Tensor>();
  /** Inputs whose gradient shares storage with another one: nothing is added to it in place. */
  readonly #shared = new Set<Tensor>();
  /** Gradients of these inputs go to another tape's sink (recomputation of a checkpointed block). */
  readonly #outer: { inputs: ReadonlySet<Tensor>; sink: Sink } | undefined;

  readonly #watch: PassWatch;

  constructor(outer?: { inputs: ReadonlySet<Tensor>; sink: Sink }, watch: PassWatch = {}) {
    this.#outer = outer;
    this.#watch = watch;
  }

  /** Runs `body` recording on this tape. */
  record<T>(body: () => T): T {
    return withTape(this, body);
  }

  add(entry: TapeEntry): void {
    for (const tensor of entry.saved) tensor.hold();
    this.#entries.push(entry);
    this.#watch.recorded?.();
  }

  /** Starts backward at `output` with gradient `seed`; call once per output that has one, before `backward()`. */
  seed(output: Tensor, gradient: Tensor): void {
    if (this.#outer?.inputs.has(output)) this.#outer.sink.give(output, gradient);
    else if (output.grad) accumulate(output.grad, gradient);
    else this.give(output, gradient);
  }

  /** Runs the entries backwards, freeing each entry's saved tensors and each activation's gradient as soon as they are used. */
  backward(): void {
    withTape(undefined, () => {
      for (let entry = this.#entries.pop(); entry; entry = this.#entries.pop()) {
        const { outputs, saved } = entry;
        try {
          const dys = outputs.map((y) => this.#gradients.get(y));
          // What a backward allocates for itself ends with it; gradients leave the scope through the map.
          if (dys.some((dy) => dy !== undefined)) scope(() => entry.backward(dys, this));
        } finally {
          for (const y of outputs) this.#drop(y);
          for (const tensor of saved) tensor.release();
        }
        this.#watch.undone?.();
      }
    });
  }

  needs(input: Tensor | undefined): boolean {
    return input?.requiresGrad === true;
  }

  into(input: Tensor): { tensor: Tensor; accumulate: boolean } {
    const { tensor, present } = this.onto(input);
    if (present && present !== tensor) tensor.device.kernels.copy(tensor.device.number, tensor.handle, present.handle);
    return { tensor, accumulate: present !== undefined };
  }

  onto(input: Tensor): { tensor: Tensor; present: Tensor | undefined } {
    if (input.grad) return { tensor: input.grad, present: input.grad };
    if (this.#outer?.inputs.has(input)) return this.#outer.sink.onto(input);
    const before = this.#gradients.get(input);
    if (before && !this.#shared.delete(input)) return { tensor: before, present: before };
    const tensor = Tensor.empty(input.shape, { device: input.device }).keep();
    this.#gradients.set(input, tensor);
    // What was there goes to the scope of the backward function that asks.
    const present = before?.view(0, before.dtype, before.shape);
    before?.dispose();
    return { tensor, present };
  }

  give(input: Tensor, gradient: Tensor): void {
    if (!this.needs(input)) return;
    if (input.grad) accumulate(input.grad, gradient);
    else if (this.#outer?.inputs.has(input)) this.#outer.sink.give(input, gradient);
    else if (this.#gradients.has(input)) {
      const { tensor, present } = this.onto(input);
      const { kernels, number } = tensor.device;
      if (present === tensor) accumulate(tensor, gradient);
      else kernels.add(number, tensor.handle, present!.handle, gradient.handle);
    } else {
      this.#gradients.set(input, gradient.view(0, gradient.dtype, input.shape).keep());
      this.#shared.add(input);
    }
  }

  /** Frees whatever is left, after an error too. */
  dispose(): void {
    for (const entry of this.#entries) for (const tensor of entry.saved) tensor.release();
    this.#entries.length = 0;
    for (const gradient of this.#gradients.values()) gradient.dispose();
    this.#gradients.clear();
  }

  #drop(output: Tensor): void {
    this.#gradients.get(output)?.dispose();
    this.#gradients.delete(output);
    this.#shared.delete(output);
  }
}

function accumulate(sum: Tensor, gradient: Tensor): void {
  sum.device.kernels.axpy(sum.device.number, sum.handle, gradient.handle, 1);
}

/**
 * Runs `loss` on a tape, then differentiates its result, one float32 value, with respect to every parameter that it used;
 * their `grad` tensors accumulate. Returns the value. The tape exists only inside: leaving it, by throw too, frees it.
 */
export function valueAndGrad(loss: () => Tensor, watch?: PassWatch): Tensor {
  if (active) throw new LowrankError("INVALID_ARGUMENT", "[valueAndGrad] cannot run inside another one");
  const tape = new Tape(undefined, watch);
  try {
    return scope(() => {
      // The tape alone keeps what backward needs, so that it is free as soon as it was used.
      const value = scope(() => tape.record(loss));
      if (value.size !== 1)
        throw new LowrankError("SHAPE_MISMATCH", `[valueAndGrad] the loss must be one value, it is [${value.shape}]`);
      const one = Tensor.empty(value.shape, { device: value.device });
      value.device.kernels.fill(value.device.number, one.handle, 1);
      if (value.requiresGrad) {
        tape.seed(value, one);
        tape.backward();
      }
      return value;
    });
  } finally {
    tape.dispose();
  }
}
