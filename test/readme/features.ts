/**
 * README's table: what is computed as the Python stack does, read off the golden cases that `npm test` holds to be right, and what is
 * refused, tried on the library. Rows say where to look; no row says what is found.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { LowrankError } from "../../src/errors.js";
import type { Json, JsonObject } from "../../src/io/json.js";
import { resolveConfig } from "../../src/models/registry.js";
import { LoraConfig } from "../../src/peft/config.js";
import { FIELDS } from "../../src/peft/config-fields.js";
import { mustBeOk } from "../golden/required.js";
import { findCases } from "../golden/runner.js";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

interface Case {
  dir: string;
  kind: string;
  // biome-ignore lint/suspicious/noExplicitAny: every kind has its own form
  spec: any;
}

export interface Row {
  label: string;
  /** What each case shows. */
  shows?: (c: Case) => readonly string[];
  /** What no file of numbers can show, by the test that does. */
  tested?: Readonly<Record<string, { file: string; title: string }>>;
  /** Throws where something of the list is not refused by its name. */
  refused?: (cases: readonly Case[]) => readonly string[];
}

const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));

/** The adapter_config.json of every adapter that a case runs. */
function configsOf({ dir, kind, spec }: Case): JsonObject[] {
  if (kind === "error") return [];
  if (spec.peftConfig) return [spec.peftConfig];
  const inGroup = [...Object.values<string>(spec.adapters ?? {}), ...(kind.startsWith("qlora") ? [spec.adapter] : [])];
  const folders = inGroup.map((folder) => join(dirname(dir), folder));
  if (kind === "adapter") folders.push(join(dir, spec.adapter));
  return folders.map((folder) => json(join(folder, "adapter_config.json")));
}

/** Every field of a LoraConfig, as PEFT itself writes it. */
const WRITTEN_BY_PEFT = join(ROOT, "test/golden/cases/peft/adapter-lora-qv/adapter/adapter_config.json");
/** Fields that name things, or belong to one that is refused, and have no part in the arithmetic. */
const NAMES =
  "auto_mapping base_model_name_or_path inference_mode megatron_core peft_type peft_version qalora_group_size revision task_type".split(
    " ",
  );
const DEFAULTS = new Map(Object.values(FIELDS).map(({ file, default: value }) => [file, value]));
const saysMore = (key: string, value: Json) => DEFAULTS.has(key) && !isDeepStrictEqual(value, DEFAULTS.get(key));

/** Whether making an adapter with that configuration is an error that names `what`. */
function refuses(config: JsonObject, what: string): boolean {
  try {
    LoraConfig.fromJSON({ peft_type: "LORA", ...config }).assertRunnable(true);
    return false;
  } catch (error) {
    return error instanceof LowrankError && error.code === "UNSUPPORTED" && error.message.includes(what);
  }
}

export function all(names: readonly string[], refused: (name: string) => boolean): readonly string[] {
  const accepted = names.filter((name) => !refused(name));
  if (accepted.length > 0) throw new Error(`not refused by name: ${accepted.join(", ")}`);
  return names;
}

const refusesField = (key: string) =>
  [true, "text", ["text"], [1], { key: 1 }].some((value) => refuses({ [key]: value }, `${key} = `));

const STARTS = "true false gaussian orthogonal pissa pissa_niter_4 olora corda eva loftq lora_ga mica".split(" ");
const modelOf = (dir: string, { model }: Case["spec"]) => json(join(dir, model, "config.json"));

function isUnsupported(body: () => unknown): boolean {
  try {
    body();
    return false;
  } catch (error) {
    return error instanceof LowrankError && error.code === "UNSUPPORTED";
  }
}

const startOf = (name: string) => (name === "true" || name === "false" ? name === "true" : name);
const refusesStart = (name: string) => refuses({ init_lora_weights: startOf(name) }, name);
const begins = {
  file: "test/peft/start.test.ts",
  title: "changes nothing at first though both matrices are full, by the seed or by the base alone",
};
const draws = {
  file: "test/peft/adapter.test.ts",
  title: "A starts uniform in ±1/√in, or normal with deviation 1/r; B at zero unless asked otherwise",
};

const OTHER_METHODS = "ADALORA BOFT IA3 LOHA LOKR OFT P_TUNING PREFIX_TUNING PROMPT_TUNING VERA XLORA".split(" ");

/** What a training run of a golden case has beside its optimizer and schedule. */
// biome-ignore lint/suspicious/noExplicitAny: see Case
const RUNS: Readonly<Record<string, (spec: any) => boolean>> = {
  "LoRA adapters": ({ peftConfig }) => peftConfig !== null,
  "all parameters": ({ fullFinetune }) => fullFinetune,
  "LoRA+ rates": ({ optimizer }) => optimizer.name.startsWith("loraplus"),
  "gradient clipping": ({ maxGradNorm }) => maxGradNorm > 0,
  "gradient accumulation": ({ gradientAccumulationSteps }) => gradientAccumulationSteps > 1,
  "gradient checkpointing": ({ gradientCheckpointing }) => gradientCheckpointing === true,
  "packed rows": ({ sameAs }) => /unpacked/.test(sameAs ?? ""),
  "NEFTune noise": ({ neftuneNoiseAlpha }) => neftuneNoiseAlpha > 0,
  "label smoothing": ({ labelSmoothing }) => labelSmoothing > 0,
};

const ROWS: readonly Row[] = [
  {
    label: "models: `model_type`",
    shows: ({ kind, dir, spec }) => (["model", "packed"].includes(kind) ? [modelOf(dir, spec).model_type] : []),
    refused: () => all(["any other"], () => isUnsupported(() => resolveConfig({ model_type: "gpt2" }))),
  },
  {
    label: "their `rope_type`",
    shows: ({ kind, dir, spec }) => {
      if (kind !== "model") return [];
      const { rope_parameters, rope_scaling } = modelOf(dir, spec);
      return [(rope_parameters ?? rope_scaling)?.rope_type ?? "default"];
    },
  },
  {
    label: "4-bit bases",
    shows: ({ kind, spec }) => {
      if (kind === "nf4") return ["bytes of quantising"];
      return kind === "qlora" ? [`${spec.quantType}${spec.doubleQuant ? ", quantised twice" : ""}`] : [];
    },
  },
  {
    label: "`LoraConfig`",
    shows: (c) =>
      configsOf(c).flatMap((config) =>
        Object.keys(config).filter((key) => saysMore(key, config[key]!) && !NAMES.includes(key) && !refusesField(key)),
      ),
    tested: {
      lora_dropout: { file: "test/nn/linear.test.ts", title: "drops inputs only while training, anew in every micro-step" },
    },
    refused: () => Object.keys(json(WRITTEN_BY_PEFT)).filter(refusesField),
  },
  {
    label: "`init_lora_weights`",
    // What a loaded adapter began with shows nothing of the start, but where the base is to be changed by it.
    shows: (c) =>
      configsOf(c).flatMap(({ init_lora_weights: init }) => (/^(pissa|olora)$/.test(String(init)) ? [String(init)] : [])),
    tested: { true: draws, false: draws, gaussian: draws, orthogonal: begins, pissa_niter_4: begins },
    refused: () => STARTS.filter(refusesStart),
  },
  {
    label: "`peft_type`",
    shows: (c) => (configsOf(c).length > 0 ? ["LORA"] : []),
    refused: () => all(OTHER_METHODS, (type) => refuses({ peft_type: type }, type)),
  },
  {
    label: "`PeftModel`",
    shows: ({ kind, spec }) => {
      if (kind === "combine") return ["add_weighted_adapter"];
      if (kind === "hotswap") return ["hotswap_adapter"];
      if (kind === "api_text") return ["print_trainable_parameters"];
      if (kind !== "swap") return [];
      const calls = spec.steps.map(({ call = "" }: { call?: string }) => call).join(" ");
      const names = [...calls.matchAll(/(\w+)\(/g)].flatMap(([, name]) => (name === "forward" ? [] : name!));
      const several = /set_adapter\(\[/.test(calls) ? ["a sum of adapters"] : [];
      return [
        ...names,
        ...several,
        ...(spec.steps.some((step: { rows?: unknown }) => step.rows) ? ["an adapter for each row"] : []),
      ];
    },
  },
  {
    label: "`combination_type`",
    shows: ({ kind, spec }) => (kind === "combine" ? [spec.combinationType] : []),
  },
  {
    label: "mistakes in configurations, files and calls",
    refused: (cases) => {
      const mistakes = cases.filter(({ kind, spec }) => kind === "error" && spec.should === "error");
      const passed = mistakes.filter(({ spec: { library } }) => library && library.outcome !== "error");
      return [`${mistakes.length} kinds, ${passed.length} of which PEFT lets pass`];
    },
  },
  {
    label: "optimizers",
    shows: ({ kind, spec }) => (["sft_run", "optimizer"].includes(kind) ? [spec.optimizer.name.replace("loraplus_", "")] : []),
  },
  {
    label: "schedules",
    shows: ({ kind, spec }) =>
      kind === "sft_run"
        ? [spec.schedule.type]
        : kind === "schedule"
          ? spec.entries.map(({ type }: { type: string }) => type)
          : [],
  },
  {
    label: "training runs",
    shows: ({ kind, spec }) => (kind === "sft_run" ? Object.keys(RUNS).filter((name) => RUNS[name]!(spec)) : []),
  },
  {
    label: "data sets",
    shows: ({ kind, spec }) => (kind === "convert" && !spec.error ? [spec.attr.formatting] : []),
  },
];

/** A row's evidence: of each thing that is computed the cases that show it, or the file of its test; and what is refused. */
export interface Feature {
  label: string;
  computed: ReadonlyMap<string, { cases: number } | { file: string }>;
  refused: readonly string[];
}

/** Throws where something is claimed that nothing shows. */
export function features(folder = join(ROOT, "test/golden/cases"), rows = ROWS): Feature[] {
  const cases = findCases(folder)
    .map((dir): Case => {
      const spec = json(join(dir, "case.json"));
      return { dir, kind: spec.kind, spec };
    })
    .filter(({ kind }) => mustBeOk(kind));
  return rows.map(({ label, shows, tested = {}, refused }) => {
    const computed = new Map<string, { cases: number } | { file: string }>();
    const count = new Map<string, number>();
    for (const c of cases) for (const name of new Set(shows?.(c))) count.set(name, (count.get(name) ?? 0) + 1);
    for (const [name, cases] of [...count].sort(([a], [b]) => (a < b ? -1 : 1))) computed.set(name, { cases });
    for (const [name, { file, title }] of Object.entries(tested)) {
      if (!readFileSync(join(ROOT, file), "utf8").includes(`"${title}"`))
        throw new Error(`${label}, ${name}: ${file} has no test "${title}"`);
      computed.set(name, { file });
    }
    const no = refused?.(cases) ?? [];
    const both = no.filter((name) => computed.has(name));
    if (both.length > 0) throw new Error(`${label}: computed and refused: ${both.join(", ")}`);
    return { label, computed, refused: no };
  });
}

/** Fields of PEFT's configuration of which the table would say nothing. */
export function unmentioned(table: readonly Feature[]): string[] {
  const { computed, refused } = table.find(({ label }) => label === "`LoraConfig`")!;
  return Object.keys(json(WRITTEN_BY_PEFT)).filter((key) => !computed.has(key) && !refused.includes(key) && !NAMES.includes(key));
}

/** A name of the Python stack's; what has a space is our own words. */
const code = (name: string) => (name.includes(" ") ? name : `\`${name}\``);

export function render(table: readonly Feature[]): string {
  const lines = table.map(({ label, computed, refused }) => {
    const shown = [...computed].map(([name, by]) =>
      "cases" in by ? `${code(name)} ${by.cases}` : `${code(name)} [test](${by.file})`,
    );
    return `| ${label} | ${shown.join(", ")} | ${refused.map(code).join(", ")} |`;
  });
  return ["| | computed, in so many golden cases | refused by name |", "|---|---|---|", ...lines].join("\n");
}

const [BEGIN, END] = ["<!-- made by npm run readme -->", "<!-- end -->"];

/** README with the table between its two markers. */
export function withTable(readme: string, table: string): string {
  const [begin, end] = [readme.indexOf(BEGIN), readme.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`README.md lacks ${BEGIN} and ${END}`);
  return `${readme.slice(0, begin)}${BEGIN}\n${table}\n${readme.slice(end)}`;
}
