import { IGNORE, type PackedTokens } from "../../src/data/collate.js";
import type { GoldenTensor } from "./tensors.js";

/**
 * A micro-batch of a golden file as the device takes it. Padded rows ([rows, width], mask 1 on tokens) lose their padding and keep
 * their columns as positions; a packed row brings position_ids and cu_seqlens instead of a mask. Labels are shifted here.
 */
export function microBatch(tensor: (name: string) => GoldenTensor | undefined): PackedTokens {
  const { shape, data: ids } = tensor("input_ids")!;
  const [rows = 0, width = 0] = shape;
  const mask = tensor("attention_mask")?.data;
  const labels = tensor("labels")?.data;
  const positions = tensor("position_ids")?.data;
  const places = Array.from({ length: rows }, (_, row) =>
    Array.from({ length: width }, (_, column) => row * width + column).filter((at) => mask === undefined || mask[at] === 1),
  );
  const at = places.flat();
  const bounds = [0];
  for (const row of places) bounds.push(bounds.at(-1)! + row.length);
  const shifted = Int32Array.from(at, (place) => ((place + 1) % width === 0 ? IGNORE : (labels?.[place + 1] ?? IGNORE)));
  return {
    inputIds: Int32Array.from(at, (place) => ids[place]!),
    positions: Int32Array.from(at, (place) => positions?.[place] ?? place % width),
    labels: shifted,
    cuSeqlens: Int32Array.from(tensor("cu_seqlens")?.data ?? bounds),
    targetTokens: shifted.reduce((n, label) => (label === IGNORE ? n : n + 1), 0),
    width,
  };
}

/** Places in [rows, width] of the tokens that are not padding. */
export function tokenPlaces(mask: GoldenTensor): number[] {
  return Array.from(mask.data.keys()).filter((at) => mask.data[at] === 1);
}
