/** What the cost model takes a GPU to reach. Rates a second; nothing here was measured by this package. */
export interface Gpu {
  multiprocessors: number;
  clock: number;
  /** Bytes of a copy, both ways counted; of L2. */
  dram: number;
  l2: number;
  l2Bytes: number;
  /** Dense bf16 operations with float32 sums that the best library reaches, and the share of it that `mma.sync` does. */
  tensor: number;
  mmaShare: number;
  /** Time between the starts of two short kernels of one stream. */
  launch: number;
}

/**
 * h100 (SXM5): copy 3.0 TB/s and cuBLAS 798 TFLOP/s on random data, as published measurements have them; mma.sync reaches 62.9 % of wgmma (Luo et al.
 * 2024, "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking"); clock, L2 and multiprocessors: NVIDIA's H100
 * whitepaper. rtx4090: NVIDIA's Ada whitepaper (165.2 TFLOP/s bf16 with float32 sums, 1008 GB/s, of which a copy reaches about 92 %).
 */
export const GPUS: Readonly<Record<string, Gpu>> = {
  h100: {
    multiprocessors: 132,
    clock: 1.755e9,
    dram: 3.0e12,
    l2: 5.5e12,
    l2Bytes: 50e6,
    tensor: 798e12,
    mmaShare: 0.629,
    launch: 2e-6,
  },
  rtx4090: {
    multiprocessors: 128,
    clock: 2.52e9,
    dram: 0.93e12,
    l2: 5.0e12,
    l2Bytes: 72e6,
    tensor: 165.2e12,
    mmaShare: 1,
    launch: 2e-6,
  },
};

/** Lanes of a multiprocessor that multiply and add in a clock, and bytes its shared memory moves. */
export const LANES = 128;
export const SHARED_BYTES = 128;
