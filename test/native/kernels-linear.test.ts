import { describe, expect, it } from "vitest";
import { addProduct, matrix, transpose } from "../reference/linear.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { type GroupCase, type LayerCase, runGroup } from "./linear-group.js";
import { addon, devices, isas, Raw, refusal, withRaw } from "./raw.js";
import { bfloat16Bits, fromBfloat16, randomWeight, weightKinds } from "./weights.js";

async function checkGroup(device: string, c: GroupCase): Promise<void> {
  await withRaw(device, async (raw) => {
    const { actual, expected } = await runGroup(raw, c);
    for (const [name, values] of Object.entries(expected))
      expect(relativeError(actual[name] as Float32Array, values), name).toBeLessThan(5e-6);
  });
}

const whole = (rows: number, rank: number) => [{ begin: 0, end: rows, rank }];
const odd = [1, 3, 65, 127];

describe.each(devices)("linears on %s", (device) => {
  it.each(weightKinds)("with a %s weight, every odd shape", async (kind) => {
    for (const rows of odd)
      for (const k of odd)
        for (const n of [1, 3, 65])
          await checkGroup(device, {
            rows,
            k,
            layers: [{ kind, n, bias: n === 3, residual: n !== 1, segments: whole(rows, 3) }],
          });
  });

  it.each([1, 3, 4, 8, 16, 64])("with rank %i", async (rank) => {
    for (const rows of [2, 70])
      await checkGroup(device, {
        rows,
        k: 130,
        layers: [{ kind: "4bit nested", n: 96, residual: true, segments: whole(rows, rank) }],
      });
  });

  it.each([64, 128, 4096])("with blocks of %i that cross rows", async (blocksize) => {
    for (const rows of [1, 33]) await checkGroup(device, { rows, k: 515, layers: [{ kind: "4bit", n: 67, blocksize }] });
  });

  it.each([1, 2, 3, 5, 6, 7, 13, 16])("of %i rows with whole blocks, in float32 and in bf16", async (rows) => {
    for (const [k, blocksize] of [
      [32, 32],
      [192, 64],
      [384, 128],
    ] as const) {
      const layers: LayerCase[] = [
        { kind: "4bit", n: 67, blocksize, residual: true },
        { kind: "4bit rounded", n: 17, blocksize, bias: true, segments: whole(rows, 3) },
        { kind: "4bit nested", n: 1, blocksize },
        { kind: "bfloat16", n: 35, bias: true, residual: true },
        { kind: "float16", n: 35 },
      ];
      for (const bf16 of [false, true]) await checkGroup(device, { rows, k, layers, bf16 });
    }
  });

  it.each([1, 4, 16])("of %i rows longer than what is decoded at once, in float32 and in bf16", async (rows) => {
    for (const bf16 of [false, true]) {
      for (const [k, blocksize] of [
        [1088, 64],
        [1536, 512],
        [2048, 1024],
      ] as const) {
        const layers: LayerCase[] = [{ kind: "4bit nested", n: 35, blocksize, segments: whole(rows, 2) }];
        await checkGroup(device, { rows, k, layers, bf16 });
      }
      await checkGroup(device, { rows, k: 1107, layers: [{ kind: "bfloat16", n: 35, bias: true }], bf16 });
    }
  });

  it("of a group, accumulating into dx, over more than one block of the reduction", async () => {
    const layers: LayerCase[] = [
      { kind: "4bit nested", n: 320, segments: whole(80, 8) },
      { kind: "4bit", n: 40, bias: true, residual: true, segments: whole(80, 16) },
      { kind: "bfloat16", n: 33 },
    ];
    await checkGroup(device, { rows: 80, k: 576, layers, accumulate: true });
  });

  it.each([1, 4, 9, 80])("with dropout on the adapters' input, %i rows", async (rows) => {
    const layers: LayerCase[] = [
      { kind: "4bit", n: 48, segments: whole(rows, 8) },
      { kind: "4bit", n: 20, segments: whole(rows, 4) },
    ];
    for (const accumulate of [false, true]) await checkGroup(device, { rows, k: 67, layers, dropout: 0.3, accumulate });
  });

  it.each([4, 14, 61])("with row segments, rows between them seeing the base only: %i rows", async (rows) => {
    const [a, b] = [Math.floor(rows / 4), Math.floor(rows / 2)];
    const segments = [
      { begin: 0, end: a, rank: 4 },
      { begin: a, end: b, rank: 16 },
      { begin: b + 1, end: rows, rank: 1 },
    ];
    const layers: LayerCase[] = [
      { kind: "4bit", n: 48, segments },
      { kind: "float32", n: 20, segments: segments.slice(0, 2) },
      { kind: "bfloat16", n: 7, segments: [{ begin: 0, end: b, rank: 2 }] },
    ];
    for (const dropout of [0, 0.5]) await checkGroup(device, { rows, k: 128, layers, dropout });
  });

  it("of more rows than one chunk holds, a segment crossing the border", async () => {
    const segments = [
      { begin: 0, end: 3, rank: 2 },
      { begin: 500, end: 1090, rank: 5 },
    ];
    const layers: LayerCase[] = [
      { kind: "4bit", n: 9, bias: true, residual: true, segments },
      { kind: "float32", n: 4, residual: true, segments },
    ];
    for (const dropout of [0, 0.2]) await checkGroup(device, { rows: 1100, k: 21, layers, dropout });
  });

  it.each(["silu", "gelu_tanh"] as const)(
    "that end as a gated linear unit by %s, with gate and up or without them",
    async (activation) => {
      for (const rows of [1, 3, 7, 16, 17, 70])
        for (const bf16 of [false, true])
          for (const keeps of [
            [true, true],
            [false, false],
            [false, true],
          ]) {
            const segments =
              rows < 70
                ? whole(rows, 5)
                : [
                    { begin: 2, end: 41, rank: 3 },
                    { begin: 41, end: 67, rank: 20 },
                  ];
            const layers: LayerCase[] = [
              { kind: "4bit nested", n: 97, bias: true, segments },
              { kind: keeps[0] ? "4bit nested" : "bfloat16", n: 97, bias: bf16, segments: segments.slice(1) },
            ];
            for (const k of [70, 192])
              await checkGroup(device, { rows, k, layers, dropout: 0.5, bf16, gated: { activation, keeps } });
          }
    },
  );

  it("that end as a gated linear unit of more rows than one chunk holds", async () => {
    const layers: LayerCase[] = ["4bit", "float32"].map((kind) => ({ kind: kind as "4bit", n: 9, segments: whole(1100, 2) }));
    await checkGroup(device, { rows: 1100, k: 21, layers, gated: { activation: "silu", keeps: [false, false] } });
  });

  it("of more blocks of the reduction than pass at once, in one layer and across layers", async () => {
    const rows = 520;
    const most = [{ begin: 3, end: rows, rank: 2 }];
    for (const segments of [most, whole(rows, 3)]) {
      const long: GroupCase = { rows, k: 2200, layers: [{ kind: "4bit", n: 8, bias: true, residual: true, segments }] };
      const layers: LayerCase[] = [
        { kind: "4bit nested", n: 1300, segments },
        { kind: "4bit nested", n: 1100, segments: most },
      ];
      const many: GroupCase = { rows, k: 16, layers };
      for (const c of [long, many, { ...many, dx: false }, { ...many, dropout: 0.2, accumulate: true }, { ...long, bf16: true }])
        await checkGroup(device, c);
    }
  });

  it.each([4, 61])("give dx and the gradients of adapters that are wanted, and no others, %i rows", async (rows) => {
    const [a, b] = [Math.floor(rows / 4), Math.floor(rows / 2)];
    const layers: LayerCase[] = [
      { kind: "4bit", n: 48, segments: whole(rows, 4).map((s) => ({ ...s, grads: "none" })) },
      {
        kind: "float32",
        n: 20,
        segments: [
          { begin: 0, end: a, rank: 4, grads: "a" },
          { begin: a, end: b, rank: 2, grads: "none" },
          { begin: b, end: rows, rank: 3, grads: "b" },
        ],
      },
      { kind: "bfloat16", n: 7, segments: whole(rows, 2) },
    ];
    for (const dx of [true, false])
      for (const dropout of [0, 0.5])
        for (const of of [layers, layers.slice(0, 1)]) await checkGroup(device, { rows, k: 70, layers: of, dx, dropout });
  });

  it("accumulate dW and dbias", async () => {
    for (const [rows, n, k] of [
      [1, 3, 5],
      [127, 65, 33],
      [300, 70, 130],
      [3, 1100, 5],
    ] as const)
      await withRaw(device, async (raw) => {
        const [dy, x, dw, db] = [gaussian(rows * n, 1), gaussian(rows * k, 2), gaussian(n * k, 3), gaussian(n, 4)] as const;
        const t = { dw: raw.from(dw, [n, k]), db: raw.from(db, [n]), dy: raw.from(dy, [rows, n]), x: raw.from(x, [rows, k]) };
        raw.kernels.linearDw(raw.d, t.dw, t.db, t.dy, t.x, 0);
        const dyT = transpose(matrix(rows, n, dy));
        expect(relativeError(await raw.f32(t.dw), addProduct(matrix(n, k, dw), dyT, matrix(rows, k, x)).at)).toBeLessThan(5e-6);
        expect(
          relativeError(
            await raw.f32(t.db),
            addProduct(matrix(n, 1, db), dyT, matrix(rows, 1, new Float64Array(rows).fill(1))).at,
          ),
        ).toBeLessThan(5e-6);
      });
  });

  it.each(weightKinds)("in bf16 with a %s weight: forward, backward, adapters, dropout", async (kind) => {
    for (const [rows, n, k] of [
      [3, 17, 40],
      [70, 97, 131],
    ] as const) {
      const segments = rows === 3 ? whole(3, 5) : [...whole(40, 3), { begin: 41, end: 70, rank: 17 }];
      const layers: LayerCase[] = [
        { kind, n, bias: true, residual: true, segments },
        { kind, n: 24, segments: segments.slice(0, 1) },
      ];
      for (const dropout of [0, 0.5]) await checkGroup(device, { rows, k, layers, dropout, accumulate: dropout > 0, bf16: true });
    }
  });

  it.each([3, 11, 50])("round their operands to bf16 when math says so, %i rows", async (rows) => {
    const [k, n, rounded] = [200, 40, (v: number) => fromBfloat16(bfloat16Bits(v))] as const;
    await withRaw(device, async (raw) => {
      const x = gaussian(rows * k, 1);
      const w = randomWeight(raw, "float32", n, k, 2);
      const y = raw.out([rows, n]);
      raw.kernels.linear(raw.d, Float64Array.from([raw.from(x, [rows, k]), 0, 0, 1, 0, 0, 0, 0, 0, 1, w.handle, 0, y, 0, 0, 0]));
      const expected = addProduct(
        matrix(rows, n),
        matrix(rows, k, x.map(rounded)),
        transpose(matrix(n, k, w.values.at.map(rounded))),
      );
      expect(relativeError(await raw.f32(y), expected.at)).toBeLessThan(5e-6);
      addon.freeWeight(w.handle);
    });
  });
});

describe("linears", () => {
  it("give the same bits with 1, 2 and 4 threads", async () => {
    const devices = [new Raw(`cpu:${isas.at(-1)}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)];
    const segments = [
      { begin: 0, end: 90, rank: 8 },
      { begin: 100, end: 150, rank: 8 },
    ];
    const layers: LayerCase[] = [
      { kind: "4bit nested", n: 200, bias: true, segments },
      { kind: "4bit", n: 70, segments },
    ];
    for (const [rows, k, bf16] of [
      [1, 320, false],
      [1, 320, true],
      [4, 300, false],
      [150, 300, false],
    ] as const) {
      const few = layers.map((layer) => ({ ...layer, segments: whole(rows, 8) }));
      const c: GroupCase = { rows, k, layers: rows < 90 ? few : layers, dropout: 0.1, bf16 };
      const results = await Promise.all(devices.map(async (raw) => (await runGroup(raw, c)).actual));
      expect(results[1]).toEqual(results[0]);
      expect(results[2]).toEqual(results[0]);
    }
    for (const raw of devices) raw.dispose();
  });

  it.each([0, 1])("give a row the same bits whatever rows stand beside it, math %i", async (math) => {
    await withRaw("cpu", async (raw) => {
      const [k, n] = [576, 192];
      const x = gaussian(64 * k, 6);
      for (const kind of ["4bit", "bfloat16"] as const) {
        const w = randomWeight(raw, kind, n, k, 5);
        const run = async (rows: number) => {
          const y = raw.out([rows, n]);
          raw.kernels.linear(
            raw.d,
            Float64Array.from([raw.from(x.slice(0, rows * k), [rows, k]), 0, 0, math, 0, 0, 0, 0, 0, 1, w.handle, 0, y, 0, 0, 0]),
          );
          return raw.f32(y);
        };
        // Up to 16 rows go one way, more of them another; with AMX there is a third.
        const few =
          math && isas.at(-1) === "amx"
            ? [
                [3, 1, 2],
                [16, 4, 7, 15],
              ]
            : [[16, 1, 2, 7, 15]];
        for (const [most, ...fewer] of [...few, [64, 17, 40]]) {
          const all = await run(most!);
          for (const rows of fewer) expect(await run(rows)).toEqual(all.slice(0, rows * n));
        }
        addon.freeWeight(w.handle);
      }
    });
  });

  it("refuse what does not fit, and say what", async () => {
    await withRaw("cpu", async (raw) => {
      const w = randomWeight(raw, "float32", 8, 16, 1);
      const words = (x: number, y: number, segment: number[] = []) =>
        Float64Array.from([x, 0, 0, 0, 0, 0, 0, 0, 0, 1, w.handle, 0, y, 0, 0, segment.length / 7, ...segment]);
      const [x, y] = [raw.out([2, 16]), raw.out([2, 8])];
      const wide = randomWeight(raw, "float32", 9, 16, 2);
      const gated = (to: number, { activation = 0, second = w.handle, residual = 0 } = {}) =>
        Float64Array.of(x, 0, 0, 0, 0, 0, 0, to, activation, 2, w.handle, 0, 0, 0, residual, 0, second, 0, 0, 0, 0, 0);
      const cases: [Float64Array, string][] = [
        [words(raw.out([2, 17]), y), "the weight takes 16 features but x has 17"],
        [words(x, raw.out([3, 8])), "y must be float32 [2, 8]"],
        [words(x, y).with(14, raw.out([2, 9])), "residual must be float32 [2, 8]"],
        [words(x, y).with(7, y), "gated takes two layers of as many outputs and no residual"],
        [gated(y, { residual: y }), "gated takes two layers of as many outputs and no residual"],
        [gated(y, { second: wide.handle }), "gated takes two layers of as many outputs and no residual"],
        [gated(raw.out([2, 9])), "gated must be float32 [2, 8]"],
        [gated(y, { activation: 2 }), "there is no activation 2"],
        [words(x, y, [0, 3, raw.out([4, 16]), raw.out([8, 4]), 0, 0, 1]), "segment 0 has rows [0, 3) of 2"],
        [words(x, y, [0, 2, raw.out([4, 15]), raw.out([8, 4]), 0, 0, 1]), "A must be float32 [r, 16]"],
        [words(x, y, [0, 2, raw.out([4, 16]), raw.out([8, 5]), 0, 0, 1]), "B must be float32 [8, 4]"],
      ];
      for (const [group, text] of cases) {
        const error = await refusal(raw, () => raw.kernels.linear(raw.d, group));
        expect(error).toMatchObject({ code: "INVALID", op: "linear" });
        expect(error.message).toContain(text);
      }
      const [a, b, u] = [raw.out([4, 16]), raw.out([8, 4]), raw.out([2, 4])];
      const trained = (da: number, db: number, u: number) => words(x, y, [0, 2, a, b, da, db, 1]).with(13, u);
      const gradients: [Float64Array, string][] = [
        [words(x, y).with(1, raw.out([2, 15])), "dx must be float32 [2, 16]"],
        [gated(y), "gated is of linear only"],
        [trained(raw.out([4, 16]), 0, 0), "layer 0: u must be present"],
        [trained(raw.out([3, 16]), 0, u), "dA must have the shape of A"],
        [trained(0, raw.out([8, 3]), u), "dB must have the shape of B"],
      ];
      for (const [group, text] of gradients) {
        const error = await refusal(raw, () => raw.kernels.linearGrad(raw.d, group));
        expect(error).toMatchObject({ code: "INVALID", op: "linear_grad" });
        expect(error.message).toContain(text);
      }
      for (const { handle } of [w, wide]) addon.freeWeight(handle);
    });
  });
});
