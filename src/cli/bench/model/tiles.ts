/** Written by scripts/cuda/tiles.mjs from the sources in native/cuda; test/cli/model.test.ts compares. */
export const TILES = {
  gemm: {
    stages: 3,
    enough: 96,
    decodeClocks: 184,
    partDepth: 512,
    large: {
      rows: 128,
      columns: 128,
      down: 2,
      across: 2,
      step: 32,
      threads: 128,
      shared: 49152,
      blocks: 2,
    },
    small: {
      rows: 64,
      columns: 64,
      down: 2,
      across: 2,
      step: 64,
      threads: 128,
      shared: 49152,
      blocks: 2,
    },
  },
  fewRows: 16,
  launch: {
    threads: 256,
    maxBlocks: 4096,
  },
  attention: {
    narrowSlices: 2,
    forward: 64,
    forward4: 32,
    forward8: 16,
    backward: 32,
    backwardWide: 16,
    few: 16,
  },
  attentionBf16: {
    columns: 128,
    warps: 4,
    forward: {
      owned: 128,
      passing: 32,
      slots: 17,
    },
    dq: {
      owned: 128,
      passing: 32,
      slots: 15,
    },
    dkv: {
      owned: 64,
      passing: 64,
      slots: 15,
    },
  },
  head: {
    chunkLogits: 33554432,
    leastRows: 8,
    mostRows: 1024,
    rowTile: 128,
    partVocabulary: 32768,
  },
} as const;
