import { existsSync } from "node:fs";
import { LowrankError } from "../errors.js";
import { pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";
import { Linear } from "../nn/linear.js";
import type { QuantType } from "../quant/codes.js";
import type { BaseModel } from "./plan.js";

/** Lies beside adapter_config.json, which stays PEFT's own; PEFT does not read it. */
export const BASE_FILE = "lowrank_adapter.json";

/** What an adapter was trained on. */
export interface AdapterBase {
  nameOrPath: string;
  /** `baseHash()` of the model; null where its weights were those of no checkpoint. */
  hash: string | null;
  /** The 4-bit form its linears had, on the disk or quantised while loading; null for a dense base. */
  quantization: { quantType: QuantType; blocksize: number; doubleQuant: boolean } | null;
}

export async function baseOf(model: BaseModel): Promise<AdapterBase> {
  let quantization: AdapterBase["quantization"] = null;
  for (const [, module] of model.modules()) {
    const parts = module instanceof Linear ? module.weight.fourBitParts : undefined;
    if (!parts) continue;
    quantization = { quantType: parts.quantType, blocksize: parts.blocksize, doubleQuant: parts.nested !== undefined };
    break;
  }
  return { nameOrPath: model.nameOrPath, hash: await model.baseHash(), quantization };
}

export function adapterBaseJson({ nameOrPath, hash, quantization }: AdapterBase): string {
  const json = {
    format_version: 1,
    base_model_name_or_path: nameOrPath,
    base_hash: hash,
    quantization: quantization && {
      quant_type: quantization.quantType,
      blocksize: quantization.blocksize,
      double_quant: quantization.doubleQuant,
    },
  };
  return `${JSON.stringify(json, null, 2)}\n`;
}

/** The side file of an adapter's folder; undefined where there is none. Throws INVALID_FILE when it is damaged. */
export async function readAdapterBase(folder: string): Promise<AdapterBase | undefined> {
  const path = await pathInside(folder, BASE_FILE);
  if (!existsSync(path)) return undefined;
  const json = await readJsonFile(path);
  const { format_version: version, base_model_name_or_path: nameOrPath, base_hash: hash, quantization } = json;
  const state = quantization as { quant_type: QuantType; blocksize: number; double_quant: boolean } | null;
  const isForm =
    version === 1 &&
    typeof nameOrPath === "string" &&
    (hash === null || (typeof hash === "string" && /^[0-9a-f]{64}$/.test(hash))) &&
    (state === null ||
      (typeof state === "object" &&
        typeof state.quant_type === "string" &&
        Number.isSafeInteger(state.blocksize) &&
        typeof state.double_quant === "boolean"));
  if (!isForm) {
    throw new LowrankError("INVALID_FILE", `${path} does not say in the form of this version what the adapter was trained on`, {
      hint: "Without this file the adapter loads too, but on any base that it fits.",
      details: { file: path },
    });
  }
  return {
    nameOrPath,
    hash: hash as string | null,
    quantization: state && { quantType: state.quant_type, blocksize: state.blocksize, doubleQuant: state.double_quant },
  };
}

/** Throws ADAPTER_MISMATCH when the adapter was trained on the content of another checkpoint; its name and quantisation may differ. */
export async function assertSameBase(
  model: Pick<BaseModel, "baseHash" | "nameOrPath">,
  trainedOn: AdapterBase,
  folder: string,
): Promise<void> {
  if (trainedOn.hash === null) return;
  const hash = await model.baseHash();
  if (hash === trainedOn.hash) return;
  const found = hash === null ? "has weights of no checkpoint, or changed since they were loaded" : `has ${hash.slice(0, 12)}…`;
  throw new LowrankError(
    "ADAPTER_MISMATCH",
    `${folder} was trained on ${trainedOn.nameOrPath || "a model"} with the base hash ${trainedOn.hash.slice(0, 12)}…; this model, ${model.nameOrPath || "made from a config"}, ${found}`,
    {
      hint: "Load the base it was trained on, or use it on this one all the same: ignoreMismatchedBase: true, on the command line --ignore-mismatched-base.",
      details: { expected: trainedOn.hash, found: hash, trainedOn: trainedOn.nameOrPath, base: model.nameOrPath },
    },
  );
}
