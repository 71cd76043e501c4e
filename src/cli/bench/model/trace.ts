import { type Addon, type Kernels, NATIVE_DTYPES } from "../../../native/surface.js";
import { DTYPE_BYTES } from "../../../tensor/dtype.js";

/** Bytes of an element, in the order of {@link NATIVE_DTYPES}. */
const WIDTHS: readonly number[] = NATIVE_DTYPES.map((name) => DTYPE_BYTES[name]);

export interface TracedTensor {
  shape: readonly number[];
  elements: number;
  bytes: number;
}
export interface TracedWeight {
  n: number;
  k: number;
  /** Bytes of an element. */
  width: number;
  kind: "coded" | "direct" | "wide";
}
export interface OpCall {
  op: keyof Kernels;
  args: readonly unknown[];
}

/** An addon that remembers the shapes behind handles, and the ops that are called, on their way to the real one. */
export class Trace {
  readonly addon: Addon;
  readonly calls: OpCall[] = [];
  readonly #tensors = new Map<number, TracedTensor>();
  readonly #weights = new Map<number, TracedWeight>();

  constructor(real: Addon) {
    const kernels = Object.fromEntries(
      Object.entries(real.kernels).map(([op, kernel]) => [
        op,
        (d: number, ...args: unknown[]) => {
          // Arrays of numbers are used again by the next call.
          this.calls.push({
            op: op as keyof Kernels,
            args: args.map((arg) => (arg instanceof Float64Array ? arg.slice() : arg)),
          });
          (kernel as (...all: unknown[]) => void)(d, ...args);
        },
      ]),
    ) as unknown as Kernels;
    const seen = (handle: number, dtype: number, shape: readonly number[]): number => {
      const elements = shape.reduce((product, size) => product * size, 1);
      this.#tensors.set(handle, { shape: [...shape], elements, bytes: elements * WIDTHS[dtype]! });
      return handle;
    };
    this.addon = {
      ...real,
      kernels,
      alloc: (d, dtype, shape) => seen(real.alloc(d, dtype, shape), dtype, shape),
      allocHost: (d, dtype, shape) => seen(real.allocHost(d, dtype, shape), dtype, shape),
      view: (t, offset, dtype, shape) => seen(real.view(t, offset, dtype, shape), dtype, shape),
      weightDense: (t) => {
        const handle = real.weightDense(t);
        const { shape, elements, bytes } = this.#tensors.get(t)!;
        const width = bytes / elements;
        this.#weights.set(handle, { n: shape[0]!, k: shape[1]!, width, kind: width === 4 ? "wide" : "direct" });
        return handle;
      },
      weight4bit: (...args) => {
        const handle = real.weight4bit(...args);
        const [, , nested, , , , n, k, blocksize, nestedBlocksize] = args;
        const statistics = nested === 0 ? 4 / blocksize : (1 + 4 / nestedBlocksize) / blocksize;
        this.#weights.set(handle, { n, k, width: 0.5 + statistics, kind: "coded" });
        return handle;
      },
    };
  }

  /** The tensor of a handle; undefined for 0 and for numbers that are none. */
  tensor(handle: unknown): TracedTensor | undefined {
    return this.#tensors.get(handle as number);
  }

  weight(handle: number): TracedWeight {
    return this.#weights.get(handle)!;
  }
}
