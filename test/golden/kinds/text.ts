import { join } from "node:path";
import { AutoTokenizer } from "../../../src/text/tokenizer.js";
import type { GoldenCase, GoldenHandler, GoldenOutcome } from "../types.js";

/** Collects what differs; a case is right when nothing does. */
export class Differences {
  private readonly list: string[] = [];
  constructor(private readonly total = 0) {}
  check(name: string, actual: unknown, expected: unknown): void {
    const a = JSON.stringify(actual);
    const e = JSON.stringify(expected);
    if (a !== e) this.list.push(`${name}: got ${a?.slice(0, 300)}, expected ${e?.slice(0, 300)}`);
  }
  fail(reason: string): void {
    this.list.push(reason);
  }
  outcome(): GoldenOutcome {
    if (this.list.length === 0) return { ok: true, maxError: 0 };
    const of = this.total > 0 ? ` of ${this.total}` : "";
    return { ok: false, reason: `${this.list.length}${of} differ; ${this.list.slice(0, 3).join("; ")}` };
  }
}

async function tokenizer(c: GoldenCase): Promise<GoldenOutcome> {
  const { spec } = c;
  const tok = await AutoTokenizer.fromPretrained(join(c.dir, spec.tokenizer));
  const diff = new Differences();
  diff.check("vocabSize", tok.vocabSize, spec.vocabSize);
  for (const name of ["bos", "eos", "pad", "unk"] as const) {
    diff.check(`${name}_token`, tok.specialTokens[name], spec.specialTokens[`${name}_token`]);
  }
  for (const s of spec.strings) {
    const label = JSON.stringify(s.text).slice(0, 60);
    diff.check(`ids of ${label}`, tok.encode(s.text), s.ids);
    diff.check(`ids without special tokens of ${label}`, tok.encode(s.text, { addSpecialTokens: false }), s.idsNoSpecial);
    diff.check(`decoded ${label}`, tok.decode(s.ids), s.decoded);
    diff.check(`decoded without special tokens ${label}`, tok.decode(s.ids, { skipSpecialTokens: true }), s.decodedSkipSpecial);
    diff.check(`decoded from plain ids ${label}`, tok.decode(s.idsNoSpecial), s.decodedNoSpecial);
  }
  for (const d of [...spec.decode, ...spec.decodePrefixes]) {
    diff.check(`decode ${d.ids}`, tok.decode(d.ids), d.decoded);
    if (d.decodedSkipSpecial !== undefined) {
      diff.check(`decode without special tokens ${d.ids}`, tok.decode(d.ids, { skipSpecialTokens: true }), d.decodedSkipSpecial);
    }
  }
  return diff.outcome();
}

export const handlers: Record<string, GoldenHandler> = { tokenizer };
