import { LowrankError } from "../errors.js";
import { bfloat16ToFloat32, float16ToFloat32 } from "../half.js";
import { type Device, getDevice } from "./device.js";
import { DTYPE_BYTES, type DType, dtypeNumber, type TypedArray, typedArrayOf } from "./dtype.js";
import { native, nativeAsync } from "./native-errors.js";
import { adopt } from "./scope.js";

export interface TensorOptions {
  dtype?: DType;
  device?: Device;
  /** In memory of the host that the device copies from and to in the background, not in the device's own. */
  host?: boolean;
}

/**
 * A contiguous row-major array of up to four dimensions in a device's memory. Ownership is explicit: it lives until
 * `dispose()`, or until the `scope` that made it ends. Views share the storage of their tensor; the memory itself is free
 * when its last view and its last enqueued use are gone.
 */
export class Tensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly device: Device;
  /** Slot and generation in the native table. */
  readonly handle: number;
  /** True for parameters, and for what was computed from one under a tape. */
  requiresGrad = false;
  /** Of a parameter: where backward accumulates its gradient, float32 of the same shape. */
  grad: Tensor | undefined;
  #references = 1;
  #scope: Set<Tensor> | undefined;
  #watched = false;

  private constructor(handle: number, shape: readonly number[], dtype: DType, device: Device) {
    this.handle = handle;
    this.shape = shape;
    this.dtype = dtype;
    this.device = device;
    this.#scope = adopt(this);
    if (!this.#scope) this.#watch();
  }

  /** Uninitialised. Throws OUT_OF_MEMORY with the bytes needed and free. */
  static empty(shape: readonly number[], options: TensorOptions = {}): Tensor {
    const { dtype = "float32", device = getDevice(), host = false } = options;
    const { addon, number } = device;
    const handle = native(() => (host ? addon.allocHost : addon.alloc)(number, dtypeNumber(dtype), shape));
    return new Tensor(handle, [...shape], dtype, device);
  }

  static zeros(shape: readonly number[], options: TensorOptions = {}): Tensor {
    return filled(Tensor.empty(shape, options), ({ device, handle }) =>
      native(() => device.kernels.fill(device.number, handle, 0)),
    );
  }

  /**
   * Copies the values now. A typed array gives its bytes as they are (Uint16Array for bfloat16 and float16 bits); plain
   * numbers are converted to float32 or int32.
   */
  static from(data: TypedArray | readonly number[], shape: readonly number[], options: TensorOptions = {}): Tensor {
    const dtype = options.dtype ?? (data instanceof Int32Array ? "int32" : data instanceof Uint8Array ? "uint8" : "float32");
    return filled(Tensor.empty(shape, { ...options, dtype }), (tensor) =>
      tensor.upload(ArrayBuffer.isView(data) ? data : dtype === "int32" ? Int32Array.from(data) : Float32Array.from(data)),
    );
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, n) => product * n, 1);
  }

  get byteLength(): number {
    return this.size * DTYPE_BYTES[this.dtype];
  }

  get disposed(): boolean {
    return this.#references === 0;
  }

  /** Overwrites all values, in stream order; the bytes are copied now and must be exactly as many as the tensor's. */
  upload(data: TypedArray): void {
    native(() => this.device.addon.upload(this.handle, data));
  }

  /** The same elements in another shape; shares storage. */
  reshape(...shape: number[]): Tensor {
    const size = shape.reduce((product, n) => product * n, 1);
    if (size !== this.size)
      throw new LowrankError("SHAPE_MISMATCH", `[reshape] [${this.shape}] has ${this.size} elements, [${shape}] has ${size}`);
    return this.view(0, this.dtype, shape);
  }

  /** Rows [begin, end) of the first dimension; shares storage. */
  slice(begin: number, end: number): Tensor {
    const [rows = 0, ...rest] = this.shape;
    if (!(Number.isInteger(begin) && Number.isInteger(end) && 0 <= begin && begin <= end && end <= rows)) {
      throw new LowrankError("SHAPE_MISMATCH", `[slice] rows ${begin} to ${end} do not lie in [${this.shape}]`);
    }
    const row = rest.reduce((product, n) => product * n, 1) * DTYPE_BYTES[this.dtype];
    return this.view(begin * row, this.dtype, [end - begin, ...rest]);
  }

  /** Any contiguous part of the storage, from `byteOffset` of this tensor, as another tensor. */
  view(byteOffset: number, dtype: DType, shape: readonly number[]): Tensor {
    const handle = native(() => this.device.addon.view(this.handle, byteOffset, dtypeNumber(dtype), shape));
    return new Tensor(handle, [...shape], dtype, this.device);
  }

  /** One more owner: the tensor then needs one more `dispose()`. */
  retain(): this {
    this.hold();
    this.#watch();
    return this;
  }

  /** The same for an owner that cannot forget it, as the tape, which frees what it holds when it ends. */
  hold(): void {
    if (this.disposed) throw disposed(this);
    this.#references++;
  }

  /** Gives one reference back; the last one frees the handle. Does nothing on a tensor that is freed already. */
  dispose(): void {
    if (this.#references === 0) return;
    if (this.#references > 1) this.#leave();
    this.release();
  }

  /** Gives back a reference taken with `retain()` or `hold()`, leaving the scope's own alone. */
  release(): void {
    if (this.#references === 0 || --this.#references > 0) return;
    this.#leave();
    if (this.#watched) leaks.unregister(this);
    native(() => this.device.addon.free(this.handle));
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Hands the tensor to an enclosing scope, or to the caller when there is none. */
  moveTo(scope: Set<Tensor> | undefined): void {
    if (this.disposed) return;
    this.#leave();
    this.#scope = scope;
    if (scope) scope.add(this);
    else this.#watch();
  }

  #leave(): void {
    this.#scope?.delete(this);
    this.#scope = undefined;
  }

  #watch(): void {
    if (this.#watched) return;
    this.#watched = true;
    leaks.register(this, this.shape, this);
  }

  /** Takes the tensor out of its scope: it lives until `dispose()`. */
  keep(): this {
    this.moveTo(undefined);
    return this;
  }

  /** The values, once everything enqueued before is done: the one place where JavaScript waits. bfloat16 and float16 come as bits. */
  async read(): Promise<TypedArray> {
    if (this.disposed) throw disposed(this);
    const { dtype } = this;
    return typedArrayOf(dtype, await nativeAsync(() => this.device.addon.read(this.handle)));
  }

  /** The values as float32, whatever floating dtype the tensor has. */
  async readFloat32(): Promise<Float32Array> {
    const values = await this.read();
    if (this.dtype === "bfloat16") return bfloat16ToFloat32(values as Uint16Array);
    if (this.dtype === "float16") return float16ToFloat32(values as Uint16Array);
    return values instanceof Float32Array ? values : Float32Array.from(values);
  }

  /** The value of a one-element tensor. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new LowrankError("SHAPE_MISMATCH", `[item] needs one element, [${this.shape}] has ${this.size}`);
    return (await this.readFloat32())[0]!;
  }
}

function filled(tensor: Tensor, fill: (tensor: Tensor) => void): Tensor {
  try {
    fill(tensor);
  } catch (error) {
    tensor.dispose();
    throw error;
  }
  return tensor;
}

function disposed(tensor: Tensor): LowrankError {
  return new LowrankError("DISPOSED", `A tensor ${tensor.dtype} [${tensor.shape}] is used after dispose()`, {
    hint: "Return it from its scope, or retain() it.",
  });
}

let leaked = 0;

/**
 * Garbage collection never frees device memory, which would come too late; it only tells about forgotten dispose() calls, once for a batch
 * of them. What a scope holds cannot be forgotten, so it is not registered: that would cost more than most ops.
 */
const leaks = new FinalizationRegistry<readonly number[]>((shape) => {
  if (leaked++ > 0) return;
  setTimeout(() => {
    const others = leaked > 1 ? ` and ${leaked - 1} more` : "";
    leaked = 0;
    process.emitWarning(
      `a tensor [${shape.join(", ")}]${others} was dropped without dispose(): its memory is lost until the process ends`,
      "LowrankLeak",
    );
  }, 100).unref();
});
