/** Mixes 32-bit words into one (murmur3's finaliser after each). */
function mix(...words: number[]): number {
  let h = 0x9e3779b9;
  for (const word of words) {
    h = Math.imul(h ^ word, 0x85ebca6b);
    h ^= h >>> 13;
    h = Math.imul(h, 0xc2b2ae35);
    h ^= h >>> 16;
  }
  return h >>> 0;
}

/** A random order of 0 … n−1 that depends on nothing but n, the seed and the stream (an epoch): Fisher-Yates with a counter. */
export function permutation(n: number, seed: number, stream: number): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    // 53 bits: the remainder's bias is below 2^-21 for any n that fits an Int32Array.
    const draw = mix(seed, Math.floor(seed / 2 ** 32), stream, i, 1) * 2 ** 21 + (mix(seed, stream, i, 2) >>> 11);
    const j = draw % (i + 1);
    const swap = order[i]!;
    order[i] = order[j]!;
    order[j] = swap;
  }
  return order;
}

/** Rows set aside for evaluation: from 1 on `valSize` is a count, below it a fraction rounded up. */
export function splitRows<T>(rows: readonly T[], valSize: number, seed: number): { train: T[]; validation: T[] } {
  const count = Math.min(rows.length, valSize >= 1 ? Math.floor(valSize) : Math.ceil(rows.length * valSize));
  const order = permutation(rows.length, seed, -1);
  const pick = (from: number, to: number) => Array.from(order.subarray(from, to), (i) => rows[i]!);
  return { validation: pick(0, count), train: pick(count, rows.length) };
}
