/** Values of every kind that JavaScript can pass, whatever the parameter's type. */
import type { World } from "./world.js";

/** What getters and conversions of hostile objects throw; native code must hand it on as it is. */
export const SENTINEL = new Error("thrown by a getter");
const refuse = (): never => {
  throw SENTINEL;
};

const TYPED = [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
] as const;

type Resizable = ArrayBuffer & { resize(bytes: number): void };
const resizable = (bytes: number, most: number) =>
  new (ArrayBuffer as unknown as new (bytes: number, options: object) => Resizable)(bytes, { maxByteLength: most });

/** A typed array, Buffer or DataView over a buffer of any kind: detached, shared, resized under it, offset. */
export function anyView(w: World, bytes = w.size() * 8): ArrayBufferView {
  const Type = w.of(TYPED) as unknown as Uint8ArrayConstructor;
  const over = (buffer: ArrayBuffer | SharedArrayBuffer): ArrayBufferView =>
    w.chance(0.2)
      ? new DataView(buffer as ArrayBuffer, w.below(2) && buffer.byteLength > 0 ? 1 : 0)
      : new Type(
          buffer,
          w.chance(0.3) && buffer.byteLength >= 8 ? 8 : 0,
          Math.floor((buffer.byteLength - 8) / Type.BYTES_PER_ELEMENT),
        );
  const padded = Math.ceil(bytes / 8) * 8 + 8;
  switch (w.below(7)) {
    case 0: {
      const view = over(new ArrayBuffer(padded));
      structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] });
      return view;
    }
    case 1:
      return over(new SharedArrayBuffer(padded));
    case 2: {
      const buffer = resizable(padded, 2 * padded);
      const view = w.chance(0.5) ? new Type(buffer) : over(buffer);
      buffer.resize(w.of([0, 8, padded - 8, 2 * padded]));
      return view;
    }
    case 3:
      return Buffer.from("some bytes of a pool").subarray(w.below(9));
    case 4:
      return new Type(0);
    default:
      return over(new ArrayBuffer(padded));
  }
}

/** A shape, or something that behaves unlike one while it is read. */
export function anyShape(w: World): unknown {
  const proxy = (target: object) => new Proxy(target, { get: refuse, getPrototypeOf: refuse, ownKeys: refuse });
  switch (w.below(14)) {
    case 0:
      return Object.defineProperty([1, 2], 1, { get: refuse });
    case 1: // frees a tensor while the call reads the shape
      return Object.defineProperty([1, 2], 0, {
        get: () => {
          w.drop();
          return 1;
        },
      });
    case 2: // shortens itself
      return Object.defineProperty([1, 2, 3], 0, {
        get(this: number[]) {
          this.length = 1;
          return 1;
        },
      });
    case 3: // calls back into native code
      return Object.defineProperty([1], 0, { get: () => w.addon.memory(w.d).tensors && 1 });
    case 4:
      return proxy([1, 2]);
    case 5:
      // biome-ignore lint/suspicious/noSparseArray: a hole is the point
      return [1, , 2];
    case 6:
      return new Array(w.of([5, 1e6, 2 ** 32 - 1]));
    case 7:
      return w.of([
        [2 ** 40, 2 ** 40],
        [2 ** 53],
        [1e300],
        [0, 2 ** 40, 2 ** 40],
        [2 ** 24, 0, 2 ** 24, 8],
        [2 ** 45],
        [2 ** 33],
      ]);
    case 8:
      return w.of([[-1], [1.5], [Number.NaN], ["1"], [1n], [null], [[1]], [Object(1)]]);
    case 9:
      return w.of([{ length: 1, 0: 1 }, new Float64Array([1, 2]), "12", 3]);
    default:
      return Array.from({ length: w.below(5) }, () => w.of([0, ...Array(5).fill(w.size())]));
  }
}

export function anyNumber(w: World): number {
  return w.of([
    0,
    -0,
    1,
    -1,
    2,
    1.5,
    0.1,
    7,
    64,
    1e15,
    2 ** 31,
    2 ** 31 - 1,
    -(2 ** 31),
    -(2 ** 31) - 1,
    2 ** 32,
    2 ** 52,
    2 ** 53,
    -(2 ** 53),
    1e308,
    -1e308,
    5e-324,
    Number.NaN,
    Infinity,
    -Infinity,
  ]);
}

export function anything(w: World): unknown {
  const throwing = { valueOf: refuse, toString: refuse, [Symbol.toPrimitive]: refuse };
  switch (w.below(16)) {
    case 0:
      return w.of([undefined, null, true, false]);
    case 1:
      return w.of(["", "cpu", "a\0b", "0", "x".repeat(100_000), "\ud800", w.file, w.folder]);
    case 2:
      return w.of([0n, -1n, 1n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n, -(2n ** 70n)]);
    case 3:
      return w.of([Symbol("s"), Symbol.iterator]);
    case 4:
      return w.of([throwing, new Proxy(throwing, {}), new Proxy(() => 0, { apply: refuse }), Object.create(null)]);
    case 5:
      return w.of([() => 0, class {}, new Date(0), /x/, new Map(), Promise.resolve(1), new Number(1), new String("cpu")]);
    case 6:
      return w.of([new ArrayBuffer(8), new SharedArrayBuffer(8)]);
    case 7:
    case 8:
      return anyView(w);
    case 9:
    case 10:
      return anyShape(w);
    case 11:
      return w.otherTensor();
    default:
      return anyNumber(w);
  }
}
