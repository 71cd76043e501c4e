import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LowrankError } from "../src/errors.js";
import { readGenerationConfig } from "../src/generate/options.js";
import { AutoModelForCausalLM, resolveConfig } from "../src/models/registry.js";
import { Keys, noteUnread } from "../src/notes.js";
import { LoraConfig } from "../src/peft/config.js";
import { PeftModel } from "../src/peft/peft-model.js";
import { getDevice } from "../src/tensor/device.js";
import { AutoTokenizer } from "../src/text/tokenizer.js";
import { buildOnce, jsonLines, lowrank, makeJob, makeModel } from "./cli/run.js";
import { goldenFolder, sharedFolder } from "./golden/folder.js";
import { loadTiny } from "./train/tiny.js";

const root = join(import.meta.dirname, "..");
let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lowrank-notes-"));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

type Json = Record<string, unknown>;
const read = (path: string) => JSON.parse(readFileSync(path, "utf8")) as Json;
/** Adds keys to a JSON file of a folder. */
const plant = (folder: string, file: string, keys: Json) => {
  const path = join(folder, file);
  writeFileSync(path, JSON.stringify({ ...(existsSync(path) ? read(path) : {}), ...keys }));
};
const collector = () => {
  const notes: string[] = [];
  return { notes, onNote: (note: string) => void notes.push(note) };
};

const LLAMA = {
  model_type: "llama",
  vocab_size: 320,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

/** Notes on a config.json. */
function configNotes(json: Json): string[] {
  const { notes, onNote } = collector();
  noteUnread("config.json", undefined, resolveConfig(json).unread, onNote);
  return notes;
}

function generationNotes(json: Json): string[] {
  const { notes, onNote } = collector();
  const keys = new Keys(json);
  readGenerationConfig(keys, []);
  noteUnread("generation_config.json", undefined, keys.unread(), onNote);
  return notes;
}

describe("files that say nothing in vain give no note", () => {
  const places = [goldenFolder("."), join(sharedFolder(), "models"), join(root, "assets"), join(root, "test")];
  const files = places
    .filter((place) => existsSync(place))
    .flatMap((place) => readdirSync(place, { recursive: true, encoding: "utf8" }).map((path) => join(place, path)));
  const named = (...names: string[]) => files.filter((path) => names.includes(basename(path)));
  /** What `check` notes, file by file; files that are refused on purpose count as no evidence. */
  async function walk(paths: readonly string[], check: (path: string) => string[] | Promise<string[]>): Promise<number> {
    let accepted = 0;
    for (const path of paths) {
      let notes: string[];
      try {
        notes = await check(path);
      } catch (error) {
        if (error instanceof LowrankError) continue;
        throw error;
      }
      expect(notes, path).toEqual([]);
      accepted++;
    }
    return accepted;
  }

  it("config.json", async () => {
    expect(await walk(named("config.json", "config.v4.json"), (path) => configNotes(read(path)))).toBeGreaterThan(5);
  });
  it("generation_config.json", async () => {
    expect(await walk(named("generation_config.json"), (path) => generationNotes(read(path)))).toBeGreaterThan(5);
  });
  it("tokenizer_config.json", async () => {
    const accepted = await walk(named("tokenizer_config.json"), async (path) => {
      const { notes, onNote } = collector();
      await AutoTokenizer.fromPretrained(dirname(path), { onNote });
      return notes;
    });
    expect(accepted).toBeGreaterThan(0);
  });
  it("adapter_config.json", async () => {
    const accepted = await walk(named("adapter_config.json"), (path) => {
      const config = LoraConfig.fromJSON(read(path) as Parameters<typeof LoraConfig.fromJSON>[0]);
      config.assertRunnable(false);
      const { notes, onNote } = collector();
      noteUnread("adapter_config.json", undefined, Object.entries(config.unknownKeys), onNote);
      return notes;
    });
    expect(accepted).toBeGreaterThan(5);
  });
});

describe("keys without effect are named", () => {
  it("in config.json, those of nested objects by their path", () => {
    const rope_scaling = { rope_type: "linear", factor: 2, beta_fast: 16 };
    expect(configNotes({ ...LLAMA, use_future_maths: true, layers_to_skip: [1], rope_scaling })).toEqual([
      "config.json has keys without effect here: use_future_maths, layers_to_skip, rope_scaling.beta_fast",
    ]);
  });

  it("what is null, or one of the values that change nothing, is not", () => {
    expect(configNotes({ ...LLAMA, use_future_maths: null, embd_pdrop: 0, resid_pdrop: 0.1 })).toEqual([
      "config.json has keys without effect here: resid_pdrop",
    ]);
    expect(generationNotes({ num_beams: 1, early_stopping: false, temperature: 0.7 })).toEqual([]);
  });

  it("rope parameters that others hide, as in transformers 5", () => {
    const rope_parameters = { rope_type: "default", rope_theta: 10000 };
    expect(configNotes({ ...LLAMA, rope_parameters, rope_theta: 500000, rope_scaling: { type: "linear", factor: 2 } })).toEqual([
      "config.json has keys without effect here: rope_parameters",
    ]);
    expect(configNotes({ ...LLAMA, rope_parameters, rope_theta: 500000 })).toEqual([
      "config.json has keys without effect here: rope_theta",
    ]);
  });

  it("ways of sampling that are not applied, and values that are none", () => {
    expect(
      generationNotes({ num_beams: 4, max_length: 4096, penalty_alpha: 0.6, temperature: "0.7", suppress_tokens: 3 }),
    ).toEqual([
      "generation_config.json has keys without effect here: num_beams, max_length, penalty_alpha, temperature, suppress_tokens",
    ]);
  });

  it("code has a sentence of its own", () => {
    expect(configNotes({ ...LLAMA, auto_map: { AutoModelForCausalLM: "modeling.Custom" }, extra: 1 })).toEqual([
      "config.json: auto_map names code in the checkpoint; lowrank never runs it",
      "config.json has keys without effect here: extra",
    ]);
  });

  it("a few of many, short, and with nothing that could drive a terminal", () => {
    const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`key${i}`, 1]));
    expect(configNotes({ ...LLAMA, ...many })[0]).toMatch(/: key0, key1, .*, key11 and 4988 more$/);
    const [note] = configNotes({ ...LLAMA, "\u001b[2J\u202egood": 1, "a, b": 1, ["x".repeat(5000)]: 1, __proto__: 1, "": 1 });
    expect(note).toBe(
      `config.json has keys without effect here: "\\u001b[2J\\u202egood", "a, b", "${"x".repeat(63)}\\u2026", ""`,
    );
  });
});

describe("notes reach the user", () => {
  const PLANTED: [string, Json][] = [
    ["config.json", { auto_map: { AutoModelForCausalLM: "modeling.Custom" }, use_future_maths: true }],
    ["generation_config.json", { num_beams: 4 }],
    ["tokenizer_config.json", { auto_map: { AutoTokenizer: ["tok.Custom", null] }, future_split: true }],
  ];
  const expected = (model: string) => [
    `${join(model, "config.json")}: auto_map names code in the checkpoint; lowrank never runs it`,
    `${join(model, "config.json")} has keys without effect here: use_future_maths`,
    `${join(model, "generation_config.json")} has keys without effect here: num_beams`,
    `${join(model, "tokenizer_config.json")}: auto_map names code in the checkpoint; lowrank never runs it`,
    `${join(model, "tokenizer_config.json")} has keys without effect here: future_split`,
  ];
  let model: string;
  let adapter: string;
  beforeAll(async () => {
    buildOnce();
    model = await makeModel(join(scratch, "model"));
    for (const [file, keys] of PLANTED) plant(model, file, keys);
    const base = await loadTiny();
    const peft = new PeftModel(base);
    peft.addAdapter("default", new LoraConfig({ r: 2, loraAlpha: 2, targetModules: ["q_proj"] }));
    adapter = join(scratch, "adapter");
    await peft.savePretrained(adapter);
    plant(adapter, "adapter_config.json", { new_option: null });
    peft.dispose();
  }, 60_000);
  const adapterNote = () => `${join(adapter, "adapter_config.json")} has keys without effect here: new_option`;

  it("of the library: through onNote, each once", async () => {
    const { live } = getDevice().memory;
    const { notes, onNote } = collector();
    const peft = new PeftModel(await AutoModelForCausalLM.fromPretrained(model, { onNote }));
    try {
      await peft.base.tokenizer();
      await peft.base.tokenizer();
      await peft.loadAdapter(adapter, "default", { onNote });
    } finally {
      peft.dispose();
    }
    expect(notes).toEqual([...expected(model), adapterNote()]);
    expect(getDevice().memory.live).toBe(live);
  });

  it("of the library without onNote: as process warnings", async () => {
    const seen: string[] = [];
    const listen = (warning: Error) => void (warning.name === "LowrankNote" && seen.push(warning.message));
    process.on("warning", listen);
    try {
      AutoModelForCausalLM.fromConfig({ ...LLAMA, use_future_maths: true }).dispose();
      await AutoTokenizer.fromPretrained(model);
      await new Promise((done) => setImmediate(done));
    } finally {
      process.off("warning", listen);
    }
    expect(seen).toEqual(["config.json has keys without effect here: use_future_maths", ...expected(model).slice(3)]);
  });

  const notesOf = (stderr: string) => [...stderr.matchAll(/^note: (.*)$/gm)].map((match) => match[1]);

  it.each([
    ["generate", () => ["--prompt", "a", "--max-new-tokens", "1"], true],
    // Merging copies the tokenizer's files and reads none of them.
    ["merge", () => ["--out", join(scratch, "merged")], false],
  ] as const)("of lowrank %s", async (verb, rest, tokenizer) => {
    const { code, stderr } = await lowrank([verb, "--model", model, "--adapter", adapter, "--ignore-mismatched-base", ...rest()]);
    expect(code, stderr).toBe(0);
    const [ofModel, ofTokenizer] = [expected(model).slice(0, 3), expected(model).slice(3)];
    expect(notesOf(stderr)).toEqual([...ofModel, adapterNote(), ...(tokenizer ? ofTokenizer : [])]);
  });

  it("of lowrank bench", async () => {
    const { code, stderr } = await lowrank(["bench", "generate", "--model", model, "--prompt", "20", "--new", "2"]);
    expect(code, stderr).toBe(0);
    expect(notesOf(stderr)).toEqual(expected(model));
  });

  it("of lowrank train: as warnings of the run, and of its dry run", async () => {
    const job = await makeJob(join(scratch, "job"), `adapter_name_or_path: ${adapter}\n`);
    for (const [file, keys] of PLANTED) plant(job.model, file, keys);
    const notes = new Set(expected(job.model));
    const ran = await lowrank(["train", job.config, "--json"]);
    expect(ran.code, ran.stderr).toBe(0);
    const warnings = jsonLines(ran.stdout).flatMap(({ type, message }) => (type === "warning" ? [message as string] : []));
    const told = warnings.filter((message) => /without effect|never runs/.test(message));
    expect(told).toHaveLength(notes.size + 1);
    expect(new Set(told)).toEqual(new Set([...notes, adapterNote()]));
    const dry = await lowrank(["train", job.config, "--dry-run", "output_dir=elsewhere"]);
    expect(dry.code, dry.stderr).toBe(0);
    expect(new Set(notesOf(dry.stderr).filter((note) => /without effect here|never runs/.test(note!)))).toEqual(
      new Set([...notes, adapterNote()]),
    );
  });
});
