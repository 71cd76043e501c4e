/** What one call of an op costs a GPU, launch by launch, from the tile sizes of its kernels. */
import { type Gpu, LANES, SHARED_BYTES } from "./devices.js";
import { type Group, groupOf, type Layer } from "./group.js";
import { TILES } from "./tiles.js";
import type { OpCall, Trace, TracedTensor, TracedWeight } from "./trace.js";

/** One launch of a kernel. What a field leaves out is 0. */
export interface Launch {
  kernel: string;
  /** Operations on tensor cores and on lanes (a multiply-add is two), padding of tiles included; those that the op itself needs. */
  tensor?: number;
  lanes?: number;
  useful?: number;
  /** Bytes to and from memory, from L2, and moved by shared memory. */
  dram?: number;
  l2?: number;
  shared?: number;
  /** Blocks of the grid; absent: as many as fill the device. */
  blocks?: number;
}

export interface Cost {
  seconds: number;
  /** The resource that takes longest. */
  bound: "tensor" | "lanes" | "dram" | "l2" | "shared" | "launch";
  /** Time of the useful work alone at the device's best rate, or of its bytes. */
  ideal: number;
}

export function costOf(launch: Launch, gpu: Gpu): Cost {
  const lanes = gpu.multiprocessors * LANES * gpu.clock;
  const times = {
    tensor: (launch.tensor ?? 0) / (gpu.tensor * gpu.mmaShare),
    lanes: (launch.lanes ?? 0) / 2 / lanes,
    dram: (launch.dram ?? 0) / gpu.dram,
    l2: (launch.l2 ?? 0) / gpu.l2,
    shared: (launch.shared ?? 0) / (gpu.multiprocessors * SHARED_BYTES * gpu.clock),
  };
  const [bound, longest] = Object.entries(times).reduce((a, b) => (b[1] > a[1] ? b : a)) as [Cost["bound"], number];
  // Where blocks do not come out even some multiprocessors idle; blocks that are on one together share what it does in a clock.
  const each = (launch.blocks ?? 0) / gpu.multiprocessors;
  const waves = each === 0 ? 1 : Math.ceil(each) / each;
  const busy = longest * (bound === "dram" ? 1 : waves);
  const useful = (launch.useful ?? 0) / gpu.tensor;
  return {
    seconds: Math.max(busy, gpu.launch),
    bound: busy < gpu.launch ? "launch" : bound,
    ideal: Math.max(useful, times.dram),
  };
}

/** A product of a launch: C [rows, columns] over `depth`, cut into `parts`; `rank` of its adapter, as one more K-tile. */
interface Product {
  rows: number;
  columns: number;
  depth: number;
  parts?: number;
  rank?: number;
  /** How often memory sees something of C's size: once where C is only written, once more for what is added to it; less where it is not kept. */
  passes?: number;
}

const over = (a: number, b: number) => Math.ceil(a / b);
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

/** gemm_bf16.cu. `width`: bytes of an element of B in memory. */
export function gemm(products: readonly Product[], kind: TracedWeight["kind"], width: number, gpu: Gpu): Launch {
  const { enough, large, small, decodeClocks } = TILES.gemm;
  const tilesOf = (tile: { rows: number; columns: number }) => (p: Product) =>
    over(p.rows, tile.rows) * over(p.columns, tile.columns) * (p.parts ?? 1);
  const filling = products.filter(({ rows, columns }) => rows > small.rows && columns > small.columns);
  const isLarge = sum(filling.map(tilesOf(large))) >= enough;
  const tile = isLarge ? large : small;
  const { step } = tile;
  // A warp reads its rows of A and columns of B by ldmatrix; both tiles were written once, codes besides written and read.
  const read = 2 * step * (tile.across * tile.rows + tile.down * tile.columns);
  const written = 2 * step * (tile.rows + tile.columns) + (kind === "coded" ? step * tile.columns : 0);
  const result: Required<Pick<Launch, "tensor" | "lanes" | "useful" | "dram" | "l2" | "shared" | "blocks">> = {
    tensor: 0,
    lanes: 0,
    useful: 0,
    dram: 0,
    l2: 0,
    shared: 0,
    blocks: 0,
  };
  for (const p of products) {
    const blocks = tilesOf(tile)(p);
    const parts = p.parts ?? 1;
    const depth = p.depth / parts;
    const steps = over(depth, step) + over(p.rank ?? 0, step);
    result.blocks += blocks;
    result.tensor += blocks * 2 * tile.rows * tile.columns * (over(depth, 16) + over(p.rank ?? 0, 16)) * 16;
    result.useful += 2 * p.rows * p.columns * (p.depth + (p.rank ?? 0));
    result.shared += blocks * steps * (read + written);
    // The schedulers' clocks for decoding, as lanes that they keep from other work: of a thread's 32 weights, in both tiles a step.
    if (kind === "coded") result.lanes += blocks * over(depth, step) * decodeClocks * LANES * 2;
    // Of a sector of 32 bytes, where a step takes 16, L1 is taken to keep the others for the next.
    const fetched = blocks * depth * (2 * tile.rows + width * tile.columns);
    const unique = 2 * p.rows * p.depth + width * p.columns * p.depth;
    result.l2 += fetched;
    // What L2 does not hold is fetched once for each wave of tiles.
    const waves = unique > gpu.l2Bytes ? Math.sqrt(over(blocks, gpu.multiprocessors * tile.blocks)) : 1;
    const c = 4 * p.rows * p.columns * parts * (p.passes ?? 1);
    result.dram += Math.min(fetched, 2 * p.rows * p.depth * waves + width * p.columns * p.depth) + c;
  }
  return { kernel: `gemm_bf16_${isLarge ? "large" : "small"} (${kind})`, ...result };
}

const memory = (kernel: string, bytes: number): Launch => ({ kernel, dram: bytes });

/** float32 in, bf16 out. */
const LAID = 6;
const { partDepth } = TILES.gemm;

/** A thin product in parts, and the sum of the parts. */
function thin(products: readonly Product[], gpu: Gpu): Launch[] {
  const inParts = products.map((p) => ({ ...p, parts: over(p.depth, partDepth) }));
  if (inParts.length === 0) return [];
  const bytes = sum(inParts.map(({ rows, columns, parts }) => rows * columns * (4 * parts + 6)));
  return [{ ...gemm(inParts, "direct", 2, gpu) }, memory("sum_kernel", bytes)];
}

function linear(g: Group, gpu: Gpu): Launch[] {
  const { weight } = g.layers[0]!;
  const ranks = sum(g.layers.map((l) => l.ranks));
  const size = sum(g.layers.map(({ weight: { n, k, width } }) => n * k * width));
  const outputs = sum(g.layers.map(({ weight: { n } }) => n));
  // Columns that memory sees: y where it is kept, residuals, the gated product.
  const passesOf = ({ residual, kept }: Layer) => (kept ? 1 : 0) + (residual ? 1 : 0) + (g.gated ? 0.5 : 0);
  const passed = sum(g.layers.map((l) => l.weight.n * passesOf(l)));
  if (g.rows <= TILES.fewRows) {
    const factors = sum(g.layers.map((l) => 4 * l.ranks * (l.weight.n + g.k)));
    const flops = 2 * g.rows * sum(g.layers.map((l) => l.weight.n * g.k));
    return [
      {
        kernel: "few_rows",
        dram: size + factors + 4 * g.rows * (g.k + passed),
        useful: flops,
        lanes: weight.kind === "coded" ? 5 * outputs * g.k : flops,
      },
    ];
  }
  const factors = sum(g.layers.map((l) => l.ranks * (g.k + l.weight.n)));
  const laid = g.rows * g.k * (g.dropout && ranks > 0 ? 2 : 1) + factors;
  return [
    memory("lay_kernel", laid * LAID),
    ...thin(ranks > 0 ? [{ rows: g.rows, columns: ranks, depth: g.k }] : [], gpu),
    gemm(
      // A tile of gate and up takes the adapters of both, each with zeros for the other.
      g.layers.map((l) => ({
        rows: g.rows,
        columns: l.weight.n,
        depth: g.k,
        rank: g.gated ? ranks : l.ranks,
        passes: passesOf(l),
      })),
      weight.kind,
      weight.width,
      gpu,
    ),
  ];
}

function linearGrad(g: Group, gpu: Gpu): Launch[] {
  const { weight } = g.layers[0]!;
  const outputs = sum(g.layers.map((l) => l.weight.n));
  const ranks = sum(g.layers.map((l) => l.ranks));
  const factors = sum(g.layers.map((l) => l.ranks * (g.k + l.weight.n)));
  const du = g.layers.filter((l) => l.ranks > 0).map((l) => ({ rows: g.rows, columns: l.ranks, depth: l.weight.n }));
  const base = { rows: g.rows, columns: g.k, depth: outputs, rank: ranks, passes: g.accumulate ? 2 : 1 };
  // Of adapters that train, their input and u.
  const trained = g.trains ? g.rows * (g.k + ranks) : 0;
  const grads = [
    { rows: ranks, columns: g.k, depth: g.rows },
    ...g.layers.map((l) => ({ rows: l.weight.n, columns: l.ranks, depth: g.rows })),
  ];
  return [
    memory("lay_kernel", (g.rows * outputs + factors + trained) * LAID),
    ...thin(du, gpu),
    ...(g.hasDx ? [gemm([base], weight.kind, weight.width, gpu)] : []),
    ...(g.trains ? thin(grads, gpu) : []),
  ];
}

/** Wavefronts of shared memory for row_products (a step of 4 columns) and add_weighted_rows (a step of one row), by attention_tile.cuh's 16 x 16 threads. */
const wavefronts = { rows: (i: number, j: number) => i + 2 * j, weighted: (i: number, slices: number) => i + 2 * slices };

/**
 * Products of two tiles over all pairs that see each other, tiles on the diagonal whole: `rows` by row_products, `weighted` by add_weighted_rows.
 * `needed` of them are no repetition of another kernel's.
 */
function attentionPass(
  kernel: string,
  { q, k, sequences }: { q: TracedTensor; k: TracedTensor; sequences: number },
  tile: number,
  products: { rows: number; weighted: number; needed: number },
): Launch {
  const [tokens, heads, d] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const length = tokens / sequences;
  const slices = over(d, 64);
  const pairs = (sequences * heads * length * (length + tile)) / 2;
  const { rows, weighted, needed } = products;
  const [i, j] = [tile / 16, tile / 16];
  const lanes = pairs * 2 * d * (rows + weighted);
  const perWarp = 32 * 2; // operations of a warp's instruction
  const rowShare = wavefronts.rows(i, j) / (4 * i * j);
  const weightedShare = wavefronts.weighted(i, slices) / (4 * i * slices);
  const shared = ((pairs * 2 * d) / perWarp) * (rows * rowShare + weighted * weightedShare) * SHARED_BYTES;
  const group = heads / kvHeads;
  const tiles = sequences * kvHeads * over(length * group, tile);
  return {
    kernel,
    lanes,
    useful: sequences * heads * length * length * d * needed,
    shared,
    l2: tiles * (length / 2) * d * 4 * 2,
    dram: 2 * q.bytes + 2 * k.bytes,
    blocks: tiles,
  };
}

/**
 * attention_bf16.cuh: a warp's rows stay, tiles of the other side pass. `products` by tile_products, `sums` by add_weighted; `needed` of them are no
 * repetition of another kernel's. `byKeys`: keys stay, rows of queries pass.
 */
function attentionPassBf16(
  kernel: string,
  { q, k, sequences }: { q: TracedTensor; k: TracedTensor; sequences: number },
  { owned, passing, slots }: { owned: number; passing: number; slots: number },
  { products, sums, needed, byKeys = false }: { products: number; sums: number; needed: number; byKeys?: boolean },
): Launch {
  const [tokens, heads, d] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const group = heads / kvHeads;
  const length = tokens / sequences;
  const columns = Math.max(64, over(d, 32) * 32);
  const warp = owned / TILES.attentionBf16.warps;
  // Along the diagonal tiles are whole, but for warps that see nothing of them.
  const along = byKeys ? warp + passing / group : warp / group + passing;
  const pairs = (sequences * heads * length * (length + along)) / 2;
  const rowBytes = 2 * (columns > 64 ? 128 : 64);
  // Of the rows of a pair of tiles, out of shared memory; besides, what passes was written there once a block, both of it.
  const read = 2 * columns * (products * (warp + passing) + sums * passing);
  const written = (2 * passing * rowBytes) / TILES.attentionBf16.warps;
  const blocks = sequences * kvHeads * over(length * (byKeys ? 1 : group), owned);
  const passed = (pairs / owned) * 2 * columns * 2;
  return {
    kernel,
    tensor: pairs * 2 * columns * (products + sums),
    lanes: pairs * slots * 2,
    useful: sequences * heads * length * length * d * needed,
    shared: (pairs / (warp * passing)) * (read + written),
    l2: passed,
    dram: q.bytes + k.bytes + (byKeys ? 2 * k.bytes : q.bytes),
    blocks,
  };
}

function head(args: Float64Array, trace: Trace, gradient: boolean, gpu: Gpu): Launch[] {
  const x = trace.tensor(args[4])!;
  const [tokens, k] = x.shape as [number, number];
  const { n, kind, width } = args[5] === 0 ? { n: k, kind: "direct" as const, width: 0 } : trace.weight(args[5]!);
  const { chunkLogits, leastRows, mostRows, rowTile, partVocabulary } = TILES.head;
  const fit = Math.max(leastRows, Math.min(mostRows, Math.floor(chunkLogits / n)));
  const most = fit > rowTile ? fit - (fit % rowTile) : fit;
  const chunks = over(tokens, most);
  const rows = tokens / chunks;
  const logits = 4 * rows * n;
  // A chunk of logits that L2 holds is not read from memory again.
  const reads = logits < gpu.l2Bytes ? 0 : 2;
  const chunk: Launch[] = [
    memory("gather_rows_kernel", rows * k * LAID),
    gemm([{ rows, columns: n, depth: k }], kind, width, gpu),
    memory("head_rows_kernel", logits * (1 + reads) + (gradient ? 2 * rows * n : 0)),
  ];
  if (gradient) {
    const parts = over(n, partVocabulary);
    chunk.push(
      gemm([{ rows, columns: k, depth: n, parts }], kind, width, gpu),
      memory("scatter_rows_kernel", rows * k * 4 * (parts + 1)),
    );
  }
  return Array.from({ length: chunks }, () => chunk).flat();
}

/** The launches of one call. */
export function launchesOf({ op, args }: OpCall, trace: Trace, gpu: Gpu): Launch[] {
  const bytes = sum(args.map((arg) => trace.tensor(arg)?.bytes ?? 0));
  const [first] = args;
  switch (op) {
    case "linear":
      return linear(groupOf(first as Float64Array, trace), gpu);
    case "linearGrad":
      return linearGrad(groupOf(first as Float64Array, trace), gpu);
    case "attention":
    case "attentionGrad": {
      const words = first as Float64Array;
      const [q, k] = [trace.tensor(words[2])!, trace.tensor(words[3])!];
      const of = { q, k, sequences: trace.tensor(words[5])!.elements - 1 };
      const [, heads, d] = q.shape as [number, number, number];
      const [paged, mostQueries, bf16] = [words[8] !== 0, words[12]!, words[13] === 1];
      const { columns, forward: forwardBf16, dq, dkv } = TILES.attentionBf16;
      const wide = over(d, 64);
      const { narrowSlices, forward, forward4, forward8, backward, backwardWide, few } = TILES.attention;
      if (bf16 && !paged && d <= columns && (mostQueries * heads) / k.shape[1]! > few) {
        const laid = (elements: number) => memory("lay_kernel", elements * LAID);
        if (op === "attention")
          return [
            laid(2 * k.elements),
            attentionPassBf16("attention_bf16_kernel", of, forwardBf16, { products: 1, sums: 1, needed: 2 }),
          ];
        return [
          memory("attention_delta_kernel", 2 * q.bytes),
          laid(2 * (q.elements + k.elements)),
          attentionPassBf16("attention_dq_bf16_kernel", of, dq, { products: 2, sums: 1, needed: 1 }),
          attentionPassBf16("attention_dkv_bf16_kernel", of, dkv, { products: 2, sums: 2, needed: 4, byKeys: true }),
        ];
      }
      if (op === "attention") {
        const tile = wide <= narrowSlices ? forward : wide <= 4 ? forward4 : forward8;
        return [attentionPass("attention_kernel", of, tile, { rows: 1, weighted: 1, needed: 2 })];
      }
      const tile = wide <= 2 ? backward : backwardWide;
      return [
        memory("attention_delta_kernel", 2 * q.bytes),
        attentionPass("attention_dq_kernel", of, tile, { rows: 2, weighted: 1, needed: 1 }),
        attentionPass("attention_dkv_kernel", of, tile, { rows: 2, weighted: 2, needed: 4 }),
      ];
    }
    case "tokenLogprob":
      return head(first as Float64Array, trace, (first as Float64Array)[3] !== 0, gpu);
    case "tokenLogprobGrad":
      return head(first as Float64Array, trace, true, gpu);
    case "embedding":
      // Of the table only the rows that are asked for.
      return [memory("check_ids_kernel", 0), memory("embedding_kernel", 1.5 * trace.tensor(first)!.bytes)];
    case "dequantize4bit": {
      const { n, k, width } = trace.weight(args[1] as number);
      return [memory("dequantize_4bit_kernel", trace.tensor(first)!.bytes + n * k * width)];
    }
    case "adamw":
      // Values and moments, in whatever form, come and go; gradients and tables come.
      return [memory("adamw_kernel", bytes + sum([0, 2, 3, 4, 5, 6, 7].map((i) => trace.tensor(args[i])?.bytes ?? 0)))];
    case "gradStats":
      return [memory("dot_parts_kernel", trace.tensor(args[1])!.bytes), memory("dot_kernel", 0), memory("count_step_kernel", 0)];
    case "axpy":
      return [memory("map4_kernel", bytes + trace.tensor(first)!.bytes)];
    default:
      return [memory(op, bytes)];
  }
}
