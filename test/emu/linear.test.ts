/** The linears' paths that only aligned tensors, large tiles or few rows take: each against float64. */
import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { type GroupCase, runGroup } from "../native/linear-group.js";
import { addon, Raw } from "../native/raw.js";
import { bfloat16Bits, fromBfloat16, randomWeight, weightKinds } from "../native/weights.js";
import { addProduct, dropoutMask, linearGrad, type Matrix, matrix, transpose } from "../reference/linear.js";
import { gaussian, relativeError } from "../reference/numeric.js";

async function check(c: GroupCase, guard = 64): Promise<void> {
  const raw = new Raw(cuda, undefined, guard);
  try {
    const { actual, expected } = await runGroup(raw, c);
    for (const [name, values] of Object.entries(expected))
      expect(relativeError(actual[name] as Float32Array, values), name).toBeLessThan(5e-6);
  } finally {
    raw.dispose();
  }
}

describe("aligned linears", () => {
  it.each(weightKinds)("in bf16 with a %s weight: copies in the background, decoding, float32 rows", async (kind) => {
    const segments = [
      { begin: 0, end: 33, rank: 8 },
      { begin: 40, end: 90, rank: 3 },
    ];
    for (const k of [64, 160, 200])
      for (const dropout of [0, 0.5])
        await check({
          rows: 90,
          k,
          layers: [{ kind, n: 72, bias: true, segments }],
          dropout,
          accumulate: dropout > 0,
          bf16: true,
        });
  });

  it("of a group of one kind, with tables of their own, and of mixed kinds", async () => {
    const segments = [{ begin: 5, end: 70, rank: 16 }];
    for (const second of ["4bit nested", "bfloat16"] as const)
      await check({
        rows: 70,
        k: 192,
        layers: [
          { kind: "4bit nested", n: 100, segments },
          { kind: second, n: 64, segments },
          { kind: "4bit nested", n: 40, blocksize: 128 },
        ],
        bf16: true,
      });
  });

  it.each([32, 64, 256, 4096])("in bf16 with blocks of %i", async (blocksize) => {
    await check({ rows: 20, k: 96, layers: [{ kind: "4bit", n: 50, blocksize }], bf16: true });
  });

  // From 96 tiles of 128 x 128 on. Whole numbers: nothing but W is rounded, and the reference is one product.
  it.each(["bfloat16", "4bit nested", "float32"] as const)("in large tiles, %s, y and dx", async (kind) => {
    const raw = new Raw(cuda, undefined, 64);
    for (const [rows, n, k] of [
      [70, 12230, 32],
      [70, 32, 12256],
    ] as const) {
      const forward = n > k;
      const whole = (count: number, seed: number) => gaussian(count, seed).map(Math.round);
      const w = randomWeight(raw, kind, n, k, 1);
      const used = matrix(
        n,
        k,
        w.values.at.map((v) => fromBfloat16(bfloat16Bits(v))),
      );
      const [given, a, b] = [whole(rows * (forward ? k : n), 2), whole(4 * k, 3), whole(n * 4, 4)];
      const residual = gaussian(rows * n, 5);
      const [x, y] = [
        forward ? raw.from(given, [rows, k]) : raw.out([rows, k]),
        forward ? raw.out([rows, n]) : raw.from(given, [rows, n]),
      ];
      const dx = raw.out([rows, k]);
      const segment = [3, 60, raw.from(a, [4, k]), raw.from(b, [n, 4]), 0, 0, 0.5];
      // Under dropout the mask of a tile of dx lies in buffers that the pipeline does not use yet.
      const dropout = forward ? 0 : 0.5;
      const group = Float64Array.of(
        x,
        dx,
        0,
        1,
        dropout,
        7,
        0,
        0,
        0,
        1,
        w.handle,
        0,
        y,
        0,
        forward ? raw.from(residual, [rows, n]) : 0,
        1,
        ...segment,
      );
      raw.kernels[forward ? "linear" : "linearGrad"](raw.d, group);
      let expected: Matrix;
      if (forward) {
        expected = addProduct(matrix(rows, n, residual), matrix(rows, k, given), transpose(used));
        const u = addProduct(matrix(57, 4), matrix(57, k, given.slice(3 * k, 60 * k)), transpose(matrix(4, k, a)), 0.5);
        const part = addProduct(matrix(57, n, expected.at.subarray(3 * n, 60 * n)), u, transpose(matrix(n, 4, b)));
        expected = matrix(rows, n, expected.at);
        expected.at.set(part.at, 3 * n);
      } else {
        const segments = [{ begin: 3, end: 60, a: matrix(4, k, a), b: matrix(n, 4, b), scale: 0.5 }];
        const layer = { w: used, dy: matrix(rows, n, given), segments };
        expected = linearGrad(matrix(rows, k), [layer], dropoutMask(rows, k, dropout, 7n)).dx;
      }
      expect(relativeError(await raw.f32(forward ? y : dx), expected.at)).toBeLessThan(5e-6);
      addon.freeWeight(w.handle);
    }
    raw.dispose();
  });

  it("in large tiles, dW", async () => {
    const [rows, n, k] = [40, 1290, 1290];
    const raw = new Raw(cuda, undefined, 64);
    const [dy, x, dw] = [1, 2, 3].map((seed) => gaussian(seed === 3 ? n * k : rows * n, seed).map((v) => Math.round(v)));
    const t = { dw: raw.from(dw!, [n, k]), dy: raw.from(dy!, [rows, n]), x: raw.from(x!, [rows, k]) };
    raw.kernels.linearDw(raw.d, t.dw, 0, t.dy, t.x, 1);
    const expected = addProduct(matrix(n, k, dw!), transpose(matrix(rows, n, dy!)), matrix(rows, k, x!));
    expect(relativeError(await raw.f32(t.dw), expected.at)).toBe(0);
    raw.dispose();
  });

  it.each(["bfloat16", "4bit nested", "float32"] as const)("in large tiles that end as a gated linear unit, %s", async (kind) => {
    const segments = [
      { begin: 3, end: 60, rank: 5 },
      { begin: 60, end: 70, rank: 40 },
    ];
    const layer = { kind, n: 6120, segments };
    for (const keeps of [
      [true, true],
      [false, false],
    ])
      await check({
        rows: 70,
        k: 32,
        layers: [
          { ...layer, bias: true },
          { ...layer, segments: segments.slice(1) },
        ],
        dx: false,
        bf16: true,
        gated: { activation: "silu", keeps },
      });
  });

  it.each([1, 2, 5, 9, 16, 70])("that end as a gated linear unit, %i rows, aligned", async (rows) => {
    const segments = [{ begin: 0, end: rows, rank: 5 }];
    for (const [first, second] of [
      ["4bit nested", "4bit"],
      ["bfloat16", "bfloat16"],
      ["float32", "float32"],
      ["4bit nested", "bfloat16"],
    ] as const)
      for (const bf16 of [false, true])
        await check({
          rows,
          k: 288,
          layers: [
            { kind: first, n: 45, segments },
            { kind: second, n: 45, bias: true, blocksize: 32 },
          ],
          bf16,
          gated: { activation: "gelu_tanh", keeps: [bf16, rows % 2 === 0] },
        });
  });

  it.each([1, 2, 4, 5, 16])("of %i rows, coded and not, with adapters", async (rows) => {
    const segments = [{ begin: 0, end: rows, rank: 5 }];
    for (const kind of ["4bit nested", "4bit rounded", "bfloat16"] as const)
      for (const bf16 of [false, true])
        await check({
          rows,
          k: 1120,
          layers: [
            { kind, n: 45, bias: true, residual: true, segments },
            { kind, n: 6, blocksize: 128, segments },
          ],
          dropout: 0.5,
          bf16,
        });
  });

  it("in float32, by vectors", async () => {
    await check({
      rows: 70,
      k: 96,
      layers: [{ kind: "float32", n: 68, residual: true, segments: [{ begin: 0, end: 70, rank: 8 }] }],
      dropout: 0.25,
    });
  });
});
