type Numbers = ArrayLike<number>;

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  d: number;
  /** Queries and keys of every sequence; the last query stands at the last key. */
  lengths: readonly { queries: number; keys: number }[];
  scale: number;
  window?: number;
  softcap?: number;
}

/** Causal attention in float64: out [T, H, D] and log-sum-exp [T, H]. */
export function attention(q: Numbers, k: Numbers, v: Numbers, shape: AttentionShape): { out: Float64Array; lse: Float64Array } {
  const { heads, kvHeads, d, lengths, scale, window = 0, softcap = 0 } = shape;
  const tokens = lengths.reduce((n, s) => n + s.queries, 0);
  const out = new Float64Array(tokens * heads * d);
  const lse = new Float64Array(tokens * heads);
  let firstQuery = 0;
  let firstKey = 0;
  for (const { queries, keys } of lengths) {
    for (let i = 0; i < queries; i++) {
      const position = keys - queries + i;
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor((h * kvHeads) / heads);
        const row = (firstQuery + i) * heads + h;
        const scores: number[] = [];
        const from = window > 0 ? Math.max(0, position - window + 1) : 0;
        for (let j = from; j <= position; j++) {
          const column = (firstKey + j) * kvHeads + kvHead;
          let score = 0;
          for (let e = 0; e < d; e++) score += (q[row * d + e] as number) * (k[column * d + e] as number);
          score *= scale;
          scores.push(softcap > 0 ? softcap * Math.tanh(score / softcap) : score);
        }
        const largest = Math.max(...scores);
        const total = scores.reduce((sum, s) => sum + Math.exp(s - largest), 0);
        lse[row] = scores.length === 0 ? Number.NEGATIVE_INFINITY : largest + Math.log(total);
        scores.forEach((s, n) => {
          const p = Math.exp(s - largest) / total;
          const column = (firstKey + from + n) * kvHeads + kvHead;
          for (let e = 0; e < d; e++) out[row * d + e] = (out[row * d + e] as number) + p * (v[column * d + e] as number);
        });
      }
    }
    firstQuery += queries;
    firstKey += keys;
  }
  return { out, lse };
}
