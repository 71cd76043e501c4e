import { loadAddon } from "../../src/native/load.js";
import { openDevice } from "../../src/native/plugin.js";
import { NATIVE_DTYPES, type TensorHandle } from "../../src/native/surface.js";
import { cuda } from "../cuda-device.js";

export const addon = loadAddon();
/** Variants of the kernels that this machine can run. */
export const isas = addon.availableIsas();
/** The same as devices, and the one that runs the CUDA kernels. LOWRANK_TEST_DEVICES names one of them, or "cpu": those alone. */
export const devices = [...isas.map((isa) => `cpu:${isa}`), cuda].filter((name) =>
  [undefined, name, name.split(":")[0]].includes(process.env.LOWRANK_TEST_DEVICES),
);
if (devices.length === 0) throw new Error(`LOWRANK_TEST_DEVICES is "${process.env.LOWRANK_TEST_DEVICES}", which is no device`);

type Data = Float32Array | Int32Array | Uint8Array | Uint16Array;
type DTypeName = (typeof NATIVE_DTYPES)[number];
/** Not a multiple of a vector: kernels must not rely on more than 8-byte alignment. */
const UNALIGNED = 72;
const GUARD_BYTE = 0xa5;

interface Placed {
  storage: TensorHandle;
  bytes: number;
  dtype: DTypeName;
}

/** Kernels called by handle. Every tensor lies between two guard zones, outputs start as NaN, {@link read} checks the zones. */
export class Raw {
  readonly d: number;
  readonly kernels = addon.kernels;
  private readonly placed = new Map<TensorHandle, Placed>();

  /** `guard`: bytes of a guard zone, so that 64 places every tensor at a multiple of 64. */
  constructor(
    device: string,
    threads?: number,
    private readonly guard = UNALIGNED,
  ) {
    const before = process.env.LOWRANK_THREADS;
    if (threads !== undefined) process.env.LOWRANK_THREADS = String(threads);
    this.d = openDevice(addon, device);
    if (before === undefined) delete process.env.LOWRANK_THREADS;
    else process.env.LOWRANK_THREADS = before;
  }

  from(data: Data | readonly number[], shape: readonly number[], dtype: DTypeName = dtypeOf(data)): TensorHandle {
    const array = Array.isArray(data) ? new Float32Array(data) : (data as Data);
    return this.place(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), shape, dtype);
  }

  /** Every byte 0xff: NaN in the float types. */
  out(shape: readonly number[], dtype: DTypeName = "float32"): TensorHandle {
    return this.place(new Uint8Array(count(shape) * bytesOf(dtype)).fill(0xff), shape, dtype);
  }

  async bytes(t: TensorHandle): Promise<Uint8Array> {
    const placed = this.placed.get(t);
    if (!placed) throw new Error("not a tensor of this device");
    const all = new Uint8Array(await addon.read(placed.storage));
    const guards = [...all.subarray(0, this.guard), ...all.subarray(this.guard + placed.bytes)];
    if (guards.some((byte) => byte !== GUARD_BYTE)) throw new Error("a kernel wrote outside its tensor");
    return all.slice(this.guard, this.guard + placed.bytes);
  }

  async f32(t: TensorHandle): Promise<Float32Array> {
    return new Float32Array((await this.bytes(t)).buffer);
  }
  async i32(t: TensorHandle): Promise<Int32Array> {
    return new Int32Array((await this.bytes(t)).buffer);
  }
  async u16(t: TensorHandle): Promise<Uint16Array> {
    return new Uint16Array((await this.bytes(t)).buffer);
  }
  synchronize(): Promise<void> {
    return addon.synchronize(this.d);
  }

  dispose(): void {
    for (const [t, { storage }] of this.placed) {
      addon.free(t);
      addon.free(storage);
    }
    this.placed.clear();
  }

  private place(data: Uint8Array, shape: readonly number[], dtype: DTypeName): TensorHandle {
    const all = new Uint8Array(data.length + 2 * this.guard).fill(GUARD_BYTE);
    all.set(data, this.guard);
    const storage = addon.alloc(this.d, NATIVE_DTYPES.indexOf("uint8"), [all.length]);
    addon.upload(storage, all);
    const t = addon.view(storage, this.guard, NATIVE_DTYPES.indexOf(dtype), shape);
    this.placed.set(t, { storage, bytes: data.length, dtype });
    return t;
  }
}

const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const bytesOf = (dtype: DTypeName): number => ({ float32: 4, int32: 4, bfloat16: 2, float16: 2, uint8: 1 })[dtype];

function dtypeOf(data: Data | readonly number[]): DTypeName {
  if (data instanceof Int32Array) return "int32";
  if (data instanceof Uint8Array) return "uint8";
  return data instanceof Uint16Array ? "bfloat16" : "float32";
}

/** Runs `body` with a device whose tensors are freed afterwards. */
export async function withRaw<T>(device: string, body: (raw: Raw) => Promise<T>, guard?: number): Promise<T> {
  const raw = new Raw(device, undefined, guard);
  try {
    return await body(raw);
  } finally {
    raw.dispose();
  }
}

/** What a call that must be refused says: some entries refuse at once, others when the stream reaches them. */
export async function refusal(raw: Raw, call: () => void): Promise<{ code: string; op: string; message: string }> {
  try {
    call();
    await raw.synchronize();
  } catch (error) {
    return error as { code: string; op: string; message: string };
  }
  throw new Error("the call was not refused");
}

/** Whether arrays hold the same bytes: `toEqual` takes seconds on long ones. */
export function sameBits(
  a: ArrayBufferView | readonly ArrayBufferView[],
  b: ArrayBufferView | readonly ArrayBufferView[] | undefined,
): boolean {
  if (b === undefined) return false;
  if (ArrayBuffer.isView(a)) {
    const bytes = (x: ArrayBufferView) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);
    return ArrayBuffer.isView(b) && Buffer.compare(bytes(a), bytes(b)) === 0;
  }
  return !ArrayBuffer.isView(b) && a.length === b.length && a.every((x, i) => sameBits(x, b[i]));
}
