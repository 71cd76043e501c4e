import { LowrankError } from "../errors.js";
import type { Device } from "../tensor/device.js";
import { DTYPE_BYTES } from "../tensor/dtype.js";
import { detached } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";

export interface ParameterSpec {
  name: string;
  shape: readonly number[];
}

export interface ArenaSegment extends ParameterSpec {
  /** Elements [begin, end) of the flat buffer; begin is a multiple of 256. */
  begin: number;
  end: number;
}

/** Elements a segment starts at a multiple of: a block of 8-bit states. */
const ALIGNMENT = 256;

/**
 * Every tensor that trains together, as slices of one flat buffer (float32, or bfloat16 on request); their float32 gradients likewise. So the optimizer is one launch,
 * zeroing gradients one fill, clipping one reduction, saving one read. Used by adapters and by full-parameter training alike.
 */
export class ParameterArena {
  readonly segments: readonly ArenaSegment[];
  readonly device: Device;
  readonly dtype: "float32" | "bfloat16";
  /** [n], segments in order, padding between them zero. */
  readonly values: Tensor;
  #gradients: Tensor | undefined;
  readonly #parameters = new Map<string, Tensor>();

  /** `dtype`: of the parameters and of what optimizers keep of them, each rounded whenever it is stored, as torch does without a float32 copy. */
  constructor(specs: readonly ParameterSpec[], device: Device, { dtype = "float32" }: { dtype?: "float32" | "bfloat16" } = {}) {
    this.dtype = dtype;
    let begin = 0;
    this.segments = specs.map((spec) => {
      const end = begin + spec.shape.reduce((product, n) => product * n, 1);
      const segment = { ...spec, begin, end };
      begin = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
      return segment;
    });
    const names = new Set(specs.map(({ name }) => name));
    if (names.size !== specs.length) throw new LowrankError("INVALID_ARGUMENT", "[arena] two parameters have the same name");
    this.device = device;
    this.values = detached(() => Tensor.zeros([begin], { dtype, device }));
    for (const segment of this.segments) this.#parameters.set(segment.name, slice(this.values, segment));
  }

  /** Elements of all parameters, padding not counted. */
  get size(): number {
    return this.segments.reduce((sum, { begin, end }) => sum + end - begin, 0);
  }

  /** The parameter of that name; the arena owns it. */
  get(name: string): Tensor {
    const parameter = this.#parameters.get(name);
    if (!parameter) throw new LowrankError("NOT_FOUND", `[arena] there is no parameter '${name}'`);
    return parameter;
  }

  *entries(): Iterable<[name: string, parameter: Tensor]> {
    yield* this.#parameters;
  }

  /** float32 [n], laid out as `values`; only while trainable. */
  get gradients(): Tensor | undefined {
    return this.#gradients;
  }

  /** Makes all parameters trainable, with zero gradients, or frozen, freeing the gradients. */
  setTrainable(trainable: boolean): void {
    if (trainable === (this.#gradients !== undefined)) return;
    if (trainable) this.#gradients = detached(() => Tensor.zeros(this.values.shape, { device: this.device }));
    for (const segment of this.segments) {
      const parameter = this.get(segment.name);
      parameter.requiresGrad = trainable;
      parameter.grad?.dispose();
      parameter.grad = trainable ? slice(this.#gradients!, segment) : undefined;
    }
    if (!trainable) {
      this.#gradients?.dispose();
      this.#gradients = undefined;
    }
  }

  zeroGrad(): void {
    if (this.#gradients) this.device.kernels.fill(this.device.number, this.#gradients.handle, 0);
  }

  dispose(): void {
    this.setTrainable(false);
    for (const parameter of this.#parameters.values()) parameter.dispose();
    this.values.dispose();
  }
}

function slice(flat: Tensor, { begin, shape }: ArenaSegment): Tensor {
  return detached(() => flat.view(begin * DTYPE_BYTES[flat.dtype], flat.dtype, shape));
}
