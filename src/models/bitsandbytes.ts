/** 4-bit weights of a checkpoint in bitsandbytes' form (formats.md D.3): read as they are, and written again. */
import { LowrankError } from "../errors.js";
import type { Checkpoint } from "../io/checkpoint.js";
import { LIMITS } from "../io/input.js";
import { parseJsonObject } from "../io/json.js";
import type { TensorEntry } from "../io/safetensors-write.js";
import { CODE_BOOKS, type QuantType } from "../quant/codes.js";
import { type FourBitParts, Weight } from "../quant/weight.js";
import type { Device } from "../tensor/device.js";
import { DTYPE_BYTES } from "../tensor/dtype.js";
import { Tensor } from "../tensor/tensor.js";
import { ConfigReader } from "./config-reader.js";
import { readFileInto } from "./loader.js";

interface QuantState {
  quantType: QuantType;
  blocksize: number;
  shape: readonly unknown[];
  nested: { blocksize: number; offset: number } | undefined;
}

/** Reads the codes and statistics of one matrix [out, in]. @throws LowrankError INVALID_FILE when they do not fit together. */
export async function readFourBit(
  checkpoint: Checkpoint,
  name: string,
  quantState: string,
  shape: readonly [number, number],
  device: Device,
  round: boolean,
): Promise<Weight> {
  const stateInfo = checkpoint.tensors.get(quantState)!;
  const stateBytes = stateInfo.end - stateInfo.begin;
  if (stateBytes > LIMITS.quantState.bytes) throw wrong(checkpoint, name, `has a quant_state of ${stateBytes} bytes`);
  const state = parseQuantState(await checkpoint.read(quantState), `${checkpoint.folder}: the quant_state of ${name}`);
  const size = shape[0] * shape[1];
  const blocks = Math.ceil(size / state.blocksize);
  if (String(state.shape) !== String(shape))
    throw wrong(checkpoint, name, `has shape [${state.shape}] in its quant_state, the config says [${shape}]`);
  const made: Tensor[] = [];
  const load = async (part: string, dtype: "uint8" | "float32", count: number) => {
    const info = checkpoint.tensors.get(part);
    if (!info) throw wrong(checkpoint, name, `lacks ${part}`);
    const bytes = count * DTYPE_BYTES[dtype];
    if (info.end - info.begin !== bytes)
      throw wrong(checkpoint, name, `needs ${bytes} bytes in ${part}, it has ${info.end - info.begin}`);
    const tensor = Tensor.empty([count], { dtype, device });
    made.push(tensor);
    await readFileInto(tensor, checkpoint, part, 0, tensor.byteLength);
    return tensor;
  };
  try {
    const { nested } = state;
    const parts: FourBitParts = {
      codes: await load(name, "uint8", Math.ceil(size / 2)),
      absmax: await load(`${name}.absmax`, nested ? "uint8" : "float32", blocks),
      code: await load(`${name}.quant_map`, "float32", 16),
      quantType: state.quantType,
      blocksize: state.blocksize,
      nestedBlocksize: nested?.blocksize ?? 256,
    };
    if (nested) {
      const offset = Tensor.from([nested.offset], [1], { device });
      made.push(offset);
      parts.nested = {
        absmax: await load(`${name}.nested_absmax`, "float32", Math.ceil(blocks / nested.blocksize)),
        code: await load(`${name}.nested_quant_map`, "float32", 256),
        offset,
      };
    }
    return Weight.fourBit(parts, shape, round);
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  }
}

function parseQuantState(bytes: Uint8Array, what: string): QuantState {
  const json = parseJsonObject(new TextDecoder().decode(bytes), what, LIMITS.quantState);
  const reader = new ConfigReader(json);
  reader.accept("quant_type", Object.keys(CODE_BOOKS));
  reader.accept("nested_dtype", ["float32"]);
  const state: QuantState = {
    quantType: reader.string("quant_type") as QuantType,
    blocksize: reader.size("blocksize"),
    shape: Array.isArray(json.shape) ? json.shape : [],
    nested: reader.has("nested_offset")
      ? { blocksize: reader.size("nested_blocksize", 256), offset: reader.number("nested_offset") }
      : undefined,
  };
  for (const [key, size] of [
    ["blocksize", state.blocksize],
    ["nested_blocksize", state.nested?.blocksize ?? 256],
  ] as const)
    if (size < 32 || size > 4096 || (size & (size - 1)) !== 0)
      reader.invalid(key, `must be a power of two from 32 to 4096, not ${size}`);
  reader.finish(what);
  return state;
}

function wrong({ folder }: Checkpoint, name: string, what: string): LowrankError {
  return new LowrankError("INVALID_FILE", `${folder}: the 4-bit weight ${name} ${what}`, {
    hint: "Download the checkpoint again.",
    details: { folder, tensor: name },
  });
}

/**
 * The tensors that store a 4-bit weight, exactly as bitsandbytes writes them.
 * @param dtype what dequantised values are rounded to by its readers: the model's own dtype.
 */
export async function fourBitEntries(name: string, weight: Weight, parts: FourBitParts, dtype: string): Promise<TensorEntry[]> {
  const bytes = (tensor: Tensor) => async () => {
    const values = await tensor.read();
    return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  };
  const { codes, absmax, nested, code, quantType, blocksize, nestedBlocksize } = parts;
  const state: [string, unknown][] = [
    ["quant_type", quantType],
    ["blocksize", blocksize],
    ["dtype", dtype],
    ["shape", [weight.outFeatures, weight.inFeatures]],
  ];
  if (nested)
    state.push(["nested_blocksize", nestedBlocksize], ["nested_dtype", "float32"], ["nested_offset", await nested.offset.item()]);
  const json = new TextEncoder().encode(pythonJson(state));
  const entries: TensorEntry[] = [
    { name, dtype: "U8", shape: [codes.size, 1], bytes: bytes(codes) },
    { name: `${name}.absmax`, dtype: nested ? "U8" : "F32", shape: [absmax.size], bytes: bytes(absmax) },
    { name: `${name}.quant_map`, dtype: "F32", shape: [16], bytes: bytes(code) },
    { name: `${name}.quant_state.bitsandbytes__${quantType}`, dtype: "U8", shape: [json.length], bytes: () => json },
  ];
  if (nested) {
    entries.push(
      { name: `${name}.nested_absmax`, dtype: "F32", shape: [nested.absmax.size], bytes: bytes(nested.absmax) },
      { name: `${name}.nested_quant_map`, dtype: "F32", shape: [256], bytes: bytes(nested.code) },
    );
  }
  return entries;
}

/** With the separators of Python's json.dumps. */
function pythonJson(fields: readonly [string, unknown][]): string {
  const value = (x: unknown): string => (Array.isArray(x) ? `[${x.map(value).join(", ")}]` : JSON.stringify(x));
  return `{${fields.map(([key, x]) => `"${key}": ${value(x)}`).join(", ")}}`;
}

/**
 * `quantization_config` of config.json.
 * @param dense paths of linears that are not quantised. @param former what the model was loaded with, whose other keys stay.
 */
export function quantizationConfig(parts: FourBitParts, dense: readonly string[], former: object): Record<string, unknown> {
  return {
    _load_in_4bit: true,
    _load_in_8bit: false,
    bnb_4bit_compute_dtype: "bfloat16",
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_threshold: 6.0,
    load_in_4bit: true,
    load_in_8bit: false,
    quant_method: "bitsandbytes",
    ...former,
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: parts.quantType,
    bnb_4bit_use_double_quant: parts.nested !== undefined,
    // null stands for the head alone.
    llm_int8_skip_modules: dense.length === 0 ? null : ["lm_head", ...dense],
  };
}
