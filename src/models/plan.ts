/** Compares what a model needs with what a checkpoint holds, before any byte is read. */
import { LowrankError } from "../errors.js";
import type { Checkpoint } from "../io/checkpoint.js";
import type { SafetensorsDType } from "../io/safetensors.js";
import type { TensorSpec } from "./layout.js";

/** One tensor of the model and how the checkpoint stores it. */
export interface PlannedTensor extends TensorSpec {
  /** Stored in bitsandbytes' 4-bit form: name of its quant_state. */
  quantState?: string;
}

const FLOATS: readonly SafetensorsDType[] = ["F32", "F16", "BF16"];
/** What bitsandbytes stores beside the codes of a 4-bit weight. */
const COMPANIONS = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];

/**
 * The tensors to load, in the order of the files, so that disks read forwards.
 * @throws LowrankError INVALID_FILE that lists every tensor that is missing, unexpected or of the wrong form.
 */
export function planLoading(checkpoint: Checkpoint, specs: readonly TensorSpec[], ignored: RegExp): PlannedTensor[] {
  const known = new Set<string>();
  const problems = { missing: [] as string[], wrong: [] as string[], unexpected: [] as string[] };
  const planned: PlannedTensor[] = [];
  for (const spec of specs) {
    known.add(spec.name);
    const info = checkpoint.tensors.get(spec.name);
    if (!info) {
      problems.missing.push(spec.name);
      continue;
    }
    const quantState = [`${spec.name}.quant_state.bitsandbytes__nf4`, `${spec.name}.quant_state.bitsandbytes__fp4`].find((name) =>
      checkpoint.tensors.has(name),
    );
    if (quantState !== undefined && spec.kind === "linear") {
      known.add(quantState);
      for (const part of COMPANIONS) known.add(`${spec.name}.${part}`);
      if (!checkpoint.tensors.has(`${spec.name}.absmax`)) problems.missing.push(`${spec.name}.absmax`);
      planned.push({ ...spec, quantState });
      continue;
    }
    if (!FLOATS.includes(info.dtype)) problems.wrong.push(`${spec.name} is ${info.dtype} (expected ${FLOATS.join(", ")})`);
    else if (info.shape.length !== spec.shape.length || info.shape.some((size, i) => size !== spec.shape[i])) {
      problems.wrong.push(`${spec.name} is [${info.shape}] (expected [${spec.shape}])`);
    }
    planned.push(spec);
  }
  for (const name of checkpoint.tensors.keys()) if (!known.has(name) && !ignored.test(name)) problems.unexpected.push(name);
  refuse(checkpoint.folder, problems);
  const place = (spec: TensorSpec) => [...checkpoint.files.values()].indexOf(checkpoint.weightMap.get(spec.name)!);
  const begin = (spec: TensorSpec) => checkpoint.tensors.get(spec.name)!.begin;
  return planned.sort((a, b) => place(a) - place(b) || begin(a) - begin(b));
}

function refuse(folder: string, problems: Record<"missing" | "wrong" | "unexpected", string[]>): void {
  const text = Object.entries(problems).flatMap(([kind, names]) => {
    if (names.length === 0) return [];
    const rest = names.length > 8 ? ` and ${names.length - 8} more` : "";
    return [`${names.length} ${kind === "wrong" ? "of the wrong form" : kind}: ${names.slice(0, 8).join(", ")}${rest}`];
  });
  if (text.length === 0) return;
  throw new LowrankError("INVALID_FILE", `The weights in ${folder} do not fit its config.json: ${text.join("; ")}`, {
    hint: "config.json and the weights must be of one model: download both again.",
    details: { folder, ...problems },
  });
}
