import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseJson } from "../../../src/data/json.js";
import { LowrankError } from "../../../src/errors.js";
import { type Conversation, renderChatBatch } from "../../../src/text/chat-template.js";
import { isIllDefined, maskConversations } from "../../../src/text/masks.js";
import { AutoTokenizer } from "../../../src/text/tokenizer.js";
import { type GoldenCase, type GoldenHandler, type GoldenOutcome, skipped } from "../types.js";

// biome-ignore lint/suspicious/noExplicitAny: every kind has its own form, described in the group's README
export type Json = any;

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

/** case.json with floats kept apart from integers, which `spec` has lost: templates print `1.0`. */
async function exactSpec(c: GoldenCase) {
  return parseJson(await readFile(join(c.dir, "case.json"), "utf8")) as Json;
}
function conversation(spec: Json, r: Json): Conversation {
  return {
    messages: r.messages,
    tools: r.tools,
    addGenerationPrompt: r.addGenerationPrompt ?? false,
    continueFinalMessage: r.continueFinalMessage ?? false,
    variables: { ...spec.specialTokens, ...r.kwargs },
    ...(spec.now ? { now: new Date(spec.now) } : {}),
  };
}

async function chatTemplate(c: GoldenCase): Promise<GoldenOutcome> {
  const spec = await exactSpec(c);
  const template = await readFile(join(c.dir, spec.template), "utf8");
  const results = await renderChatBatch(
    template,
    spec.renders.map((r: Json) => conversation(spec, r)),
  );
  const diff = new Differences(results.length);
  const refused: string[] = [];
  for (const [i, r] of spec.renders.entries()) {
    const result = results[i]!;
    if (!(result instanceof LowrankError)) {
      diff.check(r.name, r.error ? "a text" : result.text, r.error ? `an error: ${r.error.message}` : r.expected);
    } else if (r.error?.raisedBy === "template") {
      diff.check(r.name, result.details.message, r.error.message);
    } else if (!r.error && r.pythonOnly !== true) {
      refused.push(`${r.name} (${result.message})`);
    }
  }
  const outcome = diff.outcome();
  if (!outcome.ok || refused.length === 0) return outcome;
  return skipped(`the template uses what is not rendered yet: ${refused.join("; ")}`);
}

async function mask(c: GoldenCase): Promise<GoldenOutcome> {
  const spec = await exactSpec(c);
  const template = await readFile(join(c.dir, spec.template), "utf8");
  const tok = await AutoTokenizer.fromPretrained(join(c.dir, spec.tokenizer));
  const results = await maskConversations(
    tok,
    template,
    spec.renders.map((r: Json) => conversation(spec, r)),
  );
  const diff = new Differences(results.length);
  for (const [i, r] of spec.renders.entries()) {
    const result = results[i]!;
    if (result instanceof LowrankError) {
      if (r.wellDefined !== false || !isIllDefined(result)) diff.fail(`${r.name}: ${result.message}`);
      continue;
    }
    if (r.wellDefined === false) {
      diff.fail(`${r.name}: a mask, expected a refusal: ${r.reason}`);
      continue;
    }
    diff.check(`${r.name} text`, result.text, r.expected);
    diff.check(`${r.name} ids`, result.ids, r.ids);
    diff.check(`${r.name} mask`, [...result.mask], r.assistantMask);
    const trained = result.ids.filter((_, j) => result.mask[j] === 1);
    diff.check(`${r.name} masked text`, tok.decode(trained), r.maskedText);
  }
  return diff.outcome();
}

export const handlers: Record<string, GoldenHandler> = {
  tokenizer,
  chat_template: chatTemplate,
  generation_mask: mask,
  prefix_mask: mask,
};
