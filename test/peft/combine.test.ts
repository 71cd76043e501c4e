/** Weighted adapters beside what they are made of, and the linear algebra under them. */
import { describe, expect, it } from "vitest";
import type { CombineOptions } from "../../src/index.js";
import { LoraConfig } from "../../src/peft/config.js";
import { approximateSingular, type Columns, jacobi, largestSingular, productsOf, qr, type Svd } from "../../src/peft/linalg.js";
import { PeftModel } from "../../src/peft/peft-model.js";
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
  ])("the largest singular values of %i × %i are those of a full SVD", (n, k) => {
    const w = gaussian(n * k, n + k);
    const columns = Array.from({ length: k }, (_, j) => Float64Array.from({ length: n }, (_, i) => w[i * k + j]!));
    const full = jacobi(columns);
    expect(worst(rest(w, k, full))).toBeLessThan(1e-11);
    const r = Math.min(4, n, k);
    const found = largestSingular(productsOf(w, n, k), r);
    expectOrthonormal(found.u);
    expectOrthonormal(found.v);
    expect(worst(found.s.map((s, i) => s - full.s[i]!))).toBeLessThan(1e-10);
    const wanted = rest(w, k, { u: full.u.slice(0, r), s: full.s.slice(0, r), v: full.v.slice(0, r) });
    expect(worst(rest(w, k, found).map((x, i) => x - wanted[i]!))).toBeLessThan(1e-8);
    // The random subspace comes near with iterations.
    const near = approximateSingular(productsOf(w, n, k), r, 200);
    expect(worst(near.s.map((s, i) => s / full.s[i]! - 1))).toBeLessThan(1e-3);
  });

  it("finds equal singular values, and none where there are none", () => {
    const identity = Float64Array.from({ length: 81 }, (_, at) => (at % 10 === 0 ? 1 : 0));
    expect([...largestSingular(productsOf(identity, 9, 9), 3).s]).toEqual([1, 1, 1].map((s) => expect.closeTo(s, 12)));
    const zero = largestSingular(productsOf(new Float64Array(12), 3, 4), 2);
    expect(worst(zero.s)).toBe(0);
    expect(zero.u.flatMap((column) => [...column]).every(Number.isFinite)).toBe(true);
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
