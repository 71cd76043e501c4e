/** Calls of the optimizers' kernels, and the structures they read. */
import type { Raw } from "./raw.js";

export interface Segment {
  begin: number;
  end: number;
  lrScale?: number;
  weightDecay?: number;
  bits?: number;
  /** First block of its moments; default: they lie as the parameters do. */
  block?: number;
}

/** Bytes of lr_optim_segment. */
export function segmentBytes(segments: readonly Segment[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(32 * segments.length));
  segments.forEach((s, i) => {
    view.setBigInt64(32 * i, BigInt(s.begin), true);
    view.setBigInt64(32 * i + 8, BigInt(s.end), true);
    view.setFloat32(32 * i + 16, s.lrScale ?? 1, true);
    view.setFloat32(32 * i + 20, s.weightDecay ?? 0, true);
    view.setInt32(32 * i + 24, s.bits ?? 32, true);
    view.setInt32(32 * i + 28, s.block ?? Math.floor(s.begin / 256), true);
  });
  return new Uint8Array(view.buffer);
}

/** Fields of lr_optim_header. */
export async function readHeader(raw: Raw, t: number) {
  const view = new DataView((await raw.bytes(t)).buffer);
  return {
    step: Number(view.getBigInt64(0, true)),
    skipped: Number(view.getBigInt64(8, true)),
    gradNormSq: view.getFloat64(16, true),
    finite: view.getInt32(24, true),
    consecutive: view.getInt32(28, true),
  };
}

export const header = (raw: Raw) => raw.from(new Uint8Array(64), [64]);

/** adamw with 32-bit moments. */
export function adamw32(
  raw: Raw,
  [p, g, m, v]: readonly [number, number, number, number],
  [header, segments]: readonly [number, number],
  [lr, beta1, beta2, eps, clip]: readonly [number, number, number, number, number],
  decoupled = 1,
): void {
  raw.kernels.adamw(raw.d, p, g, m, v, 0, 0, 0, 0, 0, header, segments, lr, beta1, beta2, eps, clip, decoupled);
}
