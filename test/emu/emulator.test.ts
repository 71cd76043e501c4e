/** The emulator of the CUDA device, by its own test program: what it must get right, and planted mistakes that it must report. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const program = join(import.meta.dirname, "../../build/emu/test_emulator");

/** What each case saw, "" where nothing was wrong. */
function run(...order: string[]): Map<string, string> {
  const { stdout, stderr, status } = spawnSync(program, order, { encoding: "utf8" });
  if (status !== 0) throw new Error(`test_emulator ended with ${status}: ${stderr}`);
  return new Map(
    stdout
      .split("\n")
      .slice(0, -1)
      .map((line) => line.split("\t") as [string, string]),
  );
}

/** What the report of a planted mistake says besides kernel, block, thread and line. Some are seen in more than one way: which thread runs first decides. */
const MISTAKES: Readonly<Record<string, RegExp>> = {
  missing_syncthreads: /race: (read|write) of shared byte \d+|read of uninitialised shared byte/,
  divergent_barrier: /waits in a barrier at line \d+ for block 0 thread \d+, which has ended/,
  barrier_elsewhere: /__syncthreads in divergent code: at line \d+, but block 0 thread \d+ waits at line \d+/,
  named_barrier_count: /waits in a barrier at line \d+ for block 0 thread \d+, which has ended/,
  wait_count: /read of shared byte \d+ before cp\.async delivered it, issued by block 0 thread \d+/,
  tail_guard: /write out of bounds: byte 4\d\d\d of a buffer of 4000/,
  before_begin: /write out of bounds: 4 bytes before a buffer/,
  past_shared: /write at shared byte 51[26], but the block has 512/,
  misaligned_vector: /vector access of 16 bytes at address 0x\w+, which is not a multiple of 16/,
  misaligned_cast: /read of 16 bytes at address 0x\w+, which is not a multiple of 16/,
  race_across_warps: /race: write of shared byte 0, written by block 0 thread \d+/,
  double_buffer: /race: (read|write) of shared byte \d+, (written|read) by block 0 thread \d+/,
  missing_syncwarp: /race: (read|write) of shared byte \d+|read of uninitialised shared byte/,
  write_after_read: /race: (read|write) of shared byte 0, (written|read) by block 0 thread \d+/,
  plain_adds: /race: (read|write) of byte 0 of a buffer of 4, (written|read) by block \d+ thread 0/,
  blocks_exchange: /race: (read|write) of byte \d+ of a buffer of 512, (written|read) by block \d+ thread \d+/,
  shuffle_exited: /lane \d+ has exited|waits in a shuffle at line \d+ for block 0 thread \d+, which has ended/,
  shuffle_source: /a shuffle at line \d+ reads lane 16, which is not in its mask 0x0000ffff/,
  mask_without_self:
    /a shuffle at line \d+ with mask 0xfffffffe, which leaves out the calling lane 0|reads lane 0, which is not in its mask 0xfffffffe/,
  divergent_vote: /a vote with mask 0xffffffff at line \d+, but lane \d+ is in a vote with mask 0xffffffff at line \d+/,
  uninitialised_shared: /read of uninitialised shared byte 308/,
  index_overflow: /write out of bounds: \d+ bytes before a buffer/,
  copy_without_barrier: /race: (read|write) of shared byte \d+|read of uninitialised shared byte|before cp\.async delivered it/,
  copy_misaligned: /cp\.async of 16 bytes at line \d+ from address 0x\w+4 to 0x\w+0, which are not multiples of 16/,
  lane_map: /the product is wrong at row \d+ column \d+/,
  too_many_threads: /the number of threads of a block is 1056, which must be 1 to 1024/,
  too_much_shared: /the shared memory of a block is 233472, which must be 1 to 232448/,
  grid: /gridDim\.y is 65536, which must be 1 to 65535/,
};

describe.each([
  ["forward", "1", "2"],
  ["forward", "1", "1"],
  ["reversed", "1", "2"],
  ["shuffled", "7", "3"],
  ["shuffled", "8", "4"],
])("threads %s, seed %s, %s blocks at a time", (...order) => {
  const seen = run(...order);

  it("reports every planted mistake, and names who made it where", () => {
    for (const [name, report] of Object.entries(MISTAKES)) {
      const text = seen.get(`wrong_${name}`) ?? "no such case";
      expect(text, name).toMatch(report);
      if (name === "lane_map") continue;
      expect(text, name).toMatch(/^\w+_kernel/);
      if (/^(too_|grid)/.test(name)) continue;
      expect(text, name).toMatch(/block \d+ thread \d+/);
      expect(text, name).toMatch(/ at line \d+| at \w+\.cuh?:\d+/);
    }
    const planted = [...seen.keys()].filter((name) => name.startsWith("wrong_")).map((name) => name.slice(6));
    expect(planted.sort()).toEqual(Object.keys(MISTAKES).sort());
  });

  it("finds nothing in their right forms, and gets everything right itself", () => {
    const others = [...seen].filter(([name]) => !name.startsWith("wrong_"));
    expect(others.length).toBeGreaterThan(Object.keys(MISTAKES).length);
    expect(others.filter(([, text]) => text !== "")).toEqual([]);
  });
});
