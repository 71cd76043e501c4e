/**
 * The types of the native addon: everything JavaScript may call in it. Tensors and weights are **numbers** (slot and generation
 * of a table of this environment); 0 is "absent". Every call validates its handles and throws a {@link NativeError}; nothing is
 * enqueued then. All kernels only enqueue on the device's one ordered stream.
 */

/** Handle of a tensor. 0 means absent. */
export type TensorHandle = number;
/** Handle of a weight: dense, or 4-bit with its code book and statistics. */
export type WeightHandle = number;

/** Handle of recorded ops. */
export type RecordingHandle = number;

/** Order as in `lr_dtype` of native/abi/backend.h. */
export const NATIVE_DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8"] as const;

/** Order as in `lr_activation` of native/abi/backend.h. */
export const NATIVE_ACTIVATIONS = ["silu", "gelu_tanh"] as const;

/** What native code throws: code is one of `lr_code`. */
export interface NativeError extends Error {
  code: "INVALID" | "OUT_OF_MEMORY" | "UNSUPPORTED" | "DEVICE" | "DEVICE_LOST" | "DISPOSED";
  op: string;
  /** OUT_OF_MEMORY only: bytes. */
  needed?: number;
  free?: number;
}

export interface MemoryStats {
  /** Bytes of the device's storages in use, and the largest `live` so far. */
  live: number;
  peak: number;
  /** Bytes of the host in use that the device copies from and to in the background (`allocHost`); they are not in `live`. */
  host: number;
  /** Bytes of both kinds that are cached for reuse, scratch included: `trim` gives them back. */
  pooled: number;
  /** Most bytes of `host` so far. */
  hostPeak: number;
  /** Bytes of the stream's scratch; bytes of the device taken from the system now, and most so far: what is live, rounded up, and its cache. */
  scratch: number;
  held: number;
  mostHeld: number;
  /** Tensor handles of this environment, of both kinds. */
  tensors: number;
}

export interface DeviceInfo {
  /** "scalar", "avx2", "avx512", "avx512bf16", "amx" on the CPU. */
  isa: string;
  threads: number;
  /** Whether bf16 products are native. */
  bf16: boolean;
  /** Whether the device has memory of its own, which the host cannot touch. */
  separate: boolean;
}

/** One function an entry of `lr_backend`; `d` is the device number. Optional tensors take 0. */
export interface Kernels {
  /** Copies a whole tensor behind what is enqueued, beside what comes after; both must live and rest until `wait(d, slot)`. Slots 0 to 31. */
  prefetch(d: number, slot: number, dst: TensorHandle, src: TensorHandle): void;
  writeBack(d: number, slot: number, dst: TensorHandle, src: TensorHandle): void;
  wait(d: number, slot: number): void;
  fill(d: number, y: TensorHandle, value: number): void;
  copy(d: number, y: TensorHandle, x: TensorHandle): void;
  axpy(d: number, y: TensorHandle, x: TensorHandle, alpha: number): void;
  add(d: number, y: TensorHandle, a: TensorHandle, b: TensorHandle): void;
  scaleRows(d: number, y: TensorHandle, x: TensorHandle, s: TensorHandle, accumulate: number): void;
  copyColumns(d: number, y: TensorHandle, x: TensorHandle, yBegin: number, xBegin: number, columns: number): void;
  dot(d: number, y: TensorHandle, a: TensorHandle, b: TensorHandle, scale: number, accumulate: number): void;
  /** `key` is a 64-bit unsigned integer as a bigint. */
  random(d: number, y: TensorHandle, normal: number, a: number, b: number, key: bigint): void;
  embedding(d: number, y: TensorHandle, table: TensorHandle, ids: TensorHandle, scale: number): void;
  embeddingGrad(d: number, dtable: TensorHandle, dy: TensorHandle, ids: TensorHandle, scale: number): void;
  rmsNorm(
    d: number,
    y: TensorHandle,
    rstd: TensorHandle,
    x: TensorHandle,
    residual: TensorHandle,
    weight: TensorHandle,
    eps: number,
    unitOffset: number,
  ): void;
  rmsNormGrad(
    d: number,
    dx: TensorHandle,
    dweight: TensorHandle,
    dy: TensorHandle,
    residual: TensorHandle,
    x: TensorHandle,
    rstd: TensorHandle,
    weight: TensorHandle,
    eps: number,
    unitOffset: number,
  ): void;
  ropeTable(d: number, table: TensorHandle, positions: TensorHandle, invFreq: TensorHandle, scaling: number): void;
  rope(d: number, y: TensorHandle, x: TensorHandle, table: TensorHandle, inverse: number): void;
  /** `activation`: the index in {@link NATIVE_ACTIVATIONS}. */
  glu(d: number, y: TensorHandle, gate: TensorHandle, up: TensorHandle, activation: number): void;
  gluGrad(
    d: number,
    dgate: TensorHandle,
    dup: TensorHandle,
    dy: TensorHandle,
    gate: TensorHandle,
    up: TensorHandle,
    activation: number,
  ): void;
  softcap(d: number, y: TensorHandle, x: TensorHandle, factor: number, cap: number): void;
  softcapGrad(d: number, dx: TensorHandle, dy: TensorHandle, y: TensorHandle, factor: number, cap: number): void;
  /** `group`: see {@link LinearGroupWords}. */
  linear(d: number, group: Float64Array): void;
  linearGrad(d: number, group: Float64Array): void;
  linearDw(d: number, dweight: TensorHandle, dbias: TensorHandle, dy: TensorHandle, x: TensorHandle, math: number): void;
  /** `args`: the fields of `lr_attention_args` in order, one number each (tensors as handles). */
  attention(d: number, args: Float64Array): void;
  attentionGrad(d: number, args: Float64Array): void;
  kvAppend(
    d: number,
    kPool: TensorHandle,
    vPool: TensorHandle,
    k: TensorHandle,
    v: TensorHandle,
    cuQ: TensorHandle,
    kvLen: TensorHandle,
    blockTable: TensorHandle,
  ): void;
  /** `args`: the fields of `lr_head_args` in order, one number each (tensors and the weight as handles). */
  tokenLogprob(d: number, args: Float64Array): void;
  tokenLogprobGrad(d: number, args: Float64Array): void;
  quantize4bit(
    d: number,
    codes: TensorHandle,
    absmax: TensorHandle,
    nonFinite: TensorHandle,
    x: TensorHandle,
    code4: number,
    blocksize: number,
  ): void;
  dequantize4bit(d: number, y: TensorHandle, weight: WeightHandle): void;
  quantize8bit(d: number, codes: TensorHandle, absmax: TensorHandle, x: TensorHandle, map: TensorHandle, blocksize: number): void;
  dequantize8bit(
    d: number,
    y: TensorHandle,
    codes: TensorHandle,
    absmax: TensorHandle,
    map: TensorHandle,
    blocksize: number,
  ): void;
  quantizeAbsmax(
    d: number,
    codes: TensorHandle,
    nestedAbsmax: TensorHandle,
    offset: TensorHandle,
    absmax: TensorHandle,
    map: TensorHandle,
    blocksize: number,
  ): void;
  gradStats(d: number, header: TensorHandle, grad: TensorHandle, loss: TensorHandle): void;
  adamw(
    d: number,
    param: TensorHandle,
    grad: TensorHandle,
    expAvg: TensorHandle,
    expAvgSq: TensorHandle,
    state1: TensorHandle,
    absmax1: TensorHandle,
    state2: TensorHandle,
    absmax2: TensorHandle,
    qmaps: TensorHandle,
    header: TensorHandle,
    segments: TensorHandle,
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    maxGradNorm: number,
    decoupled: number,
  ): void;
  lion(
    d: number,
    param: TensorHandle,
    grad: TensorHandle,
    expAvg: TensorHandle,
    state1: TensorHandle,
    absmax1: TensorHandle,
    qmap: TensorHandle,
    header: TensorHandle,
    segments: TensorHandle,
    lr: number,
    beta1: number,
    beta2: number,
    maxGradNorm: number,
  ): void;
  adafactor(
    d: number,
    param: TensorHandle,
    grad: TensorHandle,
    expAvg: TensorHandle,
    expAvgSq: TensorHandle,
    expAvgSqRow: TensorHandle,
    expAvgSqCol: TensorHandle,
    header: TensorHandle,
    segments: TensorHandle,
    shapes: TensorHandle,
    lr: number,
    eps1: number,
    eps2: number,
    clipThreshold: number,
    decayRate: number,
    beta1: number,
    scaleParameter: number,
    relativeStep: number,
    warmupInit: number,
    maxGradNorm: number,
  ): void;
  sgd(
    d: number,
    param: TensorHandle,
    grad: TensorHandle,
    momentumBuffer: TensorHandle,
    header: TensorHandle,
    segments: TensorHandle,
    lr: number,
    momentum: number,
    dampening: number,
    nesterov: number,
    maxGradNorm: number,
  ): void;
  /** The bare instruction of products, `millions` million multiply-adds for each element of `y`; UNSUPPORTED where the device has memory of its own. */
  multiplyAdds(d: number, y: TensorHandle, math: number, millions: number): void;
}

/**
 * A linear group as numbers: `x, dx, accumulate, math, dropoutP, dropoutKeyLow32, dropoutKeyHigh32, gated, activation, count`, then per layer
 * `weight, bias, y, u, residual, segmentCount`, then per segment `rowBegin, rowEnd, a, b, da, db, scale`.
 */
export type LinearGroupWords = Float64Array;

export interface Addon {
  /** ABI number; must equal the one the package was built with. */
  readonly abi: number;
  readonly kernels: Kernels;

  /** Opens a device ("cpu", "cpu:<isa>" or "cpu:<isa>:<threads>") and returns its number; the same name gives the same number. */
  openDevice(name: string): number;
  /** Opens the device that a plugin, the shared library at `path`, brings; the same name gives the same number. Throws DEVICE. */
  openPlugin(name: string, path: string): number;
  deviceInfo(d: number): DeviceInfo;
  memory(d: number): MemoryStats;
  resetPeak(d: number): void;
  /** Bounds what the device takes from the system, in bytes; 0: no longer. Beyond it `alloc` throws OUT_OF_MEMORY. */
  limitMemory(d: number, bytes: number): void;
  /** Gives cached memory of the pool back to the system. */
  trim(d: number): void;
  /** ISA variants this machine can run, best last. */
  availableIsas(): string[];

  /** Uninitialised memory. Throws OUT_OF_MEMORY. `dtype` indexes {@link NATIVE_DTYPES}; shape has 0 to 4 sizes. */
  alloc(d: number, dtype: number, shape: readonly number[]): TensorHandle;
  /** The same in memory of the host that the device copies from and to in the background: for {@link Kernels.prefetch} and `writeBack`. */
  allocHost(d: number, dtype: number, shape: readonly number[]): TensorHandle;
  /** A tensor that shares the storage of `t`, from `byteOffset` of it. */
  view(t: TensorHandle, byteOffset: number, dtype: number, shape: readonly number[]): TensorHandle;
  /** Drops the handle; the memory is free once its last enqueued use is done (program order). Throws DISPOSED on a stale handle. */
  free(t: TensorHandle): void;
  /** Copies the bytes at the call, writes them in stream order. `data` is any typed array of exactly the tensor's bytes. */
  upload(t: TensorHandle, data: ArrayBufferView): void;
  /**
   * Reads `length` bytes of a file into the tensor at `byteOffset`, on a native I/O thread straight into its memory, behind work
   * that is queued for the same memory. Enqueue what uses the tensor only when the promise has resolved.
   */
  readFile(t: TensorHandle, byteOffset: number, path: string, filePosition: number, length: number): Promise<void>;
  /**
   * Takes `bytes` (at least 1) of the disk for a file that exists, which grows to that size (Linux's fallocate). Returns 0 or the errno;
   * EOPNOTSUPP where the file system cannot.
   */
  allocateFile(path: string, bytes: number): number;
  /** Copies the tensor's bytes after everything enqueued before; rejects with the stream's first error. */
  read(t: TensorHandle): Promise<ArrayBuffer>;
  /** Resolves when everything enqueued so far is done; rejects with the first asynchronous error, naming its op. */
  synchronize(d: number): Promise<void>;

  weightDense(t: TensorHandle): WeightHandle;
  /** `absmax` is f32, or u8 with the three nested tensors. codes u8 with ceil(n*k/2) bytes. */
  weight4bit(
    codes: TensorHandle,
    absmax: TensorHandle,
    nestedAbsmax: TensorHandle,
    nestedCode: TensorHandle,
    nestedOffset: TensorHandle,
    code: TensorHandle,
    n: number,
    k: number,
    blocksize: number,
    nestedBlocksize: number,
    round: number,
  ): WeightHandle;
  freeWeight(w: WeightHandle): void;
  /**
   * Runs `body` at once and holds back the ops that it enqueues on the device, with the storages they use: each `replay` enqueues them all, on
   * what the storages hold then. Nothing can be waited for or read in `body`. What `body` throws comes through, and nothing is recorded.
   */
  record(d: number, body: () => void): RecordingHandle;
  replay(recording: RecordingHandle): void;
  freeRecording(recording: RecordingHandle): void;
  /** Makes the n-th allocation from now on any device fail (tests); 0 switches it off. */
  failAllocation(n: number): void;
  /** Time spent in each kernel (keys of {@link Kernels}) since the last call, as far as the stream has run: for `bench step`. */
  profile(d: number, enable: boolean): Record<string, { calls: number; ms: number }>;
}
