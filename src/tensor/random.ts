/**
 * Keys of the counter-based random numbers. A key names one draw; the kernels make philox4x32-10 streams of it. So nothing
 * has to be saved to draw the same numbers again, and two draws never share numbers by accident of order.
 */

const MASK = (1n << 64n) - 1n;

/** splitmix64's finalizer: every input bit moves about half of the output bits. */
function mix(x: bigint): bigint {
  let z = (x + 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** FNV-1a of a module's path, 64 bits. */
function hashPath(path: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(path, "utf8")) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & MASK;
  return hash;
}

/** Key of a draw: (seed, path, counters), for instance (seed, module path, micro-step, call ordinal). */
export function randomKey(seed: number, path: string, ...counters: number[]): bigint {
  let key = mix(BigInt.asUintN(64, BigInt(Math.trunc(seed))) ^ hashPath(path));
  for (const counter of counters) key = mix(key ^ BigInt.asUintN(64, BigInt(counter)));
  return key;
}

interface DrawState {
  seed: number;
  microStep: number;
  ordinal: number;
}

let state: DrawState = { seed: 0, microStep: 0, ordinal: 0 };

/** Starts the draws of one micro-batch: the same (seed, microStep) gives the same dropout masks. */
export function startMicroStep(seed: number, microStep: number): void {
  state = { seed, microStep, ordinal: 0 };
}

/** Key of the next draw in program order. */
export function nextKey(path: string): bigint {
  return randomKey(state.seed, path, state.microStep, state.ordinal++);
}

/** For recomputation: the draws that `replay` makes are those that followed `ordinal()`. */
export function currentOrdinal(): number {
  return state.ordinal;
}

export function replayFrom<T>(ordinal: number, body: () => T): T {
  const after = state.ordinal;
  state.ordinal = ordinal;
  try {
    return body();
  } finally {
    state.ordinal = after;
  }
}
