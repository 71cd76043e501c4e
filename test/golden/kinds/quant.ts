/** Kinds nf4, nf4_nonfinite, nf4_storage, nf4_tables (golden/peft), qmap and blockwise8 (golden/train). */
import { join } from "node:path";
import { CODE_BOOKS, CODE4_NUMBER, DYNAMIC_SIGNED, dynamicMap, type QuantType } from "../../../src/quant/codes.js";
import { type Device, getDevice } from "../../../src/tensor/device.js";
import { scope } from "../../../src/tensor/scope.js";
import { Tensor } from "../../../src/tensor/tensor.js";
import { type GoldenTensor, readTensors } from "../tensors.js";
import type { GoldenHandler, GoldenOutcome } from "../types.js";

const NESTED_BLOCKSIZE = 256;

/** Collects what differs and the largest error. */
class Findings {
  private worst = 0;
  private readonly wrong: string[] = [];

  check(name: string, error: number, limit: number): void {
    if (!(error <= this.worst)) this.worst = error;
    if (!(error <= limit)) this.wrong.push(`${name} is off by ${error}`);
  }
  equal(name: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
    this.check(name, actual.length === expected.length ? differences(actual, expected) : Number.NaN, 0);
  }
  outcome(): GoldenOutcome {
    if (this.wrong.length === 0) return { ok: true, maxError: this.worst };
    return {
      ok: false,
      maxError: this.worst,
      reason: `${this.wrong.length} tensors differ: ${this.wrong.slice(0, 3).join("; ")}`,
    };
  }
}

const differences = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let count = 0;
  for (let i = 0; i < b.length; i++) if (!Object.is(a[i]! + 0, b[i]! + 0)) count++;
  return count;
};

/** Largest difference relative to the largest expected magnitude or 1; equal infinities do not differ. */
function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0;
  let scale = 1;
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] === expected[i]) continue;
    scale = Math.max(scale, Math.abs(expected[i]!));
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (!(difference <= error)) error = difference;
  }
  return error / scale;
}

interface Quantized {
  codes: Uint8Array;
  absmax: Float32Array;
  nonFinite: number;
}

/** Runs `quantize4bit` on host values. */
async function quantize(device: Device, x: Float32Array, type: QuantType, blocksize: number): Promise<Quantized> {
  const t = scope(() => {
    const codes = Tensor.empty([Math.ceil(x.length / 2)], { dtype: "uint8", device });
    const absmax = Tensor.empty([Math.ceil(x.length / blocksize)], { device });
    const nonFinite = Tensor.from(Int32Array.of(0), [1], { device });
    const source = Tensor.from(x, [x.length], { device });
    device.kernels.quantize4bit(
      device.number,
      codes.handle,
      absmax.handle,
      nonFinite.handle,
      source.handle,
      CODE4_NUMBER[type],
      blocksize,
    );
    return { codes, absmax, nonFinite };
  });
  const result = {
    codes: (await t.codes.read()) as Uint8Array,
    absmax: await t.absmax.readFloat32(),
    nonFinite: await t.nonFinite.item(),
  };
  for (const tensor of Object.values(t)) tensor.dispose();
  return result;
}

/** Blockwise 8-bit quantisation; with `offset` of the values less their mean. */
async function quantize8(device: Device, x: Float32Array, map: Float32Array, blocksize: number, subtractMean: boolean) {
  const t = scope(() => {
    const codes = Tensor.empty([x.length], { dtype: "uint8", device });
    const absmax = Tensor.empty([Math.ceil(x.length / blocksize)], { device });
    const offset = Tensor.zeros([1], { device });
    const source = Tensor.from(x, [x.length], { device });
    const table = Tensor.from(map, [256], { device });
    if (subtractMean)
      device.kernels.quantizeAbsmax(
        device.number,
        codes.handle,
        absmax.handle,
        offset.handle,
        source.handle,
        table.handle,
        blocksize,
      );
    else device.kernels.quantize8bit(device.number, codes.handle, absmax.handle, source.handle, table.handle, blocksize);
    return { codes, absmax, offset };
  });
  const result = {
    codes: (await t.codes.read()) as Uint8Array,
    absmax: await t.absmax.readFloat32(),
    offset: await t.offset.item(),
  };
  for (const tensor of Object.values(t)) tensor.dispose();
  return result;
}

interface Statistics {
  absmax?: GoldenTensor | undefined;
  codes?: GoldenTensor | undefined;
  nestedAbsmax?: GoldenTensor | undefined;
  offset?: GoldenTensor | undefined;
}

/** Decodes codes with the golden statistics, as a file that someone else wrote would be. */
async function dequantize(
  device: Device,
  codes: Uint8Array,
  n: number,
  type: QuantType,
  blocksize: number,
  s: Statistics,
  dtype: "float32" | "bfloat16",
) {
  const y = scope(() => {
    const upload = (tensor: GoldenTensor | undefined) =>
      tensor ? Tensor.from(tensor.data as Float32Array | Uint8Array, [tensor.data.length], { device }).handle : 0;
    const nested = s.codes !== undefined;
    const weight = device.addon.weight4bit(
      Tensor.from(codes, [codes.length], { device }).handle,
      upload(nested ? s.codes : s.absmax),
      upload(s.nestedAbsmax),
      nested ? Tensor.from(DYNAMIC_SIGNED, [256], { device }).handle : 0,
      upload(s.offset),
      Tensor.from(CODE_BOOKS[type], [16], { device }).handle,
      1,
      n,
      blocksize,
      nested ? NESTED_BLOCKSIZE : 0,
      0,
    );
    const out = Tensor.empty([1, n], { dtype, device });
    device.kernels.dequantize4bit(device.number, out.handle, weight);
    device.addon.freeWeight(weight);
    return out;
  });
  const values = await y.readFloat32();
  y.dispose();
  return values;
}

const nf4: GoldenHandler = async ({ dir, spec, options }) => {
  const device = getDevice(options.device);
  const x = Float32Array.from(readTensors(join(dir, "inputs.safetensors")).get("x")!.data);
  const expected = readTensors(join(dir, "expected.safetensors"));
  const found = new Findings();
  for (const { label, quantType, blocksize, nested } of spec.configs) {
    const get = (name: string) => expected.get(`${label}.${name}`);
    const { codes, absmax } = await quantize(device, x, quantType, blocksize);
    const expectedCodes = get("codes");
    if (expectedCodes) found.equal(`${label}.codes`, codes, expectedCodes.data);
    const statistics: Statistics = {
      absmax: get("absmax"),
      codes: get("absmax_codes"),
      nestedAbsmax: get("nested_absmax"),
      offset: get("offset"),
    };
    if (nested) {
      const inner = await quantize8(device, absmax, DYNAMIC_SIGNED, NESTED_BLOCKSIZE, true);
      // A mean in float32 that was summed in another order may be two units in the last place away.
      found.check(
        `${label}.offset`,
        largestError([inner.offset], statistics.offset!.data),
        Math.max(spec.tolerance.offset, 2 ** -22),
      );
      found.check(`${label}.nested_absmax`, largestError(inner.absmax, statistics.nestedAbsmax!.data), 1e-6);
      found.check(
        `${label}.absmax_codes`,
        nestedCodeError(inner.codes, statistics.codes!.data, statistics.nestedAbsmax!.data),
        0,
      );
    } else found.equal(`${label}.absmax`, absmax, statistics.absmax!.data);
    const limit = spec.dequantLimit ?? x.length;
    for (const [name, dtype] of [
      ["dequant_fp32", "float32"],
      ["dequant_bf16", "bfloat16"],
    ] as const) {
      const values = get(name);
      if (!values) continue;
      const decoded = await dequantize(device, codes, x.length, quantType, blocksize, statistics, dtype);
      found.check(`${label}.${name}`, largestError(decoded.subarray(0, limit), values.data), spec.tolerance[name]);
    }
  }
  return found.outcome();
};

/** 0 when at most 1 in 100 codes (and at least one) differs, by one step. Where the block's absmax is 0 every code means 0. */
function nestedCodeError(actual: Uint8Array, expected: ArrayLike<number>, nestedAbsmax: ArrayLike<number>): number {
  let off = 0;
  for (let i = 0; i < expected.length; i++) {
    if (nestedAbsmax[Math.floor(i / NESTED_BLOCKSIZE)] === 0) continue;
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (difference > 1) return difference;
    off += difference;
  }
  return off <= Math.max(1, expected.length / 100) ? 0 : off;
}

const nonFinite: GoldenHandler = async ({ dir, spec, options }) => {
  const device = getDevice(options.device);
  const inputs = readTensors(join(dir, "inputs.safetensors")).get("x")!.data;
  const expected = readTensors(join(dir, "expected.safetensors"));
  const found = new Findings();
  const values: Record<string, number> = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, "-inf": Number.NEGATIVE_INFINITY };
  for (const [name, row] of Object.entries<{ position: number; absmax: string[] }>(spec.rows)) {
    const x = Float32Array.from(inputs);
    x[row.position] = values[name]!;
    const { codes, absmax, nonFinite: count } = await quantize(device, x, spec.quantType, spec.blocksize);
    found.equal(`${name}: number of values that are not finite`, [count], [1]);
    found.equal(`${name}.codes`, codes, expected.get(`${name}.codes`)!.data);
    found.equal(
      `${name}.absmax`,
      absmax,
      row.absmax.map((text) => (text === "inf" ? Number.POSITIVE_INFINITY : Number(text))),
    );
    const statistics = { absmax: { shape: [absmax.length], dtype: "F32", data: absmax } };
    const decoded = await dequantize(device, codes, x.length, spec.quantType, spec.blocksize, statistics, "float32");
    const written = decoded.map((v) => (Number.isNaN(v) ? 12345 : v === Number.POSITIVE_INFINITY ? 1e38 : v));
    found.check(`${name}.dequant_fp32`, largestError(written, expected.get(`${name}.dequant_fp32`)!.data), 1e-6);
  }
  return found.outcome();
};

const storage: GoldenHandler = async ({ dir, spec, options }) => {
  const x = Float32Array.from(readTensors(join(dir, "inputs.safetensors")).get("x")!.data);
  const found = new Findings();
  const { codes } = await quantize(getDevice(options.device), x, "nf4", 64);
  found.equal("nf4.64.codes", codes, readTensors(join(dir, "expected.safetensors")).get("nf4.64.codes")!.data);
  const bytesOf: Record<string, number> = { bfloat16: 2, float16: 2, float32: 4 };
  for (const { quantStorage, shape } of spec.rows)
    found.equal(`shape in ${quantStorage}`, shape, [codes.length / bytesOf[quantStorage]!, 1]);
  return found.outcome();
};

const tables: GoldenHandler = async ({ dir }) => {
  const expected = readTensors(join(dir, "expected.safetensors"));
  const found = new Findings();
  const ours = { nf4: CODE_BOOKS.nf4, fp4: CODE_BOOKS.fp4, dynamic_signed: DYNAMIC_SIGNED, dynamic_unsigned: dynamicMap(false) };
  for (const [name, values] of Object.entries(ours)) found.equal(name, values, expected.get(name)!.data);
  return found.outcome();
};

const qmap: GoldenHandler = async ({ dir, spec }) => {
  const expected = readTensors(join(dir, spec.expectedTensors));
  const found = new Findings();
  found.equal("signed", DYNAMIC_SIGNED, expected.get("signed")!.data);
  found.equal("unsigned", dynamicMap(false), expected.get("unsigned")!.data);
  return found.outcome();
};

const blockwise8: GoldenHandler = async ({ dir, spec, options }) => {
  const device = getDevice(options.device);
  const inputs = readTensors(join(dir, spec.inputs));
  const expected = readTensors(join(dir, spec.expectedTensors));
  const found = new Findings();
  for (const { name, map, blockSize } of spec.entries) {
    const x = Float32Array.from(inputs.get(name)!.data);
    const table = map === "signed" ? DYNAMIC_SIGNED : dynamicMap(false);
    const ours = await quantize8(device, x, table, blockSize, false);
    const codes = expected.get(`${name}.codes`)!.data as Uint8Array;
    const off = codes.reduce(
      (n: number, code: number, i: number) =>
        n + (Math.abs(code - ours.codes[i]!) > 1 ? x.length : code === ours.codes[i] ? 0 : 1),
      0,
    ) as number;
    found.check(
      `${name}: share of codes off by one`,
      off / x.length <= spec.tolerance.codesMayDifferByOneShare ? 0 : off / x.length,
      0,
    );
    found.check(`${name}.absmax`, largestError(ours.absmax, expected.get(`${name}.absmax`)!.data), spec.tolerance.absmax);
    const y = scope(() => {
      const out = Tensor.empty([x.length], { device });
      const absmax = Tensor.from(ours.absmax, [ours.absmax.length], { device });
      const golden = Tensor.from(Uint8Array.from(codes), [x.length], { device });
      device.kernels.dequantize8bit(
        device.number,
        out.handle,
        golden.handle,
        absmax.handle,
        Tensor.from(table, [256], { device }).handle,
        blockSize,
      );
      return out;
    });
    found.check(
      `${name}.dequantized`,
      largestError(await y.readFloat32(), expected.get(`${name}.dequantized`)!.data),
      spec.tolerance.dequantized,
    );
    y.dispose();
  }
  return found.outcome();
};

export const quantHandlers: Record<string, GoldenHandler> = {
  nf4,
  nf4_nonfinite: nonFinite,
  nf4_storage: storage,
  nf4_tables: tables,
  qmap,
  blockwise8,
};
