import { describe, expect, it } from "vitest";
import { type HeadOptions, tokenLogprob } from "../reference/head.js";
import { matrix } from "../reference/linear.js";
import { gaussian, gradientError, relativeError, uniform, weighted } from "../reference/numeric.js";
import { addon, devices, isas, Raw, refusal, withRaw } from "./raw.js";
import { randomWeight, type WeightKind, weightKinds } from "./weights.js";

const plain: HeadOptions = { softcap: 0, logitScale: 1, smoothing: 0, zLoss: 0 };
const variants: [string, HeadOptions][] = [
  ["plain", plain],
  ["softcap and scale", { ...plain, softcap: 4, logitScale: 0.25 }],
  ["smoothing", { ...plain, smoothing: 0.1 }],
  ["z-loss", { ...plain, zLoss: 1e-2 }],
  ["everything", { softcap: 4, logitScale: 0.5, smoothing: 0.2, zLoss: 1e-2 }],
];

function makeLabels(t: number, v: number, seed: number): Int32Array {
  const next = uniform(seed);
  return Int32Array.from({ length: t }, (_, i) => (i % 4 === 1 ? -100 : Math.floor(v * next())));
}

interface HeadCase {
  /** "products": x holds them, there is no weight; k = v. */
  kind: WeightKind | "products";
  t: number;
  k: number;
  v: number;
  options: HeadOptions;
  labels?: Int32Array;
}

function run(raw: Raw, c: HeadCase) {
  const { t, k, v, options: o } = c;
  const labels = c.labels ?? makeLabels(t, v, 7);
  const x = gaussian(t * k, 1);
  const products = c.kind === "products";
  const identity = Float64Array.from({ length: products ? v * v : 0 }, (_, i) => (i % (v + 1) === 0 ? 1 : 0));
  const w = c.kind === "products" ? { handle: 0, values: matrix(v, v, identity) } : randomWeight(raw, c.kind, v, k, 2);
  const [dvalue, dentropy, dweight0] = [gaussian(t, 3), gaussian(t, 4), gaussian(v * k, 5)] as const;
  const out = {
    value: raw.out([t]),
    entropy: raw.out([t]),
    argmax: raw.out([t], "int32"),
    dxUnit: raw.out([t, k]),
    dx: raw.out([t, k]),
    dweight: products ? 0 : raw.from(dweight0, [v, k]),
  };
  const words = [
    out.value,
    out.entropy,
    out.argmax,
    out.dxUnit,
    raw.from(x, [t, k]),
    w.handle,
    raw.from(labels, [t]),
    o.softcap,
    o.logitScale,
    o.smoothing,
    o.zLoss,
    0,
  ];
  words.push(raw.from(dvalue, [t]), raw.from(dentropy, [t]), out.dx, out.dweight);
  raw.kernels.tokenLogprob(raw.d, Float64Array.from(words));
  raw.kernels.tokenLogprobGrad(raw.d, Float64Array.from(words));
  return { out, labels, x, w, dvalue, dentropy, dweight0 };
}

async function check(device: string, c: HeadCase): Promise<void> {
  await withRaw(device, async (raw) => {
    const { t, k, v, options } = c;
    const r = run(raw, c);
    const at = (x: ArrayLike<number>, w: ArrayLike<number> = r.w.values.at) =>
      tokenLogprob(matrix(t, k, x), matrix(v, k, w), r.labels, options);
    const expected = at(r.x);
    expect(relativeError(await raw.f32(r.out.value), expected.value)).toBeLessThan(2e-6);
    expect(relativeError(await raw.f32(r.out.entropy), expected.entropy)).toBeLessThan(1e-5);
    expect(await raw.i32(r.out.argmax)).toEqual(expected.argmax);
    const ones = new Float64Array(t).fill(1);
    expect(gradientError((x) => weighted(at(x).value, ones), r.x, await raw.f32(r.out.dxUnit), 1)).toBeLessThan(2e-5);
    const loss = (x: ArrayLike<number>, w?: ArrayLike<number>) => {
      const { value, entropy } = at(x, w);
      return weighted(value, r.dvalue) + weighted(entropy, r.dentropy);
    };
    expect(gradientError((x) => loss(x), r.x, await raw.f32(r.out.dx), 2)).toBeLessThan(2e-5);
    if (c.kind === "products") return;
    const added = (await raw.f32(r.out.dweight)).map((value, i) => value - (r.dweight0[i] as number));
    expect(gradientError((w) => loss(r.x, w), r.w.values.at, added, 3)).toBeLessThan(2e-5);
    addon.freeWeight(r.w.handle);
  });
}

describe.each(devices)("the head on %s", (device) => {
  it.each(variants)("equals float64, and its gradients differences: %s", async (_, options) => {
    for (const [t, k, v] of [
      [1, 3, 5],
      [9, 65, 127],
      [30, 16, 3],
    ] as const)
      await check(device, { kind: "float32", t, k, v, options });
  });

  it.each(weightKinds)("reads a %s weight", async (kind) => check(device, { kind, t: 17, k: 33, v: 130, options: plain }));

  it.each(variants)("takes the products themselves: %s", async (_, options) => {
    for (const [t, v] of [
      [1, 3],
      [30, 65],
    ] as const)
      await check(device, { kind: "products", t, k: v, v, options });
  });

  it("sums over a vocabulary that is cut into slabs, and these into parts", async () => {
    for (const options of [variants[0]![1], variants[4]![1]]) {
      await check(device, { kind: "float32", t: 3, k: 5, v: 4700, options });
      await check(device, { kind: "products", t: 2, k: 600, v: 600, options });
    }
  });

  it("gives 0, and argmax -1, where every label is -100", async () => {
    await withRaw(device, async (raw) => {
      const { out, w } = run(raw, { kind: "float32", t: 5, k: 8, v: 20, options: plain, labels: new Int32Array(5).fill(-100) });
      for (const t of [out.value, out.entropy, out.dxUnit, out.dx]) expect((await raw.f32(t)).every((x) => x === 0)).toBe(true);
      expect(await raw.i32(out.argmax)).toEqual(new Int32Array(5).fill(-1));
      addon.freeWeight(w.handle);
    });
  });
});

describe("the head", () => {
  it("cuts the rows into chunks that do not show", async () => {
    await withRaw("cpu", async (raw) => {
      const [t, k, v] = [500, 4, 60_000]; // about 200 rows of logits a chunk
      const c: HeadCase = { kind: "bfloat16", t, k, v, options: plain };
      const whole = run(raw, c);
      const value = await raw.f32(whole.out.value);
      const expected = tokenLogprob(matrix(t, k, whole.x), whole.w.values, whole.labels, plain);
      expect(relativeError(value, expected.value)).toBeLessThan(2e-6);
      expect(await raw.i32(whole.out.argmax)).toEqual(expected.argmax);
      addon.freeWeight(whole.w.handle);
    });
  });

  it("gives the same bits with 1, 2 and 4 threads", async () => {
    const raws = [new Raw(`cpu:${isas.at(-1)}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)];
    const results = await Promise.all(
      raws.map(async (raw) => {
        const { out, w } = run(raw, { kind: "4bit", t: 90, k: 40, v: 4700, options: variants[4]?.[1] as HeadOptions });
        const result = await Promise.all([out.value, out.entropy, out.dxUnit, out.dx, out.dweight].map((h) => raw.f32(h)));
        addon.freeWeight(w.handle);
        raw.dispose();
        return result;
      }),
    );
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  it("refuses a label outside the vocabulary", async () => {
    await withRaw("cpu", async (raw) => {
      const labels = Int32Array.from([1, 7, -1]);
      const w = randomWeight(raw, "float32", 5, 4, 1);
      const words = [
        raw.out([3]),
        0,
        0,
        0,
        raw.from(gaussian(12, 1), [3, 4]),
        w.handle,
        raw.from(labels, [3]),
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
      ];
      const error = await refusal(raw, () => raw.kernels.tokenLogprob(raw.d, Float64Array.from(words)));
      expect(error).toMatchObject({ code: "INVALID", op: "token_logprob" });
      expect(error.message).toContain("label 7 of row 1 is outside [0, 5) and is not -100");
      addon.freeWeight(w.handle);
    });
  });
});
