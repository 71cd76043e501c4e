import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
// @ts-expect-error: a script of the build, without types
import { blocksPerMultiprocessor, hotKernels, judge, parseReport } from "../../scripts/cuda/ptxas.mjs";

const REPORT = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'void lr::(anonymous namespace)::gemm_kernel<true, lr::bf16>(float*, lr::bf16 const*)' for 'sm_80'
ptxas info    : Function properties for void lr::(anonymous namespace)::gemm_kernel<true, lr::bf16>(float*, lr::bf16 const*)
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 100 registers, used 1 barriers, 2048 bytes smem, 408 bytes cmem[0]
ptxas info    : Compiling entry function 'void lr::(anonymous namespace)::gemm_kernel<true, lr::bf16>(float*, lr::bf16 const*)' for 'sm_90a'
ptxas info    : Function properties for void lr::(anonymous namespace)::gemm_kernel<true, lr::bf16>(float*, lr::bf16 const*)
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Function properties for lr::helper()
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
`;
const HEAD = "// A file.\n// hot: gemm_kernel: 128 threads, 43008 bytes shared, 2 blocks\n#include <x>\n";

describe("ptxas", () => {
  it("reads every kernel and architecture of a report", () => {
    expect(parseReport(REPORT)).toEqual([
      { kernel: "gemm_kernel<true, bf16>", architecture: 80, stack: 0, spills: 0, registers: 100, shared: 2048 },
      { kernel: "gemm_kernel<true, bf16>", architecture: 90, stack: 16, spills: 20, registers: 255, shared: 0 },
    ]);
  });

  it("counts resident blocks as NVIDIA's cuda_occupancy.h does", () => {
    // [architecture, threads, registers, shared bytes, blocks], made with the header of CUDA 13.0 at the carveout's maximum.
    const cases: number[][] = JSON.parse(readFileSync(join(import.meta.dirname, "fixtures/occupancy.json"), "utf8"));
    expect(cases.length).toBe(240);
    for (const [architecture, threads, registers, shared, blocks] of cases)
      expect(
        blocksPerMultiprocessor(architecture, { threads, registers, shared }),
        `${architecture} ${threads} ${registers} ${shared}`,
      ).toBe(blocks);
    expect(blocksPerMultiprocessor(86, { threads: 128, registers: 32, shared: 100 * 1024 })).toBe(0);
  });

  it("names a hot kernel that spills, holds too few blocks or is not there", () => {
    expect(hotKernels(HEAD)).toEqual([{ name: "gemm_kernel", threads: 128, shared: 43008, blocks: 2 }]);
    const rows = parseReport(REPORT);
    expect(judge("gemm.cu", HEAD, [rows[0]])).toEqual([]);
    expect(rows[0]).toMatchObject({ hot: true, threads: 128, blocks: 3 });
    expect(judge("gemm.cu", HEAD.replace("2 blocks", "4 blocks"), [rows[0]])).toEqual([
      "gemm.cu: gemm_kernel<true, bf16> on sm_80: 3 blocks a multiprocessor (100 registers), 4 promised",
    ]);
    expect(judge("gemm.cu", HEAD, rows)).toEqual(["gemm.cu: gemm_kernel<true, bf16> on sm_90 spills 20 bytes"]);
    expect(judge("gemm.cu", HEAD, [])).toEqual(["gemm.cu: hot kernel gemm_kernel is not among what was compiled"]);
    expect(judge("gemm.cu", "// no promise", rows)).toEqual([]);
    const one = (name: string) => judge("gemm.cu", HEAD.replace("gemm_kernel", name), [{ ...rows[0] }]);
    expect(one("gemm_kernel<true, bf16>")).toEqual([]);
    expect(one("gemm_kernel<true, float>")).toEqual([
      "gemm.cu: hot kernel gemm_kernel<true, float> is not among what was compiled",
    ]);
  });
});
