/** Mistakes planted in tokenised examples that are given to a Trainer, each beside its honest neighbour. */
import { describe, expect, it } from "vitest";
import { Trainer } from "../../src/train/trainer.js";
import { errorOf } from "../io/files.js";
import { BOS, END } from "../text/byte-tokenizer.js";
import { tinyPeft } from "../train/tiny.js";
import { CHAT, codesOf, example, honest, seenByTrainer, tokenizerWith } from "./plant.js";

const all = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

describe("labels", () => {
  it("honest examples are not flagged, with and without a tokenizer", async () => {
    expect(await seenByTrainer(honest())).toEqual([]);
    expect(await seenByTrainer(honest(), { tokenizer: await tokenizerWith(CHAT) })).toEqual([]);
    expect(await seenByTrainer(honest(), { tokenizer: await tokenizerWith() })).toEqual([]);
    // Chunks of plain text, in which ends are where the text says.
    expect(
      await seenByTrainer(
        all(6, (i) => example([`plain text ${i}, cut anywhere`])),
        { tokenizer: await tokenizerWith() },
      ),
    ).toEqual([]);
  });

  it("every label masked stops the run; single rows are counted", async () => {
    const masked = honest().map(({ inputIds }) => ({ inputIds, labels: inputIds.map(() => -100) }));
    const [found] = await seenByTrainer(masked);
    expect(found).toMatchObject({ code: "DATASET no-targets", examples: [1, 2, 3, 4, 5, 6, 7, 8] });
    expect(found!.message).toMatch(/All 8 examples have no token to learn: every label is -100/);
    // The first token is never predicted, so a label there is none.
    expect(codesOf(await seenByTrainer([example(["a"], "bcd")]))).toEqual(["DATASET no-targets"]);
    const some = await seenByTrainer([...honest(), masked[2]!]);
    expect(some).toMatchObject([{ code: "masked-rows" }]);
    expect(some[0]!.message).toMatch(/1 of 9 examples \(9\)/);
  });

  it("also those of the evaluation set", async () => {
    const evalDataset = [example(BOS, "nothing learnt"), example(BOS, "q:", ["fine"], [END])];
    const seen = await seenByTrainer(honest(), { evalDataset, args: { evalStrategy: "epoch" } });
    expect(seen).toMatchObject([{ code: "masked-rows", message: expect.stringMatching(/^Evaluation set: 1 of 2 examples/) }]);
  });

  it("labels of another length, shifted, or of other tokens", async () => {
    const short = honest().map(({ inputIds, labels }) => ({ inputIds, labels: labels.slice(1) }));
    expect(codesOf(await seenByTrainer(short))).toEqual(["DATASET malformed-labels"]);
    expect(codesOf(await seenByTrainer([{ inputIds: Int32Array.of(1, 2) } as never]))).toEqual(["DATASET malformed-labels"]);
    expect(codesOf(await seenByTrainer([{} as never]))).toEqual(["DATASET malformed-labels"]);
    const shifted = honest().map(({ inputIds, labels }) => ({
      inputIds,
      labels: labels.map((_, i) => labels[i + 1] ?? -100),
    }));
    const [found] = await seenByTrainer(shifted);
    expect(found).toMatchObject({ code: "DATASET shifted-labels" });
    expect(found!.hint).toMatch(/at the place of their id/);
    const [first, ...rest] = honest();
    first!.labels[14] = 5;
    expect(codesOf(await seenByTrainer([first!, ...rest]))).toEqual(["foreign-labels"]);
  });

  it("ids without a row in the embedding", async () => {
    for (const id of [320, 70_000, -7]) {
      const [found] = await seenByTrainer([...honest(), example(BOS, "q:", ["a"], [id], [END])]);
      expect(found).toMatchObject({ code: "DATASET outside-vocabulary", examples: [9] });
      expect(found!.message).toContain(`${id}`);
      expect(found!.message).toContain("embedding of 320 rows");
    }
    expect(await seenByTrainer([...honest(), example(BOS, "q:", ["a"], [319], [END])])).toEqual([]);
    expect(
      codesOf(await seenByTrainer([...honest(), { inputIds: Int32Array.of(5, 6, 7), labels: Int32Array.of(-100, 6, -1) }])),
    ).toEqual(["DATASET outside-vocabulary"]);
  });
});

describe("ends", () => {
  it("pad = EOS masked by id: the end of every answer is masked with the padding", async () => {
    const padded = all(6, (i) => example(BOS, `q ${i}:`, [`answer ${i}`], END, END, END));
    for (const tokenizer of [undefined, await tokenizerWith(CHAT)]) {
      // Without a tokenizer the model's own configuration names the end token: 2.
      const dataset = tokenizer ? padded : padded.map((e) => ({ ...e, inputIds: e.inputIds.map((id) => (id === END ? 2 : id)) }));
      const [found] = await seenByTrainer(dataset, tokenizer ? { tokenizer } : {});
      expect(found).toMatchObject({ code: "DATASET end-token-masked" });
      expect(found!.message).toMatch(/All 6 examples mask the end token \(.*\) behind a learnt answer; none learns it/);
      expect(found!.hint).toMatch(/by position, not by id/);
    }
    // Padding behind an end that is learnt.
    const right = all(6, (i) => example(BOS, `q ${i}:`, [`answer ${i}`], [END], END, END));
    expect(await seenByTrainer(right, { tokenizer: await tokenizerWith(CHAT) })).toEqual([]);
    const mixed = await seenByTrainer([...right, padded[0]!], { tokenizer: await tokenizerWith(CHAT) });
    expect(mixed).toMatchObject([{ code: "end-token-masked", message: expect.stringMatching(/1 of 7 examples \(7\)/) }]);
  });

  it("an end token that is never a target", async () => {
    const tokenizer = await tokenizerWith(CHAT);
    const [found] = await seenByTrainer(
      all(6, (i) => example(BOS, `q ${i}:`, [`answer ${i}.`])),
      { tokenizer },
    );
    expect(found).toMatchObject({ code: "end-token-untrained" });
    expect(found!.message).toMatch(/its end token \(.*<end>\) is never a target; all answers end with \./);
    expect(
      codesOf(
        await seenByTrainer(
          all(6, (i) => example(BOS, "q:", [`answer ${i}`])),
          { tokenizer },
        ),
      ),
    ).toEqual(["end-token-untrained"]);
  });

  it("two begin tokens", async () => {
    const doubled = all(6, (i) => example(BOS, BOS, `q ${i}:`, [`answer ${i}`], [END]));
    const tokenizer = await tokenizerWith(CHAT);
    const [found] = await seenByTrainer(doubled, { tokenizer });
    expect(found).toMatchObject({ code: "DATASET double-bos" });
    expect(found!.message).toContain("begin with two begin tokens (<s>)");
    expect(codesOf(await seenByTrainer([...honest(), doubled[0]!], { tokenizer }))).toEqual(["double-bos"]);
    // Without a tokenizer the model's configuration names it: 1.
    expect(codesOf(await seenByTrainer(all(3, () => example(1, 1, "q:", ["a"], [2]))))).toEqual(["DATASET double-bos"]);
  });

  it("several documents in one row", async () => {
    const packed = all(4, (i) => example([BOS], [`document ${i}`], [END], [BOS], [`another ${i}`], [END]));
    for (const template of [CHAT, undefined]) {
      const seen = await seenByTrainer(packed, { tokenizer: await tokenizerWith(template) });
      expect(seen).toMatchObject([{ code: "documents-in-a-row", message: expect.stringContaining("see each other") }]);
    }
    // Without begin tokens, where the end does not close turns.
    const joined = all(4, (i) => example([`document ${i}`], [END], [`another ${i}`], [END]));
    expect(codesOf(await seenByTrainer(joined, { tokenizer: await tokenizerWith() }))).toEqual(["documents-in-a-row"]);
    // Turns of one conversation look alike: the template says what they are.
    const turns = all(4, (i) => example([BOS], [`user ${i}`], [END], [BOS], [`assistant ${i}`], [END]));
    const everyTurn = "{% for m in messages %}<s>{{ m.content }}<end>{% endfor %}";
    expect(await seenByTrainer(turns, { tokenizer: await tokenizerWith(everyTurn) })).toEqual([]);
    expect(await seenByTrainer(joined, { tokenizer: await tokenizerWith(CHAT) })).toEqual([]);
    // So may one that refuses to be asked.
    expect(await seenByTrainer(turns, { tokenizer: await tokenizerWith("{{ raise_exception('no') }}") })).toEqual([]);
    const masked = all(4, (i) => example(`q ${i}`, ["a"], [END], `r ${i}`, ["b"], [END]));
    expect(await seenByTrainer(masked, { tokenizer: await tokenizerWith() })).toEqual([]);
  });

  it("empty answers", async () => {
    const tokenizer = await tokenizerWith(CHAT);
    const empty = all(3, (i) => example(BOS, `q ${i}:`, [" "], [END]));
    expect(codesOf(await seenByTrainer(empty, { tokenizer }))).toEqual(["DATASET empty-answers"]);
    const turns = example(BOS, "q:", ["yes"], [END], "r:", [END]);
    const seen = await seenByTrainer([...honest(), turns], { tokenizer });
    expect(seen).toMatchObject([
      { code: "empty-answers", message: expect.stringMatching(/1 of 9 examples \(9\) have an empty answer/) },
    ]);
  });
});

describe("evaluation rows", () => {
  it("that are trained on, exactly or but for case and white space", async () => {
    const tokenizer = await tokenizerWith(CHAT);
    const args = { evalStrategy: "epoch" as const };
    const evalDataset = [
      honest()[3]!,
      example(BOS, "Question  4:", ["ANSWER number 4 of 8"], [END]),
      example(BOS, "another:", ["answer"], [END]),
    ];
    const seen = await seenByTrainer(honest(), { tokenizer, evalDataset, args });
    expect(seen).toMatchObject([{ code: "eval-overlap" }]);
    expect(seen[0]!.message).toMatch(
      /2 of 3 examples \(1, 2\) stand in the training set too, 1 of them but for case and white space/,
    );
    const exact = await seenByTrainer(honest(), { evalDataset, args });
    expect(exact[0]!.message).toMatch(/1 of 3 examples \(1\) stand in the training set too:/);
    expect(await seenByTrainer(honest(), { tokenizer, evalDataset: evalDataset.slice(2), args })).toEqual([]);
  });
});

describe("an error", () => {
  it("comes with all others, is thrown before anything is trained, and can be accepted by its name", async () => {
    const dataset = ["one", "two"].map((q) => example(BOS, BOS, q, ["a whole sentence of an answer"], END));
    const tokenizer = await tokenizerWith(CHAT);
    await using peft = await tinyPeft();
    const trainer = (allow: string[]) => new Trainer({ model: peft, dataset, tokenizer, allow, args: { maxSteps: 2 } });
    const error = await errorOf(trainer([]).train());
    expect(error.code).toBe("DATASET");
    expect(error.message).toMatch(/2 reasons:\n- .*\[end-token-masked\]\n- .*\[double-bos\]/s);
    expect(error.hint).toContain("--allow end-token-masked --allow double-bos");
    expect((await errorOf(trainer(["double-bos"]).train())).message).toMatch(/\[end-token-masked\]$/);
    const { warnings, steps } = await trainer(["double-bos", "end-token-masked"]).train();
    expect(steps).toBe(2);
    expect(warnings.map(({ code }) => code)).toEqual(["end-token-masked", "double-bos"]);
  });
});
