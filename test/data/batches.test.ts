import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Batches, fingerprint, makeUnits } from "../../src/data/batches.js";
import { countTargets, IGNORE, packTokens } from "../../src/data/collate.js";
import { parseJson } from "../../src/data/json.js";
import { packRows } from "../../src/data/packing.js";
import { permutation, splitRows } from "../../src/data/shuffle.js";

/** Example n holds tokens 100 n, 100 n + 1, …; its first token is no label. */
const examples = (...lengths: number[]) =>
  lengths.map((length, n) => {
    const inputIds = Int32Array.from({ length }, (_, i) => 100 * n + i);
    return { inputIds, labels: inputIds.map((id, i) => (i === 0 ? IGNORE : id)) };
  });

describe("packed tokens", () => {
  it("shift labels inside each sequence", () => {
    const packed = packTokens([...examples(3, 1), { inputIds: [], labels: [] }, { inputIds: [7, 8], labels: [7, IGNORE] }]);
    expect(packed).toEqual({
      inputIds: Int32Array.of(0, 1, 2, 100, 7, 8),
      positions: Int32Array.of(0, 1, 2, 0, 0, 1),
      labels: Int32Array.of(1, 2, IGNORE, IGNORE, IGNORE, IGNORE),
      cuSeqlens: Int32Array.of(0, 3, 4, 6),
      targetTokens: 2,
      width: 3,
    });
  });

  it("are as wide as their longest row, which a pack is as a whole", () => {
    const batch = { batchSize: 2, accumulationSteps: 1, seed: 1, shuffle: false };
    const list = [4, 5, 2, 1].map((length) => ({ inputIds: new Int32Array(length), labels: new Int32Array(length) }));
    const widths = (units: ReturnType<typeof makeUnits>) => {
      const batches = new Batches(units, batch);
      return Array.from({ length: batches.stepsPerEpoch }, (_, i) => batches.at(batches.cursorAt(i)).microBatches[0]!.width);
    };
    expect(widths(makeUnits(list))).toEqual([5, 2]);
    expect(widths(makeUnits(list, { strategy: "bfd", maxLength: 7 }))).toEqual([7]);
  });

  it("count as many targets as labels say", () => {
    const token = fc.record({ id: fc.nat(50), learnt: fc.boolean() });
    fc.assert(
      fc.property(fc.array(fc.array(token, { minLength: 1, maxLength: 9 }), { maxLength: 6 }), (sequences) => {
        const list = sequences.map((s) => ({ inputIds: s.map((t) => t.id), labels: s.map((t) => (t.learnt ? t.id : IGNORE)) }));
        const packed = packTokens(list);
        expect(packed.targetTokens).toBe(list.reduce((n, e) => n + countTargets(e.labels), 0));
        expect(packed.labels.filter((l) => l !== IGNORE)).toHaveLength(packed.targetTokens);
        for (const end of packed.cuSeqlens.subarray(1)) expect(packed.labels[end - 1]).toBe(IGNORE);
      }),
    );
  });
});

describe("packing", () => {
  it("loses no token but those bfd cuts, and never overfills", () => {
    const lengths = fc.array(fc.nat(40), { maxLength: 60 });
    fc.assert(
      fc.property(
        lengths,
        fc.integer({ min: 1, max: 17 }),
        fc.constantFrom("bfd" as const, "bfd_split" as const, "wrapped" as const),
        (list, max, strategy) => {
          const packs = packRows(list, max, strategy);
          const seen = packs.flat().flatMap((s) => Array.from({ length: s.end - s.start }, (_, i) => 1000 * s.row + s.start + i));
          const expected = list.flatMap((n, row) =>
            Array.from({ length: strategy === "bfd" ? Math.min(n, max) : n }, (_, i) => 1000 * row + i),
          );
          expect(seen.toSorted((a, b) => a - b)).toEqual(expected);
          for (const pack of packs) expect(pack.reduce((n, s) => n + s.end - s.start, 0)).toBeLessThanOrEqual(max);
        },
      ),
    );
  });

  it("goes in batches of a thousand rows", () => {
    expect(packRows(Array(1001).fill(1), 2000, "bfd").map((p) => p.length)).toEqual([1000, 1]);
    expect(packRows(Array(1001).fill(1), 2000, "wrapped").map((p) => p.length)).toEqual([1000, 1]);
  });

  it("keeps sequences apart in best fit and joins them in wrapped packs", () => {
    expect(makeUnits(examples(2, 2), { strategy: "bfd", maxLength: 4 }).map((u) => u.length)).toEqual([2]);
    const [unit] = makeUnits(examples(2, 2), { strategy: "wrapped", maxLength: 4 });
    expect(unit).toEqual([{ inputIds: Int32Array.of(0, 1, 100, 101), labels: Int32Array.of(IGNORE, 1, IGNORE, 101) }]);
  });
});

describe("batches", () => {
  const options = { batchSize: 2, accumulationSteps: 2, seed: 3 };
  const units = makeUnits(examples(3, 4, 5, 2, 6, 3, 4));
  const tokensOf = (batches: Batches, epoch: number) => {
    const seen: number[] = [];
    for (let cursor = { epoch, index: 0 }; cursor.epoch === epoch; ) {
      const step = batches.at(cursor);
      for (const b of step.microBatches) for (const s of b.cuSeqlens.subarray(0, -1)) seen.push(b.inputIds[s]! / 100);
      cursor = step.next;
    }
    return seen;
  };

  it("deal every unit once an epoch, in another order each time", () => {
    const batches = new Batches(units, options);
    const epochs = [0, 1, 2].map((e) => tokensOf(batches, e));
    for (const seen of epochs) expect(seen.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(new Set(epochs.map(String)).size).toBe(3);
    expect(tokensOf(new Batches(units, { ...options, shuffle: false }), 4)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it("know a whole step's targets, also of the short last step", () => {
    const batches = new Batches(units, { ...options, shuffle: false });
    expect(batches.stepsPerEpoch).toBe(2);
    const first = batches.at({ epoch: 0, index: 0 });
    expect([first.microBatches.length, first.targetTokens, first.tokens]).toEqual([2, 2 + 3 + 4 + 1, 14]);
    const last = batches.at(first.next);
    expect([last.microBatches.map((b) => b.targetTokens), last.targetTokens, last.next]).toEqual([
      [5 + 2, 3],
      10,
      { epoch: 1, index: 0 },
    ]);
  });

  it("resume from a cursor exactly", () => {
    const whole = new Batches(units, options);
    let cursor = { epoch: 0, index: 0 };
    for (let step = 0; step < 7; step++) {
      expect(whole.cursorAt(step)).toEqual(cursor);
      const resumed = new Batches(units, options).at(cursor);
      expect(resumed).toEqual(whole.at(cursor));
      cursor = resumed.next;
    }
  });

  it("put like lengths together when asked to", () => {
    const mixed = makeUnits(examples(...Array.from({ length: 90 }, (_, i) => 1 + ((i * 37) % 90))));
    const batches = new Batches(mixed, { batchSize: 4, accumulationSteps: 1, seed: 1, groupByLength: true });
    const { microBatches } = batches.at({ epoch: 0, index: 0 });
    const lengths = Array.from(microBatches[0]!.cuSeqlens.subarray(1), (c, i) => c - microBatches[0]!.cuSeqlens[i]!);
    expect(lengths).toEqual([90, 89, 88, 87]);
  });

  it("tell data apart by their fingerprint", () => {
    expect(fingerprint(examples(2, 3))).toBe(fingerprint(examples(2, 3)));
    expect(fingerprint(examples(2, 3))).not.toBe(fingerprint(examples(3, 2)));
  });
});

describe("permutations", () => {
  it("hold every index once and are spread evenly", () => {
    const places = Array.from({ length: 5 }, () => new Float64Array(5));
    for (let seed = 0; seed < 5000; seed++) {
      const order = permutation(5, seed, 7);
      expect([...order].sort()).toEqual([0, 1, 2, 3, 4]);
      for (const [i, v] of order.entries()) places[i]![v]!++;
    }
    // 5000 draws of probability 1/5: six standard deviations are 170.
    for (const row of places) for (const n of row) expect(Math.abs(n - 1000)).toBeLessThan(170);
  });

  it("split rows by count or by fraction", () => {
    const rows = Array.from({ length: 10 }, (_, i) => i);
    for (const [size, n] of [
      [1, 1],
      [3, 3],
      [0.11, 2],
      [99, 10],
    ] as const) {
      const { train, validation } = splitRows(rows, size, 42);
      expect(validation).toHaveLength(n);
      expect([...train, ...validation].toSorted((a, b) => a - b)).toEqual(rows);
    }
  });
});

describe("JSON with Python's numbers", () => {
  it("equals JSON.parse but for floats that are whole and great integers", () => {
    const plain = (value: unknown) => JSON.stringify(value, (_, v) => (typeof v === "bigint" ? Number(v) : v));
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(plain(parseJson(`[${text}, 1.0]`))).toBe(JSON.stringify([JSON.parse(text), 1]));
      }),
      { numRuns: 300 },
    );
    expect(parseJson('{"a": [1.0, 1e3, 12345678901234567890, -0.0, 0.5, "1.0 \\" ]"], "__proto__": 2.0}')).toEqual(
      Object.fromEntries([
        ["a", [Object(1), Object(1000), 12345678901234567890n, Object(-0), 0.5, '1.0 " ]']],
        ["__proto__", Object(2)],
      ]),
    );
  });
});
