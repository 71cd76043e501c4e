import { LowrankError } from "../errors.js";
import type { WeightHandle } from "../native/surface.js";
import type { Device } from "../tensor/device.js";
import type { DType } from "../tensor/dtype.js";
import { native } from "../tensor/native-errors.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { CODE_BOOKS, CODE4_NUMBER, DYNAMIC_SIGNED, type QuantType } from "./codes.js";

/** The tensors of a 4-bit matrix as bitsandbytes stores it (formats.md D.3). */
export interface FourBitParts {
  /** uint8, ceil(out * in / 2) bytes, element 2i in the high nibble. */
  codes: Tensor;
  /** float32 per block, or uint8 codes of it when nested. */
  absmax: Tensor;
  /** Double quantisation: statistics of absmax in blocks of `nestedBlocksize`. */
  nested?: { absmax: Tensor; code: Tensor; offset: Tensor };
  /** float32 [16]. */
  code: Tensor;
  quantType: QuantType;
  blocksize: number;
  nestedBlocksize: number;
}

export interface QuantizeOptions {
  quantType?: QuantType;
  /** Elements per absmax, 64 to 4096. */
  blocksize?: number;
  doubleQuant?: boolean;
  /** Round products to bfloat16, as the bf16 policy of a device wants. */
  round?: boolean;
}

const NESTED_BLOCKSIZE = 256;

/**
 * A weight matrix [outFeatures, inFeatures] that linears read: dense, or 4-bit. It owns its tensors. Frozen, but for a dense
 * float32 one whose tensor is a parameter.
 */
export class Weight {
  readonly outFeatures: number;
  readonly inFeatures: number;
  readonly handle: WeightHandle;
  readonly device: Device;
  readonly #content: Tensor | FourBitParts;
  readonly round: boolean;
  #owns = true;
  #disposed = false;

  private constructor(
    content: Tensor | FourBitParts,
    shape: readonly [number, number],
    device: Device,
    handle: WeightHandle,
    round: boolean,
  ) {
    this.#content = content;
    [this.outFeatures, this.inFeatures] = shape;
    this.device = device;
    this.handle = handle;
    this.round = round;
  }

  /** Takes over a tensor [out, in] of float32, bfloat16 or float16. */
  static dense(tensor: Tensor): Weight {
    const weight = Weight.borrow(tensor);
    weight.#owns = true;
    tensor.keep();
    return weight;
  }

  /** Reads a tensor [out, in] that stays the caller's; it must outlive the weight. */
  static borrow(tensor: Tensor): Weight {
    const [n, k] = tensor.shape;
    if (tensor.shape.length !== 2 || n === undefined || k === undefined) {
      throw new LowrankError("SHAPE_MISMATCH", `[weight] must have 2 dimensions but is [${tensor.shape}]`);
    }
    const handle = native(() => tensor.device.addon.weightDense(tensor.handle));
    const weight = new Weight(tensor, [n, k], tensor.device, handle, false);
    weight.#owns = false;
    return weight;
  }

  /** Takes over the parts of a 4-bit matrix [out, in]. */
  static fourBit(parts: FourBitParts, shape: readonly [number, number], round = false): Weight {
    const { codes, absmax, nested, code, blocksize, nestedBlocksize } = parts;
    const { device } = codes;
    const handle = native(() =>
      device.addon.weight4bit(
        codes.handle,
        absmax.handle,
        nested?.absmax.handle ?? 0,
        nested?.code.handle ?? 0,
        nested?.offset.handle ?? 0,
        code.handle,
        shape[0],
        shape[1],
        blocksize,
        nestedBlocksize,
        round ? 1 : 0,
      ),
    );
    for (const tensor of partsOf(parts)) tensor.keep();
    return new Weight(parts, shape, device, handle, round);
  }

  /** Quantises a matrix with bitsandbytes' semantics; `tensor` stays the caller's. NaN and infinity are counted in `nonFinite` (int32 [1]). */
  static quantize4bit(tensor: Tensor, options: QuantizeOptions = {}, nonFinite?: Tensor): Weight {
    const [n = 0, k = 0] = tensor.shape;
    const builder = new FourBitBuilder([n, k], tensor.device, options);
    try {
      builder.add(tensor, 0, nonFinite);
      return builder.finish();
    } catch (error) {
      builder.dispose();
      throw error;
    }
  }

  get kind(): "dense" | "4bit" {
    return this.dense ? "dense" : "4bit";
  }

  /** Whether the tensor belongs to somebody else, as a tied head's does. */
  get borrowed(): boolean {
    return !this.#owns;
  }

  /** The matrix of a dense weight. */
  get dense(): Tensor | undefined {
    return "codes" in this.#content ? undefined : this.#content;
  }

  get fourBitParts(): FourBitParts | undefined {
    return "codes" in this.#content ? this.#content : undefined;
  }

  /** The values as a new dense tensor [out, in]; the caller owns it. */
  dequantize(dtype: DType = "float32"): Tensor {
    const y = Tensor.empty([this.outFeatures, this.inFeatures], { dtype, device: this.device });
    const { kernels, number } = this.device;
    const { dense } = this;
    native(() => (dense ? kernels.copy(number, y.handle, dense.handle) : kernels.dequantize4bit(number, y.handle, this.handle)));
    return y;
  }

  /** Frees the native weight and its tensors. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    native(() => this.device.addon.freeWeight(this.handle));
    if (!this.#owns) return;
    if (this.dense) this.dense.dispose();
    else for (const tensor of partsOf(this.#content as FourBitParts)) tensor.dispose();
  }
}

function partsOf(parts: FourBitParts): Tensor[] {
  const { codes, absmax, nested, code } = parts;
  return [codes, absmax, code, ...(nested ? [nested.absmax, nested.code, nested.offset] : [])];
}

/**
 * Quantises a matrix that comes in parts, so that a 16-bit checkpoint never has to be in memory as a whole. Each part but the last
 * is a whole number of blocks of the flat matrix.
 */
export class FourBitBuilder {
  readonly #shape: readonly [number, number];
  readonly #codes: Tensor;
  readonly #absmax: Tensor;
  readonly #options: Required<QuantizeOptions>;

  constructor(shape: readonly [number, number], device: Device, options: QuantizeOptions = {}) {
    this.#options = {
      quantType: options.quantType ?? "nf4",
      blocksize: options.blocksize ?? 64,
      doubleQuant: options.doubleQuant ?? false,
      round: options.round ?? false,
    };
    const { blocksize } = this.#options;
    if (![64, 128, 256, 512, 1024, 2048, 4096].includes(blocksize)) {
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `[quantize4bit] blocksize must be a power of two from 64 to 4096 but is ${blocksize}`,
      );
    }
    this.#shape = shape;
    const size = shape[0] * shape[1];
    [this.#codes, this.#absmax] = scope(() => {
      const codes = Tensor.empty([Math.ceil(size / 2)], { dtype: "uint8", device });
      const absmax = Tensor.empty([Math.ceil(size / blocksize)], { device });
      return [codes.keep(), absmax.keep()] as const;
    });
  }

  /** Quantises `part`, the elements of the flat matrix from `offset` on. */
  add(part: Tensor, offset: number, nonFinite?: Tensor): void {
    const { blocksize, quantType } = this.#options;
    const { device } = part;
    scope(() => {
      const codes = this.#codes.slice(offset / 2, offset / 2 + Math.ceil(part.size / 2));
      const absmax = this.#absmax.slice(offset / blocksize, offset / blocksize + Math.ceil(part.size / blocksize));
      native(() =>
        device.kernels.quantize4bit(
          device.number,
          codes.handle,
          absmax.handle,
          nonFinite?.handle ?? 0,
          part.handle,
          CODE4_NUMBER[quantType],
          blocksize,
        ),
      );
    });
  }

  /** The finished weight; with double quantisation absmax is quantised now. When it throws, the builder is still to be disposed of. */
  finish(): Weight {
    const { blocksize, quantType, doubleQuant, round } = this.#options;
    const { device } = this.#codes;
    return scope(() => {
      const parts: FourBitParts = {
        codes: this.#codes,
        absmax: this.#absmax,
        code: Tensor.from(CODE_BOOKS[quantType], [16], { device }),
        quantType,
        blocksize,
        nestedBlocksize: NESTED_BLOCKSIZE,
      };
      if (doubleQuant) {
        const blocks = this.#absmax.size;
        const codes = Tensor.empty([blocks], { dtype: "uint8", device });
        const nested = {
          absmax: Tensor.empty([Math.ceil(blocks / NESTED_BLOCKSIZE)], { device }),
          code: Tensor.from(DYNAMIC_SIGNED, [256], { device }),
          offset: Tensor.empty([1], { device }),
        };
        native(() =>
          device.kernels.quantizeAbsmax(
            device.number,
            codes.handle,
            nested.absmax.handle,
            nested.offset.handle,
            this.#absmax.handle,
            nested.code.handle,
            NESTED_BLOCKSIZE,
          ),
        );
        parts.absmax = codes;
        parts.nested = nested;
      }
      const weight = Weight.fourBit(parts, this.#shape, round);
      if (doubleQuant) this.#absmax.dispose();
      return weight;
    });
  }

  /** Frees what was made so far, when loading fails. */
  dispose(): void {
    this.#codes.dispose();
    this.#absmax.dispose();
  }
}
