/** philox4x32-10 (Random123): four 32-bit words of a 64-bit key and a 64-bit counter. */
export function philox(key: bigint, counter: bigint): number[] {
  const mask = 0xffffffffn;
  let [c0, c1, c2, c3] = [counter & mask, counter >> 32n, 0n, 0n];
  let [k0, k1] = [key & mask, (key >> 32n) & mask];
  for (let round = 0; round < 10; round++) {
    const a = c0 * 0xd2511f53n;
    const b = c2 * 0xcd9e8d57n;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & mask, (a >> 32n) ^ c3 ^ k1, a & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map(Number);
}
