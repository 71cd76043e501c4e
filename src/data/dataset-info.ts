import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { LIMITS, pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";

/** An entry of dataset_info.json after its defaults: names of columns and of role tags; null means absent. */
export interface DatasetAttr {
  formatting: unknown;
  ranking: unknown;
  subset: string | null;
  split: string | null;
  folder: string | null;
  num_samples: number | null;
  prompt: string | null;
  query: string | null;
  response: string | null;
  history: string | null;
  messages: string | null;
  system: string | null;
  tools: string | null;
  chosen: string | null;
  rejected: string | null;
  kto_tag: string | null;
  role_tag: string | null;
  content_tag: string | null;
  user_tag: string | null;
  assistant_tag: string | null;
  observation_tag: string | null;
  function_tag: string | null;
  system_tag: string | null;
}

const COLUMNS = {
  prompt: "instruction",
  query: "input",
  response: "output",
  history: null,
  messages: "conversations",
  system: null,
  tools: null,
  chosen: null,
  rejected: null,
  kto_tag: null,
};
const TAGS = {
  role_tag: "from",
  content_tag: "value",
  user_tag: "human",
  assistant_tag: "gpt",
  observation_tag: "observation",
  function_tag: "function_call",
  system_tag: "system",
};

const object = (value: unknown): Record<string, unknown> | undefined =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;

/** Names as given; a `columns` or `tags` object nulls every name it does not list. */
function names<T extends Record<string, string | null>>(defaults: T, given: unknown): Record<keyof T, string | null> {
  const listed = object(given);
  if (!listed) return defaults;
  return Object.fromEntries(Object.keys(defaults).map((key) => [key, listed[key] ?? null])) as Record<keyof T, string | null>;
}

/** The attributes of an entry of dataset_info.json; keys LLaMA-Factory does not know are ignored. */
export function datasetAttr(entry: Readonly<Record<string, unknown>>): DatasetAttr {
  const given = <T>(key: string, otherwise: T) => (key in entry ? entry[key] : otherwise) as T;
  return {
    formatting: given<unknown>("formatting", "alpaca"),
    ranking: given<unknown>("ranking", false),
    subset: given("subset", null),
    split: given("split", "train"),
    folder: given("folder", null),
    num_samples: given("num_samples", null),
    ...names(COLUMNS, entry.columns),
    ...names(TAGS, entry.tags),
  };
}

/** Training stages as LLaMA-Factory names them. */
export type Stage = "pt" | "sft" | "rm" | "ppo" | "dpo" | "kto";

export interface RegisteredDataset {
  name: string;
  /** Path of the data file or folder. */
  path: string;
  attr: DatasetAttr;
}

/** Reads `dataset_info.json` of a folder. */
export async function readRegistry(folder: string): Promise<Record<string, unknown>> {
  try {
    return await readJsonFile(await pathInside(folder, "dataset_info.json"));
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code !== "NOT_FOUND") throw error;
    throw new LowrankError("NOT_FOUND", `There is no ${join(folder, "dataset_info.json")}`, {
      hint: "Set dataset_dir to the folder that holds dataset_info.json, or give the path of a data file as the dataset.",
      cause: error,
    });
  }
}

/**
 * Finds a data set in a registry and checks that it fits the stage.
 *
 * @throws LowrankError DATASET (unknown name, wrong stage, unknown formatting), INVALID_FILE (a file outside the folder) or UNSUPPORTED
 *   (data sets on the network)
 */
export async function findDataset(
  registry: Readonly<Record<string, unknown>>,
  name: string,
  folder: string,
  stage: Stage,
): Promise<RegisteredDataset> {
  const entry = Object.hasOwn(registry, name) ? object(registry[name]) : undefined;
  if (!entry) {
    throw new LowrankError("DATASET", `dataset_info.json defines no data set "${name}"`, {
      hint: `It defines: ${Object.keys(registry).slice(0, 20).join(", ")}.`,
    });
  }
  const remote = ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"].find(
    (key) => typeof entry[key] === "string",
  );
  if (remote && typeof entry.file_name !== "string") {
    throw new LowrankError("UNSUPPORTED", `The data set "${name}" is not a local file (${remote})`, {
      hint: "Download its file into dataset_dir and name it with file_name.",
    });
  }
  if (typeof entry.file_name !== "string") throw new LowrankError("DATASET", `The data set "${name}" has no file_name`);
  const attr = datasetAttr(entry);
  checkAttr(name, attr, stage);
  return { name, path: await pathInside(folder, entry.file_name, join(folder, "dataset_info.json")), attr };
}

/** Refuses formats that do not exist and data sets of the other sort than the stage needs. */
export function checkAttr(name: string, attr: DatasetAttr, stage: Stage): void {
  if (!["alpaca", "sharegpt", "openai"].includes(attr.formatting as string)) {
    throw new LowrankError("DATASET", `The data set "${name}" has the unknown formatting ${JSON.stringify(attr.formatting)}`, {
      hint: "Formats are alpaca, sharegpt and openai.",
    });
  }
  const { formatting: _formatting, ranking: _ranking, num_samples: samples, ...texts } = attr;
  const wrong = Object.entries(texts).find(([, value]) => value !== null && typeof value !== "string");
  if (wrong) {
    const found = JSON.stringify(wrong[1]).slice(0, 100);
    throw new LowrankError(
      "DATASET",
      `The data set "${name}" has ${wrong[0]}: ${found}; it should be the name of a column or a text`,
    );
  }
  if (samples !== null && !(Number.isInteger(samples) && samples > 0 && samples <= LIMITS.samples)) {
    const found = JSON.stringify(samples).slice(0, 100);
    throw new LowrankError(
      "DATASET",
      `The data set "${name}" has num_samples: ${found}; it should be an integer from 1 to ${LIMITS.samples}`,
    );
  }
  const pairs = stage === "dpo" || stage === "rm";
  if (pairs !== Boolean(attr.ranking)) {
    throw new LowrankError(
      "DATASET",
      pairs
        ? `The data set "${name}" has no pairs of chosen and rejected answers, which stage ${stage} needs`
        : `The data set "${name}" holds pairs of chosen and rejected answers, which stage ${stage} cannot use`,
    );
  }
}
