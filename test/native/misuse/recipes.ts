/** For every export arguments that it accepts, or nearly: the plausible calls that misuse starts from. */
import { fieldsOf } from "./surface.js";
import { ignore, type World } from "./world.js";

const FIELDS = { attention: fieldsOf("lr_attention_args"), head: fieldsOf("lr_head_args") };

/** The words of a structure, fields that are not given being 0. */
function words(fields: readonly { name: string }[], values: Record<string, number>): Float64Array {
  for (const name of Object.keys(values)) if (!fields.some((field) => field.name === name)) throw new Error(`no field ${name}`);
  return Float64Array.from(fields, ({ name }) => values[name] ?? 0);
}

/** Ops that are accepted or nearly; what a recording does not take now and then. */
function someOps(w: World): void {
  const names = Object.keys(KERNELS);
  for (let ops = w.below(4); ops > 0; ops--) {
    const name = w.of(names);
    const run = (w.addon.kernels as unknown as Record<string, (...args: unknown[]) => void>)[name]!;
    ignore(() => run(w.d, ...KERNELS[name]!(w)));
  }
  const other = w.of<() => unknown>([
    () => w.addon.record(w.d, () => {}),
    () => w.addon.replay(w.recording()),
    () => w.addon.read(w.f32(2)),
    () => w.addon.synchronize(w.d),
    () => w.addon.trim(w.d),
  ]);
  if (w.chance(0.3)) ignore(other);
}

function group(w: World, gradient: boolean): Float64Array {
  const rows = w.of([0, 1, 3, 6, 7, 20, 65]);
  const k = w.size();
  const gated = w.chance(0.3);
  const layers = gated && !w.chance(0.1) ? 2 : 1 + w.below(3);
  const same = gated && !w.chance(0.1) ? w.size() : undefined;
  const out = [
    w.f32(rows, k),
    gradient ? w.maybe(() => w.f32(rows, k)) : 0,
    w.below(2),
    w.below(2),
    w.of([0, 0, 0.1, 0.9, 1, -0.1, Number.NaN]),
    w.below(2 ** 32),
    w.below(2 ** 32),
    gated && (!gradient || w.chance(0.1)) ? w.f32(rows, same ?? w.size()) : 0,
    w.of([0, 1, 1, 2, -1]),
    layers,
  ];
  for (let l = 0; l < layers; l++) {
    const n = same ?? w.size();
    const segments = w.below(4);
    const cuts = Array.from({ length: 2 * segments }, () => w.below(rows + 1)).sort((a, b) => a - b);
    if (cuts.length > 0 && w.chance(0.15)) cuts[w.below(cuts.length)] = w.of([-1, rows + 1, 2 ** 40, -(2 ** 53), 2 ** 53]);
    const ranks = Array.from({ length: segments }, () => w.size());
    const most = Math.max(1, ...ranks) + w.below(2);
    out.push(
      w.weight(n, k),
      w.maybe(() => w.floats(n)),
      gated ? w.maybe(() => w.f32(rows, n)) : w.f32(rows, n),
      gradient ? w.f32(rows, most) : w.maybe(() => w.f32(rows, most)),
      gated && !w.chance(0.1) ? 0 : w.maybe(() => w.f32(rows, n)),
      segments,
    );
    ranks.forEach((r, s) => {
      const grad = (...shape: number[]) => (gradient ? w.maybe(() => w.f32(...shape)) : 0);
      out.push(cuts[2 * s]!, cuts[2 * s + 1]!, w.f32(r, k), w.f32(n, r), grad(r, k), grad(n, r), w.real());
    });
  }
  return Float64Array.from(out);
}

function attention(w: World, gradient: boolean): Float64Array {
  const paged = !gradient && w.chance(0.4);
  const kvHeads = w.of([1, 2, 3]);
  const heads = kvHeads * w.of([1, 2, 3]);
  const d = w.of([1, 3, 16, 17, 64, 65]);
  const sequences = w.below(4);
  const tokens = sequences === 0 ? 0 : w.of([0, 1, 5, 33, 70]);
  const cu = w.cumulative(sequences, tokens);
  const q = () => w.f32(tokens, heads, d);
  const common = {
    q: q(),
    out: q(),
    scale: w.real(),
    softcap: w.of([0, 0, 5, -1]),
    window: w.of([0, 0, 1, 10, -1, 2 ** 31 - 1]),
    max_q: w.of([0, 1, tokens, 1000, -1, 2 ** 31 - 1]),
    math: w.of([0, 1]),
  };
  if (paged) {
    const blocks = 1 + w.below(4);
    const per = 1 + w.below(3);
    const lengths = Array.from({ length: sequences }, (_, i) => cu[i + 1]! - cu[i]! + w.below(64 * per));
    if (sequences > 0 && w.chance(0.2)) lengths[w.below(sequences)] = w.of([-1, 0, 64 * per + 1, 2 ** 31 - 1]);
    const dtype = w.of([0, 0, 1, 1, 2]);
    const pool = () => w.tensor(w.chance(0.05) ? 0 : dtype, [blocks, 64, kvHeads, d]);
    const table = w.addon.view(w.indices(sequences * per, blocks), 0, 3, [sequences, per]);
    w.keep({ handle: table, dtype: 3, bytes: sequences * per * 4 });
    return words(FIELDS.attention, {
      ...common,
      k: pool(),
      v: pool(),
      cu_q: w.i32(cu),
      kv_len: w.i32(lengths),
      block_table: table,
      lse: w.maybe(() => w.f32(tokens, heads)),
    });
  }
  const own = w.chance(0.3);
  const keys = own ? w.size() : tokens;
  const kv = () => w.f32(keys, kvHeads, d);
  return words(FIELDS.attention, {
    ...common,
    k: kv(),
    v: kv(),
    cu_q: w.i32(cu),
    cu_k: own ? w.i32(w.cumulative(sequences, keys)) : 0,
    lse: gradient ? w.f32(tokens, heads) : w.maybe(() => w.f32(tokens, heads)),
    ...(gradient ? { dout: q(), dq: q(), dk: kv(), dv: kv() } : {}),
  });
}

function head(w: World, gradient: boolean): Float64Array {
  const [t, k, n] = [w.of([0, 1, 5, 17, 40]), w.size(), w.of([1, 2, 17, 100, 257])];
  const labels = Array.from({ length: t }, () => (w.chance(0.3) ? -100 : w.below(n)));
  if (t > 0 && w.chance(0.25)) labels[w.below(t)] = w.of([-1, n, -101, 2 ** 31 - 1, -(2 ** 31)]);
  return words(FIELDS.head, {
    x: w.f32(t, k),
    weight: w.weight(n, k),
    labels: w.i32(labels),
    softcap: w.of([0, 0, 30, -1, Number.NaN]),
    logit_scale: w.of([1, 0, w.real()]),
    smoothing: w.of([0, 0, 0.1, 1, 2]),
    z_loss: w.of([0, 1e-4]),
    math: w.below(2),
    ...(gradient
      ? {
          dvalue: w.f32(t),
          dentropy: w.maybe(() => w.f32(t)),
          dx: w.maybe(() => w.f32(t, k)),
          dweight: w.maybe(() => w.f32(n, k)),
        }
      : {
          value: w.f32(t),
          entropy: w.maybe(() => w.f32(t)),
          argmax: w.maybe(() => w.i32(Array(t).fill(0))),
          dx_unit: w.maybe(() => w.f32(t, k)),
        }),
  });
}

/** An arena with its header and segments as native code lays them out. */
function arena(w: World): { count: number; cuts: number[]; n: number; header: number; segments: number } {
  const n = w.of([0, 1, 256, 300, 1024, 20000]);
  const header = new BigInt64Array(8);
  header[0] = w.of([0n, 1n, 1000n, -1n, 2n ** 62n, 2n ** 63n - 1n]);
  header[1] = w.of([0n, 5n, 2n ** 63n - 1n]);
  new Float64Array(header.buffer)[2] = w.of([0, 1, 1e300, Number.NaN, Infinity]);
  new Int32Array(header.buffer).set([w.of([0, 1, 1, 1, 7]), w.of([0, 3, 2 ** 31 - 1])], 6);
  const count = w.below(4);
  const bytes = new ArrayBuffer(32 * count);
  const cuts = Array.from({ length: count + 1 }, () => Math.floor(w.below(n + 1) / 256) * 256).sort((a, b) => a - b);
  for (let i = 0; i < count; i++) {
    new BigInt64Array(bytes, 32 * i, 2).set([BigInt(cuts[i]!), BigInt(i + 1 === count ? n : cuts[i + 1]!)]);
    if (w.chance(0.1))
      new BigInt64Array(bytes, 32 * i, 2)[w.below(2)] = w.of([-1n, 100n, BigInt(n) + 1n, 2n ** 63n - 1n, -(2n ** 63n)]);
    new Float32Array(bytes, 32 * i + 16, 2).set([w.real(), w.real()]);
    // Mostly where its moments can lie: those of both widths may begin where the parameters do.
    new Int32Array(bytes, 32 * i + 24, 2).set([
      w.of([32, 32, 32, 8, 8, 8, 8, 7]),
      w.chance(0.9) ? cuts[i]! / 256 : w.of([0, -1, 2 ** 31 - 1, 5]),
    ]);
  }
  return {
    count,
    cuts: cuts.map((cut, i) => (i === count ? n : cut)),
    n,
    header: w.tensor(4, [64], header),
    segments: w.tensor(4, [32 * count], new Uint8Array(bytes)),
  };
}

const rate = (w: World) => w.of([0, 0.1, 0.9, 0.999, 1, 2, -1, w.real(), Number.NaN]);

/** Arguments in order, without the device number of kernels. */
export const KERNELS: Record<string, (w: World) => unknown[]> = {
  prefetch: (w) => both(w, (n) => [w.below(4), w.f32(n), w.f32(n)]),
  writeBack: (w) => both(w, (n) => [w.below(4), w.f32(n), w.f32(n)]),
  wait: (w) => [w.below(4)],
  fill: (w) => [w.tensor(w.below(5), [w.size()]), w.of([0, 1, 255, 256, -1, 0.5, 2 ** 31, -(2 ** 31), 1e300, Number.NaN])],
  copy: (w) => both(w, (n) => (w.chance(0.2) ? [w.u8(n), w.u8(n)] : [w.floats(n), w.floats(n)])),
  axpy: (w) => both(w, (n) => [w.f32(n), w.f32(n), w.real()]),
  add: (w) => both(w, (n) => [w.f32(n), w.f32(n), w.f32(n)]),
  scaleRows: (w) => both(w, (n, m) => [w.f32(n, m), w.f32(n, m), w.f32(n), w.below(2)]),
  copyColumns: (w) =>
    both(w, (n, m) => [
      w.f32(n, m),
      w.f32(n, m + 1),
      w.of([0, 0, m - 1, -1]),
      w.of([0, 1, 2 ** 31 - 1]),
      w.of([m, 1, 0, m + 1, -1]),
    ]),
  dot: (w) => both(w, (n) => [w.f32(1), w.f32(n), w.maybe(() => w.f32(n)), w.real(), w.below(2)]),
  random: (w) => [w.f32(w.size() * w.size()), w.below(2), w.real(), w.of([2, 3, w.real()]), w.of([0n, 2n ** 64n - 1n, 12345n])],
  embedding: (w) => both(w, (n, m) => [w.f32(n, m), w.floats(5, m), w.indices(n, 5), w.real()]),
  embeddingGrad: (w) => both(w, (n, m) => [w.f32(5, m), w.f32(n, m), w.indices(n, 5), w.real()]),
  rmsNorm: (w) =>
    both(w, (n, m) => [
      w.f32(n, m),
      w.maybe(() => w.f32(n)),
      w.f32(n, m),
      w.maybe(() => w.f32(n, m)),
      w.f32(m),
      1e-5,
      w.below(2),
    ]),
  rmsNormGrad: (w) =>
    both(w, (n, m) => [
      w.maybe(() => w.f32(n, m)),
      w.maybe(() => w.f32(m)),
      w.f32(n, m),
      w.maybe(() => w.f32(n, m)),
      w.f32(n, m),
      w.f32(n),
      w.f32(m),
      1e-5,
      w.below(2),
    ]),
  ropeTable: (w) =>
    both(w, (n, h) => [
      w.f32(n, 2 * h),
      w.i32(Array.from({ length: n }, () => w.of([0, 5, 2 ** 31 - 1, -(2 ** 31)]))),
      w.f32(h),
      w.real(),
    ]),
  rope: (w) => both(w, (n, h) => [w.f32(n, 2, 2 * h + 1), w.f32(n, 2, 2 * h + 1), w.f32(n, 2 * h), w.below(2)]),
  glu: (w) => both(w, (n) => [w.f32(n), w.f32(n), w.f32(n), w.of([0, 1, 1, 2, -1])]),
  gluGrad: (w) => both(w, (n) => [w.f32(n), w.f32(n), w.f32(n), w.f32(n), w.f32(n), w.of([0, 1, 1, 2, -1])]),
  softcap: (w) => both(w, (n) => [w.f32(n), w.f32(n), w.real(), w.of([30, 1, 0, -1, Number.NaN])]),
  softcapGrad: (w) => both(w, (n) => [w.f32(n), w.f32(n), w.f32(n), w.real(), w.of([30, 1, 0, -1, Number.NaN])]),
  linear: (w) => [group(w, false)],
  linearGrad: (w) => [group(w, true)],
  linearDw: (w) => both(w, (n, k) => [w.maybe(() => w.f32(n, k)), w.maybe(() => w.f32(n)), w.f32(9, n), w.f32(9, k), w.below(2)]),
  attention: (w) => [attention(w, false)],
  attentionGrad: (w) => [attention(w, true)],
  kvAppend: (w) => {
    const [heads, d, blocks, sequences, per] = [w.of([1, 2]), w.size(), 1 + w.below(4), 1 + w.below(3), 1 + w.below(3)];
    const tokens = w.below(40);
    const cu = w.cumulative(sequences, tokens);
    const lengths = Array.from({ length: sequences }, (_, i) => cu[i + 1]! - cu[i]! + w.below(64 * per - 39));
    if (w.chance(0.2)) lengths[w.below(sequences)] = w.of([-1, 0, 64 * per + 1, 2 ** 31 - 1]);
    const table = w.addon.view(w.indices(sequences * per, blocks), 0, 3, [sequences, per]);
    w.keep({ handle: table, dtype: 3, bytes: 4 * sequences * per });
    const dtype = w.of([0, 0, 1, 1, 2]);
    const pool = () => w.tensor(w.chance(0.05) ? 0 : dtype, [blocks, 64, heads, d]);
    return [pool(), pool(), w.f32(tokens, heads, d), w.f32(tokens, heads, d), w.i32(cu), w.i32(lengths), table];
  },
  tokenLogprob: (w) => [head(w, false)],
  tokenLogprobGrad: (w) => [head(w, true)],
  quantize4bit: (w) => {
    const [n, blocksize] = [w.of([0, 1, 2, 63, 64, 65, 1000, 20001]), w.of([32, 64, 4096, 0, 1, 33, 2 ** 30, -64])];
    const blocks = Math.ceil(n / Math.max(1, blocksize));
    return [w.u8(Math.ceil(n / 2)), w.f32(blocks), w.maybe(() => w.i32([0])), w.floats(n), w.below(3), blocksize];
  },
  dequantize4bit: (w) => both(w, (n, k) => [w.floats(n, k), w.weight(n, k)]),
  quantize8bit: (w) => blocks8(w, (n, blocks, size) => [w.u8(n), w.f32(blocks), w.f32(n), w.f32(256), size]),
  dequantize8bit: (w) => blocks8(w, (n, blocks, size) => [w.f32(n), w.u8(n), w.f32(blocks), w.f32(256), size]),
  quantizeAbsmax: (w) => blocks8(w, (n, blocks, size) => [w.u8(n), w.f32(blocks), w.f32(1), w.f32(n), w.f32(256), size]),
  gradStats: (w) => [arena(w).header, w.f32(w.of([0, 1, 5000, 20000])), w.maybe(() => w.f32(w.size()))],
  adamw: (w) => {
    const { n, header, segments } = arena(w);
    const dtype = w.of([0, 0, 0, 1]);
    const moment = () => [w.maybe(() => w.u8(n)), w.maybe(() => w.f32(Math.ceil(n / 256)))];
    const values = () => w.tensor(dtype, [n]);
    return [
      values(),
      w.f32(n),
      w.maybe(values),
      w.maybe(values),
      ...moment(),
      ...moment(),
      w.maybe(() => w.f32(2, 256)),
      header,
      segments,
      ...Array.from({ length: 5 }, () => rate(w)),
      w.below(2),
    ];
  },
  lion: (w) => {
    const { n, header, segments } = arena(w);
    const moment = [w.maybe(() => w.f32(n)), w.maybe(() => w.u8(n)), w.maybe(() => w.f32(Math.ceil(n / 256)))];
    return [w.f32(n), w.f32(n), ...moment, w.maybe(() => w.f32(256)), header, segments, rate(w), rate(w), rate(w), rate(w)];
  },
  adafactor: (w) => {
    const { count, cuts, n, header, segments } = arena(w);
    const shapes = new BigInt64Array(4 * count);
    for (let i = 0; i < count; i++) {
      const [begin, size] = [cuts[i]!, cuts[i + 1]! - cuts[i]!];
      const rows = w.of([1, 2, 4, size]);
      const shape = w.chance(0.3) ? [0, 0, begin, 0] : [rows, Math.floor(size / Math.max(1, rows)), begin, begin];
      if (w.chance(0.1)) shape[w.below(4)] = w.of([-1, 0, 3, n + 1, 2 ** 53]);
      shapes.set(shape.map(BigInt), 4 * i);
    }
    const table = w.tensor(4, [32 * count], shapes);
    const moments = Array.from({ length: 4 }, () => w.maybe(() => w.f32(n)));
    const decay = w.of([-0.8, -0.8, 0, -100, 0.5, Number.NaN]);
    const settings = [
      rate(w),
      1e-30,
      1e-3,
      w.of([1, 1, 0, Number.NaN]),
      decay,
      rate(w),
      w.below(2),
      w.below(2),
      w.below(2),
      rate(w),
    ];
    return [w.f32(n), w.f32(n), ...moments, header, segments, table, ...settings];
  },
  sgd: (w) => {
    const { n, header, segments } = arena(w);
    return [w.f32(n), w.f32(n), w.maybe(() => w.f32(n)), header, segments, rate(w), rate(w), rate(w), w.below(2), rate(w)];
  },
  multiplyAdds: (w) => [w.f32(w.of([0, 1, 2, 1000])), w.below(2), w.of([0, 1, -1, 501, 2 ** 31 - 1])],
};

const both = (w: World, make: (n: number, m: number) => unknown[]) =>
  make(w.chance(0.05) ? 0 : w.size(), w.chance(0.05) ? 0 : w.size());
const blocks8 = (w: World, make: (n: number, blocks: number, size: number) => unknown[]) => {
  const [n, size] = [w.of([0, 1, 7, 256, 1000]), w.of([1, 2, 7, 256, 2 ** 31 - 1, 0, -1])];
  return make(n, Math.ceil(n / Math.max(1, size)), size);
};

const bytesAt = (w: World) => w.of([0, 1, 4, 100, 4999, 5000, 5001, 2 ** 40, 2 ** 53, -1]);

/** The other functions of the addon. */
export const OTHERS: Record<string, (w: World) => unknown[]> = {
  openDevice: (w) => [
    w.of([
      "cpu",
      "cpu:scalar",
      "cpu:scalar:2",
      "cpu:avx2:1",
      "cpu:",
      "cpu::2",
      "cpu:scalar:0",
      "cpu:scalar:257",
      "cuda",
      "",
      "cpu:scalar:2\0",
    ]),
  ],
  deviceInfo: (w) => [w.d],
  memory: (w) => [w.d],
  limitMemory: (w) => [w.d, 0],
  resetPeak: (w) => [w.d],
  trim: (w) => [w.d],
  availableIsas: () => [],
  alloc: (w) => [w.d, w.below(5), [w.size(), w.size()]],
  allocHost: (w) => [w.d, w.below(5), [w.size(), w.size()]],
  view: (w) => [w.f32(9, 9), w.of([0, 1, 2, 4, 36, 324, 325, 2 ** 52]), w.below(5), [w.size(), w.below(10)]],
  free: (w) => [w.f32(w.size())],
  upload: (w) => both(w, (n) => [w.f32(n), new Float32Array(n)]),
  readFile: (w) => [
    w.u8(5000),
    bytesAt(w),
    w.of([w.file, w.file, w.folder, `${w.file}.none`, "/proc/self/mem", "/dev/null", "", `${w.file}\0.x`]),
    bytesAt(w),
    bytesAt(w),
  ],
  // Files that are no plugin: a real one is opened by test/emu.
  openPlugin: (w) => [
    w.of(["emu", "cpu", "", "plugin\0"]),
    w.of([w.folder, w.file, `${w.file}.none`, "/dev/null", "", `${w.file}\0.so`]),
  ],
  // Nothing that would grow: the disk is not ours alone.
  allocateFile: (w) => [w.of([w.folder, `${w.file}.none`, "/dev/null", "/proc/self/status", "", `${w.file}\0.x`]), bytesAt(w)],
  read: (w) => [w.f32(w.size())],
  synchronize: (w) => [w.d],
  weightDense: (w) => [w.floats(w.size(), w.size())],
  weight4bit: (w) => {
    const [n, k, blocksize] = [w.size(), w.size(), w.of([1, 64, 1000, 0, 2 ** 31 - 1])];
    const blocks = Math.ceil((n * k) / Math.max(1, blocksize));
    return [w.u8(Math.ceil((n * k) / 2)), w.f32(blocks), 0, 0, 0, w.f32(16), n, k, blocksize, w.of([0, 1, 256]), w.below(2)];
  },
  freeWeight: (w) => [w.weight(w.size(), w.size())],
  record: (w) => [w.d, () => someOps(w)],
  replay: (w) => [w.recording()],
  freeRecording: (w) => [w.recording()],
  failAllocation: (w) => [w.of([0, 1, 2, 3])],
  profile: (w) => [w.d, w.chance(0.5)],
};
