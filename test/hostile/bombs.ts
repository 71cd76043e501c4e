import { join } from "node:path";
import { loadRows } from "../../src/data/rows.js";
import { openCheckpoint } from "../../src/io/checkpoint.js";
import { openSafetensors } from "../../src/io/safetensors.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { AutoTokenizer } from "../../src/text/tokenizer.js";
import { loadTrainConfig } from "../../src/train/config.js";
import { ADAPTER, ADAPTER_WEIGHTS, ALL, CONFIG, INDEX, modelFiles, tokenizerFiles, weightsOf } from "../fuzz/tiny.js";
import { type Bomb, crowded, fifo, file, header, link, MIB, nested, sparse } from "./bomb.js";

const GB = 1024 * MIB;
const TB = 1024 * GB;

const write = (folder: string, files: Record<string, unknown>) => {
  for (const [name, content] of Object.entries(files))
    file(folder, name, Buffer.isBuffer(content) || typeof content === "string" ? content : JSON.stringify(content));
};
const model =
  (changes: Record<string, unknown> = {}) =>
  (folder: string) =>
    write(folder, { ...modelFiles(), ...changes });
const loadModel = async (folder: string) => (await AutoModelForCausalLM.fromPretrained(folder)).dispose();
const loadAdapter = async (folder: string) => {
  write(folder, Object.fromEntries(Object.entries(modelFiles()).map(([name, content]) => [`base/${name}`, content])));
  const base = await AutoModelForCausalLM.fromPretrained(join(folder, "base"));
  try {
    await PeftModel.fromPretrained(base, join(folder, "adapter"));
  } finally {
    base.dispose();
  }
};
const adapter = (changes: Record<string, unknown>) => (folder: string) =>
  write(folder, {
    "adapter/adapter_config.json": { ...ADAPTER, ...changes },
    "adapter/adapter_model.safetensors": weightsOf(ADAPTER_WEIGHTS),
  });
const tokenizer = (changes: Record<string, unknown>) => (folder: string) => {
  const files = tokenizerFiles("bytelevel");
  write(folder, { ...files, "tokenizer.json": { ...JSON.parse(files["tokenizer.json"]!.toString()), ...changes } });
};
const loadTokenizer = async (folder: string) => (await AutoTokenizer.fromPretrained(folder)).encode(`${"a".repeat(40)}!`);
const rows = (name: string) => (folder: string) => loadRows({ dataset: join(folder, name), stage: "pt" });
const registered = (folder: string) => loadRows({ dataset: "d", datasetDir: folder, stage: "sft" });

const bomb = (name: string, write: Bomb["write"], open: Bomb["open"], code: string, message: RegExp): Bomb => ({
  name,
  write,
  open,
  code,
  message,
});

const tensors = (n: number) =>
  `{${Array.from({ length: n }, (_, i) => `"t${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`).join(",")}}`;
const raw = (bytes: Uint8Array) => (folder: string) => file(folder, "x.safetensors", bytes);
const openRaw = (folder: string) => openSafetensors(join(folder, "x.safetensors"));
const one = (entry: string) => header(`{"a":${entry}}`, new Uint8Array(8));

const SAFETENSORS: Bomb[] = [
  ["a header length of 2^63", raw(header("{}", undefined, 2n ** 63n)), /says its header has 9223372036854775808 bytes/],
  ["a header length of 2^64 - 1", raw(header("{}", undefined, 2n ** 64n - 1n)), /says its header has/],
  [
    "a header of 100 MB of blanks",
    (f: string) => raw(header(`{${" ".repeat(100_000_000 - 2)}}`))(f),
    /at most 16777216 are possible/,
  ],
  ["a header of 15 MB of small values", (f: string) => raw(header(crowded(15 * MIB)))(f), /more than 700000 values/],
  ["a header nested 100 000 deep", raw(header(`{"a":${nested(100_000)}}`)), /nested more than 128 deep/],
  ["a million tensors", (f: string) => raw(header(tensors(1_000_000)))(f), /at most 16777216 are possible/],
  ["130 000 tensors", (f: string) => raw(header(tensors(130_000)))(f), /more than 700000 values|lists 130000 tensors/],
  [
    "overlapping tensors",
    raw(
      header(
        '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
        new Uint8Array(6),
      ),
    ),
    /overlaps/,
  ],
  ["a hole", raw(header('{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}', new Uint8Array(4))), /leaves a hole/],
  ["offsets that run backwards", raw(one('{"dtype":"U8","shape":[0],"data_offsets":[8,0]}')), /ends before it begins/],
  ["a shape of 2^63", raw(one('{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8]}')), /bad shape/],
  [
    "a shape whose product is 2^106",
    raw(one('{"dtype":"U8","shape":[9007199254740991,9007199254740991],"data_offsets":[0,8]}')),
    /disagree/,
  ],
  ["a shape of NaN", raw(one('{"dtype":"U8","shape":[NaN],"data_offsets":[0,8]}')), /not valid JSON/],
  ["a shape of 1e999", raw(one('{"dtype":"U8","shape":[1e999],"data_offsets":[0,8]}')), /bad shape/],
  [
    "a tensor twice",
    raw(
      header('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    ),
    /"a" twice/,
  ],
  ["a byte order mark", raw(header("\ufeff{}")), /does not begin with/],
  ["a pipe", (f: string) => fifo(f, "x.safetensors"), /not a regular file/],
  ["a device", (f: string) => link(f, "x.safetensors", "/dev/zero"), /not a regular file/],
].map(([name, write, message]) =>
  bomb(`safetensors: ${name}`, write as Bomb["write"], openRaw, "INVALID_FILE", message as RegExp),
);

/** Every JSON file there is, and what opens it. */
const JSONS: [file: string, prepare: Bomb["write"], open: Bomb["open"]][] = [
  ["config.json", model(), loadModel],
  ["generation_config.json", model(), loadModel],
  ["model.safetensors.index.json", (f) => write(f, { "config.json": CONFIG }), loadModel],
  ["tokenizer.json", tokenizer({}), loadTokenizer],
  ["tokenizer_config.json", tokenizer({}), loadTokenizer],
  ["special_tokens_map.json", tokenizer({}), loadTokenizer],
  ["chat_template.json", tokenizer({}), loadTokenizer],
  ["adapter/adapter_config.json", adapter({}), loadAdapter],
  ["dataset_info.json", () => {}, registered],
];
const CONTENTS: [what: string, content: (folder: string, name: string) => void, message: RegExp][] = [
  ["nested 100 000 deep", (f, n) => file(f, n, `{"a":${nested(100_000)}}`), /nested more than 128 deep/],
  [
    "objects nested 100 000 deep",
    (f, n) => file(f, n, `${'{"a":'.repeat(100_000)}0${"}".repeat(100_000)}`),
    /nested more than 128 deep/,
  ],
  ["of a terabyte", (f, n) => sparse(f, n, TB, '{"a":"'), /has 1099511627776 bytes, more than/],
  ["with a key twice", (f, n) => file(f, n, '{"a":1,"b":{"c":1,"c":2}}'), /"c" twice/],
  ["with NaN", (f, n) => file(f, n, '{"a":NaN}'), /not valid JSON/],
  ["that is a list", (f, n) => file(f, n, "[]"), /should hold a JSON object, found a list/],
  ["of invalid UTF-8", (f, n) => file(f, n, Buffer.from('{"a":"\xff"}', "latin1")), /not UTF-8 text/],
  ["cut short", (f, n) => file(f, n, '{"a":'), /not valid JSON/],
];
const JSON_BOMBS = JSONS.flatMap(([name, prepare, open]) =>
  CONTENTS.map(([what, content, message]) =>
    bomb(
      `${name} ${what}`,
      (folder) => {
        prepare(folder);
        content(folder, name);
      },
      open,
      "INVALID_FILE",
      message,
    ),
  ),
);
const CROWDED = [
  bomb(
    "config.json of 7 MB of small values",
    (f) => model({ "config.json": crowded(7 * MIB) })(f),
    loadModel,
    "INVALID_FILE",
    /more than 400000 values/,
  ),
  bomb(
    "tokenizer.json of 27 MB of small values",
    (f) => file(f, "tokenizer.json", crowded(27 * MIB)),
    loadTokenizer,
    "INVALID_FILE",
    /more than 4000000 values/,
  ),
];

const absurd = (changes: Record<string, unknown>, message: RegExp, code = "INVALID_FILE") =>
  bomb(
    `config.json with ${JSON.stringify(changes)}`,
    model({ "config.json": { ...CONFIG, ...changes } }),
    loadModel,
    code,
    message,
  );
const CONFIGS = [
  absurd({ hidden_size: 2 ** 40 }, /hidden_size must be an integer from 1 to 1048576/),
  absurd({ num_hidden_layers: 1e9 }, /num_hidden_layers must be an integer from 1 to 4096/),
  absurd({ num_hidden_layers: 4096 }, /missing: model.layers.2/),
  absurd({ vocab_size: 2 ** 31 }, /vocab_size/),
  absurd({ num_attention_heads: 0 }, /num_attention_heads/),
  absurd({ num_attention_heads: -2 }, /num_attention_heads/),
  absurd({ num_key_value_heads: 0.5 }, /num_key_value_heads/),
  absurd({ max_position_embeddings: 2 ** 63 }, /max_position_embeddings/),
  absurd({ rope_parameters: { ...CONFIG.rope_parameters, rope_theta: -1 } }, /rope_theta must be a number above 0/),
  absurd({ rope_parameters: { ...CONFIG.rope_parameters, factor: 0 } }, /factor must be a number above 0/),
  absurd(
    { rope_parameters: { ...CONFIG.rope_parameters, original_max_position_embeddings: 0 } },
    /original_max_position_embeddings/,
  ),
  absurd({ rms_norm_eps: -1 }, /rms_norm_eps must be a number above 0/),
  absurd({ model_type: "__proto__" }, /model_type "__proto__" is not supported/, "UNSUPPORTED"),
  bomb(
    "config.json with a theta of 1e999",
    (f) => model({ "config.json": JSON.stringify({ ...CONFIG, rms_norm_eps: 7 }).replace(":7", ":1e999") })(f),
    loadModel,
    "INVALID_FILE",
    /rms_norm_eps/,
  ),
];

const WEIGHTS = [
  bomb(
    "weights: a sparse terabyte",
    (f) => {
      model()(f);
      const text = `{"a":{"dtype":"F32","shape":[${(TB - 4096) / 4}],"data_offsets":[0,${TB - 4096}]}}`.padEnd(4096 - 8);
      sparse(f, "model.safetensors", TB, header(text));
    },
    loadModel,
    "INVALID_FILE",
    /do not fit its config.json/,
  ),
  bomb(
    "weights: adapter of a sparse terabyte",
    (f) => {
      adapter({})(f);
      const text = `{"a":{"dtype":"F32","shape":[${(TB - 4096) / 4}],"data_offsets":[0,${TB - 4096}]}}`.padEnd(4096 - 8);
      sparse(f, "adapter/adapter_model.safetensors", TB, header(text));
    },
    loadAdapter,
    "ADAPTER_MISMATCH",
    /missing/,
  ),
  bomb(
    "weights: only pickles",
    (f) => write(f, { "config.json": CONFIG, "pytorch_model.bin": "\x80\x04." }),
    loadModel,
    "UNSUPPORTED",
    /Python pickle/,
  ),
  bomb(
    "weights: only pickles of an adapter",
    (f) => write(f, { "adapter/adapter_config.json": ADAPTER, "adapter/adapter_model.bin": "\x80\x04." }),
    loadAdapter,
    "UNSUPPORTED",
    /Python pickle/,
  ),
];

const ADAPTERS = [
  bomb(
    "adapter: targets that backtrack",
    adapter({ target_modules: "(([a-z._0-9]+)+)+!" }),
    loadAdapter,
    "INVALID_CONFIG",
    /patterns were not matched within/,
  ),
  bomb(
    "adapter: exclusions that backtrack",
    adapter({ exclude_modules: "(.*)*(.*)*(.*)*!" }),
    loadAdapter,
    "INVALID_CONFIG",
    /patterns were not matched within/,
  ),
  bomb(
    "adapter: a rank pattern that backtracks",
    adapter({ rank_pattern: { "((.+)+)+!": 2 } }),
    loadAdapter,
    "INVALID_CONFIG",
    /patterns were not matched within/,
  ),
  bomb("adapter: rank 2^40", adapter({ r: 2 ** 40, rank_pattern: {} }), loadAdapter, "ADAPTER_MISMATCH", /wrong shape/),
  bomb(
    "adapter: 100 000 targets",
    adapter({ target_modules: Array.from({ length: 100_000 }, (_, i) => `m${i}_proj`) }),
    loadAdapter,
    "INVALID_CONFIG",
    /target_modules has 100000 entries/,
  ),
];

const split = (Regex: string) => ({ pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false } });
const TOKENIZERS = [
  bomb(
    "tokenizer: a pattern that backtracks",
    tokenizer(split("(a+)+$")),
    loadTokenizer,
    "INVALID_FILE",
    /takes too long|not come to an end/,
  ),
  bomb(
    "tokenizer: a normalizer that backtracks",
    tokenizer({ normalizer: { type: "Replace", pattern: { Regex: "(a|a)*b" }, content: "x" } }),
    loadTokenizer,
    "INVALID_FILE",
    /takes too long|not come to an end/,
  ),
  bomb(
    "tokenizer: pieces of length 0",
    tokenizer({ pre_tokenizer: { type: "FixedLength", length: 0 } }),
    loadTokenizer,
    "INVALID_FILE",
    /tokenizer/,
  ),
  bomb(
    "tokenizer: an id of 2^31",
    tokenizer({ added_tokens: [{ id: 2 ** 31, content: "x", special: true }] }),
    loadTokenizer,
    "INVALID_FILE",
    /lacks its content or id/,
  ),
  bomb(
    "tokenizer: a vocabulary with the id 'length'",
    tokenizer({ model: { type: "BPE", vocab: { a: "length" }, merges: [] } }),
    loadTokenizer,
    "INVALID_FILE",
    /gives "a" the id "length"/,
  ),
  bomb(
    "tokenizer: a template of a gigabyte",
    (f) => {
      tokenizer({})(f);
      sparse(f, "chat_template.jinja", GB);
    },
    loadTokenizer,
    "INVALID_FILE",
    /chat_template.jinja has 1073741824 bytes/,
  ),
];

const yaml = (text: string) => (f: string) => file(f, "t.yaml", text);
const loadYaml = (folder: string) => loadTrainConfig(join(folder, "t.yaml"));
const aliases = [
  "a: &a0 [x,x,x,x,x,x,x,x,x]",
  ...[1, 2, 3, 4, 5, 6, 7, 8, 9].map(
    (i) =>
      `b${i}: &a${i} [${Array(9)
        .fill(`*a${i - 1}`)
        .join(",")}]`,
  ),
].join("\n");
const YAMLS = [
  bomb("yaml: aliases of aliases", yaml(aliases), loadYaml, "INVALID_CONFIG", /not valid YAML: Excessive alias count/),
  bomb("yaml: nested 15 000 deep", yaml(`a: ${nested(15_000)}`), loadYaml, "INVALID_CONFIG", /not valid YAML/),
  bomb("yaml: an alias of itself", yaml("a: &a [*a]"), loadYaml, "INVALID_CONFIG", /not valid YAML/),
  bomb("yaml: a terabyte", (f) => sparse(f, "t.yaml", TB), loadYaml, "INVALID_FILE", /more than the 32768/),
  bomb("yaml: a key twice", yaml("seed: 1\nseed: 2"), loadYaml, "INVALID_CONFIG", /unique/),
  bomb("yaml: __proto__", yaml("__proto__: {polluted: 1}"), loadYaml, "INVALID_CONFIG", /unknown key '__proto__'/),
  bomb(
    "yaml: 32 KiB of unknown keys",
    yaml(
      Array.from({ length: 7000 }, (_, i) => `k${i}: 1`)
        .join("\n")
        .slice(0, 32_000),
    ),
    loadYaml,
    "INVALID_CONFIG",
    /unknown key 'k0'/,
  ),
  bomb("yaml: a pipe", (f) => fifo(f, "t.yaml"), loadYaml, "INVALID_FILE", /not a regular file/),
];

const line = (name: string, begin: string) =>
  bomb(
    `data: a line of a gigabyte, ${name}`,
    (f) => sparse(f, name, GB, begin),
    rows(name),
    "DATASET",
    /(line|row) \d+ is longer than 16 MiB|longer than|exceed/i,
  );
const DATA = [
  line("x.jsonl", '{"text":"a"}\n{"text":"'),
  line("x.json", '[{"text":"a"},{"text":"'),
  line("x.txt", "a line\nand a long one"),
  line("x.csv", 'text\na\n"open'),
  bomb(
    "data: 15 MB of commas, x.csv",
    (f) => file(f, "x.csv", ",".repeat(15 * MIB)),
    rows("x.csv"),
    "DATASET",
    /line 1 has more than 100000 commas/,
  ),
  bomb(
    "data: nested 100 000 deep, x.jsonl",
    (f) => file(f, "x.jsonl", `{"text":"a"}\n{"text":${nested(100_000)}}`),
    rows("x.jsonl"),
    "DATASET",
    /line 2 is not valid JSON: nested more than 128/,
  ),
  bomb(
    "data: nested 100 000 deep, x.json",
    (f) => file(f, "x.json", `[{"text":"a"},{"text":${nested(100_000)}}]`),
    rows("x.json"),
    "DATASET",
    /row 2 is not valid JSON: nested more than 128/,
  ),
  bomb(
    "data: 15 MB of small values in a row",
    (f) => file(f, "x.jsonl", `${crowded(15 * MIB)}\n`),
    rows("x.jsonl"),
    "DATASET",
    /line 1 is not valid JSON: more than 400000 values/,
  ),
  bomb(
    "data: a key twice",
    (f) => file(f, "x.jsonl", '{"text":"a"}\n{"text":"b","text":"c"}\n'),
    rows("x.jsonl"),
    "DATASET",
    /line 2 .*"text" stands twice/,
  ),
  bomb("data: a column twice", (f) => file(f, "x.csv", "text,text\n1,2\n"), rows("x.csv"), "DATASET", /the column "text" twice/),
  bomb("data: a column __proto__", (f) => file(f, "x.csv", "text,__proto__\n1,2\n"), rows("x.csv"), "DATASET", /__proto__/),
  bomb(
    "data: invalid UTF-8, x.jsonl",
    (f) => file(f, "x.jsonl", Buffer.from('{"text":"a"}\n{"text":"\xff"}\n', "latin1")),
    rows("x.jsonl"),
    "DATASET",
    /line 2 is not UTF-8/,
  ),
  bomb(
    "data: invalid UTF-8, x.csv",
    (f) => file(f, "x.csv", Buffer.from("text\n\xff\n", "latin1")),
    rows("x.csv"),
    "DATASET",
    /not UTF-8/,
  ),
  bomb("data: a pipe", (f) => fifo(f, "x.jsonl"), rows("x.jsonl"), "INVALID_FILE", /not a regular file/),
  bomb(
    "data: num_samples of 1e12",
    (f) =>
      write(f, {
        "dataset_info.json": { d: { file_name: "d.json", num_samples: 1e12 } },
        "d.json": [{ instruction: "a", output: "b", input: "" }],
      }),
    registered,
    "DATASET",
    /num_samples/,
  ),
  bomb(
    "data: a text where messages should be",
    (f) => {
      write(f, {
        "dataset_info.json": { d: { file_name: "d.json", formatting: "sharegpt" } },
        "d.json": [{ conversations: ["x".repeat(8 * MIB)] }],
      });
    },
    registered,
    "DATASET",
    /message must be an object/,
  ),
];

const named = (name: string) => (f: string) => {
  write(f, { "dataset_info.json": { d: { file_name: name } }, "../secret.json": [{ instruction: "a", output: "b", input: "" }] });
  link(f, "link.json", join(f, "../secret.json"));
  fifo(f, "pipe.json");
  link(f, "device.json", "/dev/zero");
  file(f, "directory.json/x.txt", "");
};
const shard = (name: string) => (f: string) => {
  write(f, {
    "config.json": CONFIG,
    "model.safetensors.index.json": { ...INDEX, weight_map: Object.fromEntries(Object.keys(ALL).map((key) => [key, name])) },
    "../all.safetensors": weightsOf(ALL),
  });
  link(f, "link.safetensors", join(f, "../all.safetensors"));
  fifo(f, "pipe.safetensors");
  link(f, "device.safetensors", "/dev/zero");
  file(f, "directory.safetensors/x", "");
};
const linked = (name: string, prepare: Bomb["write"], open: Bomb["open"]) =>
  bomb(
    `names: ${name} is a link out of the folder`,
    (f) => {
      prepare(f);
      file(f, "../elsewhere", "{}");
      link(f, name, join(f, "../elsewhere"));
    },
    open,
    "INVALID_FILE",
    /outside the folder/,
  );
const NAMES = [
  ...["../secret.json", "x/../../secret.json", "/etc/passwd", "link.json", "..\\secret.json"].map((name) =>
    bomb(
      `names: dataset_info.json names ${name}`,
      named(name),
      registered,
      "INVALID_FILE",
      /leaves the folder|outside the folder/,
    ),
  ),
  bomb("names: dataset_info.json names a pipe", named("pipe.json"), registered, "INVALID_FILE", /not a regular file/),
  bomb("names: dataset_info.json names a device", named("device.json"), registered, "INVALID_FILE", /outside the folder/),
  ...["../all.safetensors", "/etc/passwd", "link.safetensors", "device.safetensors"].map((name) =>
    bomb(`names: an index names ${name}`, shard(name), loadModel, "INVALID_FILE", /leaves the folder|outside the folder/),
  ),
  bomb("names: an index names a pipe", shard("pipe.safetensors"), (f) => openCheckpoint(f), "INVALID_FILE", /not a regular file/),
  bomb(
    "names: an index names a folder",
    shard("directory.safetensors"),
    loadModel,
    "INVALID_FILE",
    /not a regular file|cannot be read/,
  ),
  linked("config.json", () => {}, loadModel),
  linked("generation_config.json", model(), loadModel),
  linked("tokenizer.json", () => {}, loadTokenizer),
  linked("chat_template.jinja", tokenizer({}), loadTokenizer),
  linked("special_tokens_map.json", tokenizer({}), loadTokenizer),
  linked("model.safetensors", (f) => write(f, { "config.json": CONFIG }), loadModel),
  linked("adapter/adapter_model.safetensors", (f) => write(f, { "adapter/adapter_config.json": ADAPTER }), loadAdapter),
];

export const BOMBS: readonly Bomb[] = [
  ...SAFETENSORS,
  ...JSON_BOMBS,
  ...CROWDED,
  ...CONFIGS,
  ...WEIGHTS,
  ...ADAPTERS,
  ...TOKENIZERS,
  ...YAMLS,
  ...DATA,
  ...NAMES,
];
