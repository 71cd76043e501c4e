/** How rows become packs: best-fit decreasing (cutting or splitting long rows), or one stream cut into blocks. */
export type PackingStrategy = "bfd" | "bfd_split" | "wrapped";

/** Part of a row: tokens from `start` to `end` (exclusive) of row `row`. */
export interface Segment {
  row: number;
  start: number;
  end: number;
}

/** TRL packs in batches of this many rows, the default of `datasets.map`. */
const BATCH_ROWS = 1000;

/**
 * Plans packs of at most `maxLength` tokens, as TRL's pack_dataset does.
 *
 * - `bfd`: rows are cut at maxLength, sorted by falling length (equal ones keep their order), and each goes to the fullest
 *   pack that has room, the oldest among equals.
 * - `bfd_split`: the same, long rows being split into pieces first.
 * - `wrapped`: one stream of all tokens, cut every maxLength; the pieces of a pack are not told apart.
 *
 * @returns for each pack its segments in order
 */
export function packRows(lengths: readonly number[], maxLength: number, strategy: PackingStrategy): Segment[][] {
  const packs: Segment[][] = [];
  for (let first = 0; first < lengths.length; first += BATCH_ROWS) {
    const rows = lengths.slice(first, first + BATCH_ROWS).map((length, i) => ({ row: first + i, start: 0, end: length }));
    for (const pack of strategy === "wrapped" ? wrap(rows, maxLength) : bestFit(cut(rows, maxLength, strategy), maxLength))
      packs.push(pack);
  }
  return packs;
}

function cut(rows: readonly Segment[], maxLength: number, strategy: PackingStrategy): Segment[] {
  const pieces: Segment[] = [];
  for (const { row, end } of rows) {
    const stop = strategy === "bfd" ? Math.min(end, maxLength) : end;
    for (let start = 0; start < stop; start += maxLength) pieces.push({ row, start, end: Math.min(start + maxLength, stop) });
  }
  return pieces;
}

function bestFit(pieces: readonly Segment[], maxLength: number): Segment[][] {
  const length = (s: Segment) => s.end - s.start;
  const packs: Segment[][] = [];
  /** Packs by the room they have left, each list oldest first. */
  const byRoom: Segment[][][] = Array.from({ length: maxLength + 1 }, () => []);
  for (const piece of pieces.toSorted((a, b) => length(b) - length(a))) {
    let room = length(piece);
    while (room < maxLength && byRoom[room]!.length === 0) room++;
    let pack = room < maxLength ? byRoom[room]!.shift() : undefined;
    if (!pack) {
      pack = [];
      packs.push(pack);
      room = maxLength;
    }
    pack.push(piece);
    byRoom[room - length(piece)]!.push(pack);
  }
  return packs;
}

function wrap(rows: readonly Segment[], maxLength: number): Segment[][] {
  const packs: Segment[][] = [];
  let pack: Segment[] = [];
  let room = maxLength;
  for (const { row, end } of rows) {
    let start = 0;
    while (start < end) {
      const stop = Math.min(end, start + room);
      pack.push({ row, start, end: stop });
      room -= stop - start;
      start = stop;
      if (room > 0) continue;
      packs.push(pack);
      pack = [];
      room = maxLength;
    }
  }
  if (pack.length > 0) packs.push(pack);
  return packs;
}
