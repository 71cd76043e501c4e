import { LowrankError } from "../errors.js";
import { type ByteSink, writeFileDurable } from "./durable.js";
import { SAFETENSORS_DTYPES, type SafetensorsDType } from "./safetensors.js";

export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** Called once, when the tensor's turn has come; the bytes may come in parts. */
  bytes(): Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

const DTYPES = Object.keys(SAFETENSORS_DTYPES);

/** Bytes of a tensor of this form. */
export function tensorBytes(dtype: SafetensorsDType, shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1) * SAFETENSORS_DTYPES[dtype];
}

/** Exact size of the file that writeSafetensors makes of these entries. */
export function safetensorsSize(metadata: Record<string, string>, entries: readonly TensorEntry[]): number {
  const { header, data } = layout(metadata, entries);
  return header.byteLength + data;
}

/**
 * Writes a safetensors file, to a path (durably, replacing what was there) or into a sink of the durable writer. The same input gives
 * the same bytes: tensors lie as safetensors' own writer puts them, wide dtypes first, then by name. One tensor is in memory at a time.
 */
export async function writeSafetensors(
  target: string | ByteSink,
  metadata: Record<string, string>,
  entries: readonly TensorEntry[],
): Promise<void> {
  if (typeof target === "string") {
    await writeFileDurable(target, (sink) => writeSafetensors(sink, metadata, entries), {
      needed: safetensorsSize(metadata, entries),
    });
    return;
  }
  const { header, sorted } = layout(metadata, entries);
  await target.write(header);
  for (const entry of sorted) {
    const expected = tensorBytes(entry.dtype, entry.shape);
    let found = 0;
    for await (const part of parts(await entry.bytes())) {
      found += part.byteLength;
      if (found > expected) break;
      await target.write(part);
    }
    if (found !== expected) {
      throw new LowrankError(
        "SHAPE_MISMATCH",
        `tensor '${entry.name}' ${entry.dtype} [${entry.shape}] has ${expected} bytes, ${found} were given`,
        {
          details: { tensor: entry.name, expected, found },
        },
      );
    }
  }
}

function layout(metadata: Record<string, string>, entries: readonly TensorEntry[]) {
  const sorted = [...entries].sort(
    (a, b) => DTYPES.indexOf(b.dtype) - DTYPES.indexOf(a.dtype) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
  const seen = new Set<string>(["__metadata__"]);
  const fields: string[] = Object.keys(metadata).length > 0 ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  let data = 0;
  for (const { name, dtype, shape } of sorted) {
    if (seen.has(name))
      throw new LowrankError("INVALID_ARGUMENT", `two tensors are called '${name}'`, { details: { tensor: name } });
    seen.add(name);
    const end = data + tensorBytes(dtype, shape);
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [data, end] })}`);
    data = end;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const header = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(json, 8);
  return { header, sorted, data };
}

async function* parts(bytes: Uint8Array | AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  if (bytes instanceof Uint8Array) yield bytes;
  else yield* bytes;
}
