/** Weighted adapters beside what they are made of, and the linear algebra under them. */
import { describe, expect, it } from "vitest";
import type { CombineOptions } from "../../src/index.js";
import { LoraConfig } from "../../src/peft/config.js";
import { type Columns, jacobi, qr, type Svd } from "../../src/peft/linalg.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { approximateSingular, largestSingular, productsOf } from "../../src/peft/singular.js";
import { getDevice } from "../../src/tensor/device.js";
import { gaussian } from "../reference/numeric.js";
import { leavesNothing } from "../tensor/live.js";
import { adapterFolder, largestDifference, loadBase, logits } from "./models.js";

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((sum, x, i) => sum + x * b[i]!, 0);
const worst = (values: Iterable<number>) => Math.max(...Array.from(values, Math.abs));
function expectOrthonormal(columns: Columns): void {
  for (const [i, x] of columns.entries())
    for (const [j, y] of columns.entries()) expect(Math.abs(dot(x, y) - (i === j ? 1 : 0))).toBeLessThan(1e-12);
}
/** W − u s vᵀ. */
const rest = (w: ArrayLike<number>, k: number, { u, s, v }: Svd) =>
  Float64Array.from(w, (value, at) => value - u.reduce((sum, x, r) => sum + x[Math.floor(at / k)]! * s[r]! * v[r]![at % k]!, 0));

describe("linalg", () => {
  it("qr gives back the matrix, with LAPACK's signs", () => {
    const columns = [0, 1, 2].map((seed) => Float64Array.from(gaussian(5, seed)));
    const { q, r } = qr(columns);
    expectOrthonormal(q);
    for (const [j, column] of columns.entries()) {
      for (const [i, value] of column.entries())
        expect(q.reduce((sum, x, c) => sum + x[i]! * r[j]![c]!, 0)).toBeCloseTo(value, 12);
      expect(worst(r[j]!.slice(j + 1))).toBeLessThan(1e-14);
    }
    expect(Math.sign(r[0]![0]!)).toBe(-Math.sign(columns[0]![0]!));
  });

  it.each([
    [7, 7],
    [65, 33],
    [33, 65],
    [300, 140],
    [1, 9],
  ])("the largest singular values of %i × %i are those of a full SVD", async (n, k) => {
    const w = gaussian(n * k, n + k);
    const columns = Array.from({ length: k }, (_, j) => Float64Array.from({ length: n }, (_, i) => w[i * k + j]!));
    const full = jacobi(columns);
    expect(worst(rest(w, k, full))).toBeLessThan(1e-11);
    const r = Math.min(4, n, k);
    using products = productsOf(w, n, k, getDevice());
    const found = await largestSingular(products, r);
    expectOrthonormal(found.u);
    expectOrthonormal(found.v);
    expect(worst(found.s.map((s, i) => s - full.s[i]!))).toBeLessThan(1e-10);
    const wanted = rest(w, k, { u: full.u.slice(0, r), s: full.s.slice(0, r), v: full.v.slice(0, r) });
    expect(worst(rest(w, k, found).map((x, i) => x - wanted[i]!))).toBeLessThan(1e-8);
    // The random subspace comes near with iterations.
    const near = approximateSingular(products, r, 200);
    expect(worst(near.s.map((s, i) => s / full.s[i]! - 1))).toBeLessThan(1e-3);
  });

  // Of a matrix whose decomposition is known, as it is made of it.
  const made = async (n: number, k: number, s: readonly number[]) => {
    const basis = (length: number) => qr(s.map((_, r) => Float64Array.from(gaussian(length, length + r)))).q;
    const [u, v] = [basis(n), basis(k)];
    const w = rest(new Float64Array(n * k), k, { u, s: Float64Array.from(s, (value) => -value), v });
    using products = productsOf(w, n, k, getDevice());
    let complete = false;
    const times = (columns: Columns) => {
      complete ||= columns.length === Math.min(n, k);
      return products.times(columns);
    };
    const r = 4;
    const found = await largestSingular({ ...products, times }, r);
    expectOrthonormal(found.u);
    expectOrthonormal(found.v);
    const first = { u: u.slice(0, r), s: Float64Array.from(s.slice(0, r)), v: v.slice(0, r) };
    const wanted = rest(w, k, first);
    return { found, complete, difference: worst(rest(w, k, found).map((value, at) => value - wanted[at]!)) / s[0]! };
  };

  it.each<[string, (i: number) => number, number, boolean]>([
    ["slowly falling values below a large one", (i) => (i === 0 ? 30 : 10 * (i + 20) ** -0.1), 1e-9, false],
    ["hardly any gap", (i) => 1 - 1e-4 * i, 1e-6, false],
    ["values that fall beyond float32", (i) => 10 ** (-i / 2), 1e-9, false],
    // Beyond what subspace iteration reaches: the whole is decomposed.
    ["a small part that hardly falls", (i) => (i < 2 ? 1 : 1e-5 * (1 - i / 200)), 1e-9, true],
    ["values that can hardly be told apart", (i) => 1 - 1e-10 * i, 1e-4, true],
  ])("the largest of %s", async (_, value, most, whole) => {
    const values = Array.from({ length: 100 }, (_, i) => value(i));
    const { found, complete, difference } = await made(160, 100, values);
    expect(worst(found.s.map((s, i) => s / values[i]! - 1))).toBeLessThan(1e-9);
    expect(difference).toBeLessThan(most);
    expect(complete).toBe(whole);
  });

  it("a matrix of lower rank is all there", async () => {
    const { complete, difference } = await made(160, 100, [3, 2, 1, 0.5]);
    expect(complete).toBe(false);
    expect(difference).toBeLessThan(1e-12);
  });

  it("finds equal singular values, and none where there are none", async () => {
    for (const n of [9, 90]) {
      const identity = Float64Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));
      using one = productsOf(identity, n, n, getDevice());
      expect([...(await largestSingular(one, 3)).s]).toEqual([1, 1, 1].map((s) => expect.closeTo(s, 12)));
      using nothing = productsOf(new Float64Array(n * (n + 1)), n, n + 1, getDevice());
      const zero = await largestSingular(nothing, 2);
      expect(worst([0, ...zero.s])).toBe(0);
      expect(zero.u.flatMap((column) => [...column]).every(Number.isFinite)).toBe(true);
    }
  });
});

const names = ["a", "b", "c"] as const;
const load = async (peft: PeftModel) => {
  for (const name of names) await peft.loadAdapter(adapterFolder("adapters-for-combine", name), name);
};

describe("addWeightedAdapter", () => {
  it("cat, and svd of enough rank, answer as the sum of the adapters", () =>
    leavesNothing(async () => {
      const model = await loadBase();
      const peft = new PeftModel(model);
      await load(peft);
      peft.setAdapter([...names]);
      const sum = await logits(model);
      await peft.addWeightedAdapter(names, [1, 1, 1], "cat", { combinationType: "cat" });
      await peft.addWeightedAdapter(names, [1, 1, 1], "svd", { svdRank: 14 });
      for (const name of ["cat", "svd"]) {
        peft.setAdapter(name);
        expect(largestDifference(await logits(model), sum)).toBeLessThan(2e-5);
      }
      expect(peft.peftConfig.get("cat")).toMatchObject({ r: 14, loraAlpha: 14, useRslora: false });
      peft.dispose();
    }));

  it("combines embeddings, and dare draws by its seed", async () => {
    await using model = await loadBase();
    const peft = new PeftModel(model);
    const config = new LoraConfig({ r: 2, loraAlpha: 6, targetModules: ["embed_tokens", "lm_head"], initLoraWeights: false });
    for (const [seed, name] of ["x", "y"].entries()) peft.addAdapter(name, config, { seed });
    peft.setAdapter(["x", "y"]);
    const sum = await logits(model);
    await peft.addWeightedAdapter(["x", "y"], [1, 1], "sum", { combinationType: "svd", svdRank: 4 });
    peft.setAdapter("sum");
    expect(largestDifference(await logits(model), sum)).toBeLessThan(2e-4);
    const drawn = async (name: string, options: CombineOptions) => {
      await peft.addWeightedAdapter(["x", "y"], [1, 1], name, { combinationType: "dare_linear", density: 0.5, ...options });
      peft.setAdapter(name);
      return logits(model);
    };
    const first = await drawn("1", { seed: 1 });
    expect(await drawn("2", { seed: 1 })).toEqual(first);
    expect(largestDifference(await drawn("3", { seed: 2 }), first)).toBeGreaterThan(1e-3);
    peft.unload();
  });

  it("refuses what cannot be combined, all at once", async () => {
    await using model = await loadBase();
    const peft = new PeftModel(model);
    await load(peft);
    const refused = { code: "INVALID_ARGUMENT" };
    await expect(peft.addWeightedAdapter(["a", "a"], [1, 1], "m")).rejects.toMatchObject(refused);
    await expect(peft.addWeightedAdapter(["a", "b"], [1], "m", { combinationType: "ties" })).rejects.toMatchObject({
      ...refused,
      details: { problems: [expect.stringContaining("1 weights"), expect.stringContaining("density")] },
    });
    peft.addAdapter("saved", new LoraConfig({ targetModules: ["q_proj"], modulesToSave: ["lm_head"] }));
    await expect(peft.addWeightedAdapter(["a", "saved"], [1, 1], "m")).rejects.toMatchObject({ code: "UNSUPPORTED" });
    expect([...peft.peftConfig.keys()]).toEqual([...names, "saved"]);
    peft.unload();
  });
});
