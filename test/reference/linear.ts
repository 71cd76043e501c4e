import { philox } from "./philox.js";

/** Row-major matrix in float64. */
export interface Matrix {
  rows: number;
  columns: number;
  at: Float64Array;
}

export function matrix(rows: number, columns: number, values: ArrayLike<number> = new Float64Array(rows * columns)): Matrix {
  return { rows, columns, at: Float64Array.from(values) };
}

export function transpose(a: Matrix): Matrix {
  const t = matrix(a.columns, a.rows);
  for (let i = 0; i < a.rows; i++) for (let j = 0; j < a.columns; j++) t.at[j * a.rows + i] = a.at[i * a.columns + j] as number;
  return t;
}

/** c + scale a b. */
export function addProduct(c: Matrix, a: Matrix, b: Matrix, scale = 1): Matrix {
  const out = matrix(c.rows, c.columns, c.at);
  for (let i = 0; i < a.rows; i++)
    for (let p = 0; p < a.columns; p++) {
      const factor = scale * (a.at[i * a.columns + p] as number);
      for (let j = 0; j < b.columns; j++) (out.at[i * b.columns + j] as number) += factor * (b.at[p * b.columns + j] as number);
    }
  return out;
}

/** What each element of x is multiplied with: 0, or 1 / (1 - p). */
export function dropoutMask(rows: number, columns: number, p: number, key: bigint): Matrix {
  const mask = matrix(rows, columns);
  if (p === 0) mask.at.fill(1);
  for (let first = 0; p > 0 && first < mask.at.length; first += 4)
    for (const [i, word] of philox(key, BigInt(first / 4)).entries())
      if (first + i < mask.at.length) mask.at[first + i] = word >= p * 2 ** 32 ? 1 / (1 - p) : 0;
  return mask;
}

export interface Segment {
  begin: number;
  end: number;
  a: Matrix;
  b: Matrix;
  scale: number;
}
export interface Layer {
  w: Matrix;
  bias?: ArrayLike<number>;
  dy: Matrix;
  segments: readonly Segment[];
}

const rowsOf = (x: Matrix, { begin, end }: Segment): Matrix =>
  matrix(end - begin, x.columns, x.at.subarray(begin * x.columns, end * x.columns));
const put = (x: Matrix, part: Matrix, { begin }: Segment): void => x.at.set(part.at, begin * x.columns);
const times = (a: Matrix, b: Matrix): Matrix =>
  matrix(
    a.rows,
    a.columns,
    a.at.map((v, i) => v * (b.at[i] as number)),
  );

/** y = x Wᵀ + bias + scale (drop(x) Aᵀ) Bᵀ on the rows of each segment. */
export function linear(x: Matrix, layer: Layer, mask: Matrix): Matrix {
  const y = addProduct(matrix(x.rows, layer.w.rows), x, transpose(layer.w));
  for (let i = 0; i < y.at.length; i++) (y.at[i] as number) += layer.bias?.[i % y.columns] ?? 0;
  for (const s of layer.segments) {
    const u = addProduct(matrix(s.end - s.begin, s.a.rows), rowsOf(times(x, mask), s), transpose(s.a));
    put(y, addProduct(rowsOf(y, s), u, transpose(s.b), s.scale), s);
  }
  return y;
}

/** The sum of all layers' gradients to x, and each segment's to A and B. */
export function linearGrad(x: Matrix, layers: readonly Layer[], mask: Matrix): { dx: Matrix; da: Matrix[][]; db: Matrix[][] } {
  let dx = matrix(x.rows, x.columns);
  const da: Matrix[][] = [];
  const db: Matrix[][] = [];
  for (const { w, dy, segments } of layers) {
    dx = addProduct(dx, dy, w);
    const [das, dbs]: [Matrix[], Matrix[]] = [[], []];
    for (const s of segments) {
      const [dropped, dyRows] = [rowsOf(times(x, mask), s), rowsOf(dy, s)];
      const u = addProduct(matrix(dropped.rows, s.a.rows), dropped, transpose(s.a));
      const du = addProduct(matrix(dropped.rows, s.a.rows), dyRows, s.b, s.scale);
      das.push(addProduct(matrix(s.a.rows, s.a.columns), transpose(du), dropped));
      dbs.push(addProduct(matrix(s.b.rows, s.b.columns), transpose(dyRows), u, s.scale));
      const low = addProduct(matrix(dropped.rows, x.columns), du, s.a);
      put(dx, addProduct(rowsOf(dx, s), identity(dropped.rows), times(low, rowsOf(mask, s))), s);
    }
    da.push(das);
    db.push(dbs);
  }
  return { dx, da, db };
}

function identity(n: number): Matrix {
  const i = matrix(n, n);
  for (let k = 0; k < n; k++) i.at[k * n + k] = 1;
  return i;
}
