// The sizes that the kernels' sources state, for the cost model: `node scripts/cuda/tiles.mjs` writes src/cli/bench/model/tiles.ts.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { hotKernels } from "./ptxas.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const TARGET = "src/cli/bench/model/tiles.ts";
const source = (path) => readFileSync(join(root, "native/cuda", path), "utf8");

/** The numbers that the groups of `pattern` hold in a source, which must hold it. */
function numbers(path, pattern) {
  const found = pattern.exec(source(path));
  if (!found) throw new Error(`native/cuda/${path} lacks what the cost model reads: ${pattern}`);
  return found.slice(1).map(Number);
}

function gemmTile(name) {
  const [rows, columns, down, across, step] = numbers(
    "ops/gemm_bf16.cu",
    new RegExp(`using ${name} = Tile<(\\d+), (\\d+), (\\d+), (\\d+), (\\d+)>;`),
  );
  const kernel = `gemm_bf16_${name.toLowerCase()}_kernel`;
  const hot = hotKernels(source("ops/gemm_bf16.cu")).find((h) => h.name === kernel);
  if (!hot) throw new Error(`native/cuda/ops/gemm_bf16.cu has no hot: line of ${kernel}`);
  const { threads, shared, blocks } = hot;
  return { rows, columns, down, across, step, threads, shared, blocks };
}

export function readTiles() {
  const [stages] = numbers("ops/gemm_bf16.cu", /constexpr int kStages = (\d+);/);
  const [enough] = numbers("ops/gemm_bf16.cu", /constexpr int64_t kEnough = (\d+);/);
  const [decodeClocks] = numbers("ops/gemm_bf16.cu", /(\d+) clocks a scheduler for decoding/);
  const [partDepth] = numbers("device/gemm.cuh", /constexpr int kPartDepth = (\d+);/);
  const [fewRows] = numbers("device/few_rows.cuh", /constexpr int64_t kFewRows = (\d+);/);
  const [threads] = numbers("device/launch.cuh", /constexpr int kThreads = (\d+);/);
  const [maxBlocks] = numbers("device/launch.cuh", /constexpr int64_t kMaxBlocks = (\d+);/);
  const [narrow, middle, forward, wider] = numbers(
    "ops/attention.cu",
    /kTile = kSlices <= (\d+) \? (\d+) : kSlices == 4 \? (\d+) : (\d+);/,
  );
  const [, backward, widerBackward] = numbers("ops/attention_grad.cu", /kTile = kSlices <= (\d+) \? (\d+) : (\d+);/);
  const [few] = numbers("ops/attention_tile.cuh", /constexpr int kFewQueries = (\d+);/);
  const [columns] = numbers("ops/attention_bf16.cuh", /constexpr int kWidestBf16 = (\d+);/);
  const [block] = numbers("ops/attention_bf16.cuh", /constexpr int kBlockBf16 = (\d+)/);
  const [rows, keys] = numbers("ops/attention_bf16.cu", /constexpr int kRows = (\d+), kKeys = (\d+)/);
  const [rowsQ, keysQ] = numbers("ops/attention_grad_bf16.cu", /constexpr int kRowsQ = (\d+), kKeysQ = (\d+)/);
  const [keysKV, rowsKV] = numbers("ops/attention_grad_bf16.cu", /constexpr int kKeysKV = (\d+), kRowsKV = (\d+)/);
  const [slots] = numbers("ops/attention_bf16.cu", /(\d+) issue slots a score/);
  const [slotsGrad] = numbers("ops/attention_grad_bf16.cu", /(\d+) issue slots a score/);
  const [megas] = numbers("ops/head.cu", /constexpr int64_t kChunkLogits = (\d+) << 20;/);
  const [partVocabulary] = numbers("ops/head.cu", /constexpr int kPartVocabulary = (\d+);/);
  const [rowTile] = numbers("ops/head.cu", /constexpr int64_t kRowTile = (\d+);/);
  const [leastRows, mostRows] = numbers("ops/head.cu", /max64\((\d+), min64\((\d+), kChunkLogits \/ vocabulary\)\)/);
  return {
    gemm: { stages, enough, decodeClocks, partDepth, large: gemmTile("Large"), small: gemmTile("Small") },
    fewRows,
    launch: { threads, maxBlocks },
    attention: {
      narrowSlices: narrow,
      forward: middle,
      forward4: forward,
      forward8: wider,
      backward,
      backwardWide: widerBackward,
      few,
    },
    // `owned` rows of a block stay, tiles of `passing` rows of the other side pass.
    attentionBf16: {
      columns,
      warps: block / 32,
      forward: { owned: rows, passing: keys, slots },
      dq: { owned: rowsQ, passing: keysQ, slots: slotsGrad },
      dkv: { owned: keysKV, passing: rowsKV, slots: slotsGrad },
    },
    head: { chunkLogits: megas * 2 ** 20, leastRows, mostRows, rowTile, partVocabulary },
  };
}

export function tilesModule() {
  return `/** Written by scripts/cuda/tiles.mjs from the sources in native/cuda; test/cli/model.test.ts compares. */\nexport const TILES = ${JSON.stringify(
    readTiles(),
    null,
    2,
  )
    .replace(/"(\w+)":/g, "$1:")
    .replace(/([^,{[\n])\n/g, "$1,\n")} as const;\n`
    .replace(/,,/g, ",")
    .replace(/,? as const/, " as const");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(join(root, TARGET), tilesModule());
