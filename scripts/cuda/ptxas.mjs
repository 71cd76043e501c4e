// What ptxas reports of each kernel, and how many of its blocks a multiprocessor holds.

/**
 * Limits of one multiprocessor by architecture: threads, blocks, shared memory, and the most a block may have of it (bytes).
 * CUDA C++ Programming Guide, "Compute Capabilities"; test/native/ptxas.test.ts holds them to NVIDIA's cuda_occupancy.h.
 */
const KIB = 1024;
export const MULTIPROCESSORS = {
  80: { threads: 2048, blocks: 32, shared: 164 * KIB, block: 163 * KIB },
  86: { threads: 1536, blocks: 16, shared: 100 * KIB, block: 99 * KIB },
  89: { threads: 1536, blocks: 24, shared: 100 * KIB, block: 99 * KIB },
  90: { threads: 2048, blocks: 32, shared: 228 * KIB, block: 227 * KIB },
  100: { threads: 2048, blocks: 32, shared: 228 * KIB, block: 227 * KIB },
  120: { threads: 1536, blocks: 24, shared: 100 * KIB, block: 99 * KIB },
};
const REGISTERS = 65536;
/** Registers go to warps in units of 256, warps to the four quarters of a multiprocessor, shared memory in 128 bytes; 1 KiB a block is CUDA's own. */
const REGISTER_UNIT = 256;
const SHARED_UNIT = 128;
const RESERVED = KIB;
const up = (n, unit) => Math.ceil(n / unit) * unit;

/** Resident blocks of a kernel of that many threads, registers a thread and bytes of shared memory; 0 where a block does not fit. */
export function blocksPerMultiprocessor(architecture, { threads, registers, shared }) {
  const limit = MULTIPROCESSORS[architecture];
  if (shared > limit.block || threads > 1024) return 0;
  const warps = Math.ceil(threads / 32);
  const byWarps = Math.floor(limit.threads / 32 / warps);
  const fitting = Math.floor(REGISTERS / 4 / up(Math.max(registers, 1) * 32, REGISTER_UNIT)) * 4;
  const byRegisters = up(warps, 4) > fitting ? 0 : Math.floor(fitting / warps);
  const byShared = Math.floor(limit.shared / up(shared + RESERVED, SHARED_UNIT));
  return Math.min(limit.blocks, byWarps, byRegisters, byShared);
}

/** ptxas -v, demangled, as rows { kernel, architecture, registers, shared, stack, spills }: bytes; shared is the static part. */
export function parseReport(text) {
  const rows = [];
  let row;
  for (const line of text.split("\n")) {
    const entry = /Compiling entry function '(.+)' for 'sm_(\d+)\w?'/.exec(line);
    if (entry) {
      row = { kernel: kernelName(entry[1]), architecture: Number(entry[2]) };
      rows.push(row);
    }
    const properties = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    // Functions that are not inlined have lines of their own; the kernel's come first.
    if (properties && row && row.stack === undefined) {
      row.stack = Number(properties[1]);
      row.spills = Number(properties[2]) + Number(properties[3]);
    }
    const used = /Used (\d+) registers/.exec(line);
    if (used && row) {
      row.registers = Number(used[1]);
      row.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
    }
  }
  return rows;
}

/** `void lr::(anonymous namespace)::name<T>(arguments)` without namespaces and arguments: what a reader calls it. */
function kernelName(demangled) {
  let depth = 0;
  const plain = demangled
    .replace(/^void /, "")
    .replaceAll("(anonymous namespace)::", "")
    .replace(/\blr::/g, "");
  for (let i = 0; i < plain.length; i++) {
    if (plain[i] === "<") depth++;
    else if (plain[i] === ">") depth--;
    else if (plain[i] === "(" && depth === 0) return plain.slice(0, i);
  }
  return plain;
}

/**
 * The kernels that a source calls hot, each in a line of its head: `// hot: NAME: THREADS threads, BYTES bytes shared, BLOCKS blocks`,
 * shared memory static and dynamic, blocks those that a multiprocessor of every architecture must hold at least. A name without `<…>` stands for all
 * kernels of the template.
 */
export function hotKernels(source) {
  return [...source.matchAll(/^\/\/ hot: (\w+(?:<[^>]*>)?): (\d+) threads, (\d+) bytes shared, (\d+) blocks?$/gm)].map(
    ([, name, threads, shared, blocks]) => ({
      name,
      threads: Number(threads),
      shared: Number(shared),
      blocks: Number(blocks),
    }),
  );
}

/** Adds the occupancy to the rows of a source's hot kernels, and says in sentences what breaks a promise of its head. */
export function judge(file, source, rows) {
  const problems = [];
  for (const hot of hotKernels(source)) {
    const mine = rows.filter(({ kernel }) => [kernel, kernel.replace(/<.*/, "")].includes(hot.name));
    if (mine.length === 0) problems.push(`${file}: hot kernel ${hot.name} is not among what was compiled`);
    for (const row of mine) {
      row.hot = true;
      row.threads = hot.threads;
      row.blocks = blocksPerMultiprocessor(row.architecture, { ...hot, registers: row.registers });
      const where = `${file}: ${row.kernel} on sm_${row.architecture}`;
      if (row.spills > 0) problems.push(`${where} spills ${row.spills} bytes`);
      if (row.blocks < hot.blocks)
        problems.push(`${where}: ${row.blocks} blocks a multiprocessor (${row.registers} registers), ${hot.blocks} promised`);
    }
  }
  return problems;
}
