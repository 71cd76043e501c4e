/** Moves a checkpoint's weights to a device: file to device memory directly, 16-bit weights to be quantised through small buffers. */
import { LowrankError } from "../errors.js";
import { bfloat16ToFloat32, float16ToFloat32 } from "../half.js";
import type { Checkpoint } from "../io/checkpoint.js";
import { FourBitBuilder, type QuantizeOptions, Weight } from "../quant/weight.js";
import type { Device } from "../tensor/device.js";
import { DTYPE_BYTES, type DType } from "../tensor/dtype.js";
import { nativeAsync } from "../tensor/native-errors.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { readFourBit } from "./bitsandbytes.js";
import type { PlannedTensor } from "./plan.js";

export interface LoadOptions {
  device: Device;
  /** Quantise the linears that are stored in 16 or 32 bits. */
  quantize?: QuantizeOptions | undefined;
  /** Round products of 4-bit weights to bfloat16. */
  round: boolean;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
}

/** What was loaded, by the tensor's name in the checkpoint. */
export class ModelWeights {
  /** Matrices of linears and of an untied head. */
  readonly weights = new Map<string, Weight>();
  /** Embedding in the checkpoint's dtype; norms and biases in float32. */
  readonly tensors = new Map<string, Tensor>();
  /** The dtype in which the checkpoint keeps what is not quantised. */
  dtype: DType = "float32";

  weight(name: string): Weight {
    return this.weights.get(name)!;
  }

  tensor(name: string): Tensor {
    return this.tensors.get(name)!;
  }

  dispose(): void {
    for (const owned of [...this.weights.values(), ...this.tensors.values()]) owned.dispose();
  }
}

const DTYPES: Readonly<Record<string, DType>> = { F32: "float32", BF16: "bfloat16", F16: "float16" };
/** Bytes of one of the two buffers through which weights are quantised. */
const BUFFER_BYTES = 4 << 20;

/** Loads all planned tensors. On failure or abort nothing stays on the device. */
export async function loadWeights(
  checkpoint: Checkpoint,
  planned: readonly PlannedTensor[],
  options: LoadOptions,
): Promise<ModelWeights> {
  const loaded = new ModelWeights();
  const sizeOf = ({ name }: PlannedTensor) => checkpoint.tensors.get(name)!.end - checkpoint.tensors.get(name)!.begin;
  const total = planned.reduce((sum, spec) => sum + sizeOf(spec), 0);
  const quantizer = options.quantize
    ? new StreamQuantizer(options.device, { ...options.quantize, round: options.round })
    : undefined;
  let done = 0;
  try {
    for (const spec of planned) {
      options.signal?.throwIfAborted();
      await loadOne(checkpoint, spec, options, quantizer, loaded);
      done += sizeOf(spec);
      options.onProgress?.({ done, total });
    }
    await quantizer?.check();
    return loaded;
  } catch (error) {
    loaded.dispose();
    throw error;
  } finally {
    quantizer?.dispose();
  }
}

async function loadOne(
  checkpoint: Checkpoint,
  spec: PlannedTensor,
  { device, round }: LoadOptions,
  quantizer: StreamQuantizer | undefined,
  loaded: ModelWeights,
): Promise<void> {
  const { name, shape, kind } = spec;
  if (spec.quantState !== undefined) {
    loaded.weights.set(name, await readFourBit(checkpoint, name, spec.quantState, shape as [number, number], device, round));
    return;
  }
  const dtype = DTYPES[checkpoint.tensors.get(name)!.dtype]!;
  if (kind === "norm" || kind === "bias") {
    loaded.tensors.set(name, Tensor.from(await readFloats(checkpoint, name, dtype), shape, { device }));
    return;
  }
  if (kind === "linear" && quantizer) {
    loaded.weights.set(name, await quantizer.quantize(checkpoint, name, shape as [number, number], dtype));
    return;
  }
  const tensor = Tensor.empty(shape, { dtype, device });
  try {
    await readFileInto(tensor, checkpoint, name, 0, tensor.byteLength);
    if (kind === "embedding") {
      loaded.tensors.set(name, tensor);
      loaded.dtype = dtype;
    } else loaded.weights.set(name, Weight.dense(tensor));
  } catch (error) {
    tensor.dispose();
    throw error;
  }
}

/** Reads `length` bytes of a checkpoint's tensor, from byte `offset` on, straight into device memory. */
export function readFileInto(
  tensor: Tensor,
  checkpoint: Checkpoint,
  name: string,
  offset: number,
  length: number,
): Promise<void> {
  const { path } = checkpoint.weightMap.get(name)!;
  const { begin } = checkpoint.tensors.get(name)!;
  return nativeAsync(() => tensor.device.addon.readFile(tensor.handle, 0, path, begin + offset, length));
}

async function readFloats(checkpoint: Checkpoint, name: string, dtype: DType): Promise<Float32Array> {
  const { buffer } = await checkpoint.read(name);
  if (dtype === "float32") return new Float32Array(buffer);
  const bits = new Uint16Array(buffer);
  return dtype === "bfloat16" ? bfloat16ToFloat32(bits) : float16ToFloat32(bits);
}

/** Quantises matrices chunk by chunk: while one buffer is quantised the other is filled from the file. */
class StreamQuantizer {
  private readonly buffers: readonly Tensor[];
  private readonly names: string[] = [];
  private readonly nonFinite: Tensor[] = [];

  constructor(
    private readonly device: Device,
    private readonly options: QuantizeOptions,
  ) {
    const made = scope(() => [0, 1].map(() => Tensor.empty([BUFFER_BYTES], { dtype: "uint8", device })));
    this.buffers = made.map((buffer) => buffer.keep());
  }

  async quantize(checkpoint: Checkpoint, name: string, shape: readonly [number, number], dtype: DType): Promise<Weight> {
    const count = Tensor.zeros([1], { dtype: "int32", device: this.device });
    this.names.push(name);
    this.nonFinite.push(count);
    const builder = new FourBitBuilder(shape, this.device, this.options);
    const size = shape[0] * shape[1];
    const bytes = DTYPE_BYTES[dtype];
    const chunk = BUFFER_BYTES / bytes; // a multiple of every block size
    try {
      for (let at = 0, turn = 0; at < size; at += chunk, turn = 1 - turn) {
        const elements = Math.min(chunk, size - at);
        // Waits until the stream is done with the buffer's last contents.
        await readFileInto(this.buffers[turn]!, checkpoint, name, at * bytes, elements * bytes);
        using part = this.buffers[turn]!.view(0, dtype, [elements]);
        builder.add(part, at, count);
      }
      return builder.finish();
    } catch (error) {
      builder.dispose();
      throw error;
    }
  }

  /** @throws LowrankError INVALID_FILE naming the tensors with NaN or infinite values: they would spoil whole blocks in silence. */
  async check(): Promise<void> {
    const counts = await Promise.all(this.nonFinite.map((count) => count.read()));
    const spoiled = this.names.filter((_, i) => counts[i]![0]! > 0);
    if (spoiled.length === 0) return;
    throw new LowrankError(
      "INVALID_FILE",
      `${spoiled.length} tensors hold NaN or infinite values: ${spoiled.slice(0, 8).join(", ")}`,
      {
        hint: "The checkpoint is damaged: download it again.",
        details: { tensors: spoiled },
      },
    );
  }

  dispose(): void {
    for (const tensor of [...this.buffers, ...this.nonFinite]) tensor.dispose();
  }
}
