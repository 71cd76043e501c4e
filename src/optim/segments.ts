import type { ArenaSegment, ParameterArena } from "./arena.js";
import type { ArenaOptions } from "./optimizer.js";
import { BLOCK, type SegmentLayout } from "./states.js";

const SEGMENT_BYTES = 32;

/** Learning rate, decay and width of each segment, and where its moments lie among those of that width. */
export function segmentLayout(arena: ParameterArena, options: ArenaOptions): SegmentLayout {
  const { weightDecay = 0, groups, bits = 32, min8bitSize = 4096, keep32bit } = options;
  const blocks = { 32: 0, 8: 0 };
  const placed = arena.segments.map((segment) => {
    const size = segment.end - segment.begin;
    const width: 32 | 8 = bits === 8 && size >= min8bitSize && !keep32bit?.has(segment.name) ? 8 : 32;
    const block = blocks[width];
    blocks[width] += Math.ceil(size / BLOCK);
    return { ...segment, ...(groups?.get(segment.name) ?? { lrScale: 1, weightDecay }), width, block };
  });
  return { blocks, before: (width, element) => blocksBefore(placed, width, element), table };

  function table(begin: number, end: number): Uint8Array {
    const within = placed.filter((segment) => segment.begin < end && segment.end > begin);
    const bytes = new Uint8Array(within.length * SEGMENT_BYTES);
    const view = new DataView(bytes.buffer);
    const before = { 32: blocksBefore(placed, 32, begin), 8: blocksBefore(placed, 8, begin) };
    for (const [i, segment] of within.entries()) {
      const at = i * SEGMENT_BYTES;
      const first = Math.max(segment.begin, begin);
      view.setBigInt64(at, BigInt(first - begin), true);
      view.setBigInt64(at + 8, BigInt(Math.min(segment.end, end) - begin), true);
      view.setFloat32(at + 16, segment.lrScale, true);
      view.setFloat32(at + 20, segment.weightDecay, true);
      view.setInt32(at + 24, segment.width, true);
      view.setInt32(at + 28, segment.block + (first - segment.begin) / BLOCK - before[segment.width], true);
    }
    return bytes;
  }
}

/** Blocks of moments of a width that belong to elements before `element`, a multiple of 256. */
function blocksBefore(segments: readonly (ArenaSegment & { width: 32 | 8 })[], width: 32 | 8, element: number): number {
  return segments
    .filter((segment) => segment.width === width && segment.begin < element)
    .reduce((sum, { begin, end }) => sum + Math.ceil((Math.min(end, element) - begin) / BLOCK), 0);
}
