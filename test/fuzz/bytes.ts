/** Mutations that know no grammar: flips, cuts, splices, and what text files suffer. */
import type { Random } from "./random.js";

export function mutateBytes(bytes: Buffer, random: Random): Buffer {
  const at = random.int(bytes.length + 1);
  const to = Math.min(bytes.length, at + random.int(64));
  const replace = (middle: Uint8Array | string) =>
    Buffer.concat([bytes.subarray(0, at), Buffer.from(middle), bytes.subarray(to)]);
  switch (random.int(12)) {
    case 0: {
      const copy = Buffer.from(bytes);
      for (let i = 0; i <= random.int(4) && copy.length > 0; i++) copy[random.int(copy.length)]! ^= 1 << random.int(8);
      return copy;
    }
    case 1:
      return bytes.subarray(0, at);
    case 2:
      return bytes.subarray(at);
    case 3:
      return replace("");
    case 4: // a piece from elsewhere
      return replace(bytes.subarray(random.int(bytes.length + 1)).subarray(0, 256));
    case 5:
      return Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), bytes]);
    case 6:
      return Buffer.from(bytes.toString("latin1").replaceAll("\n", random.pick(["\r\n", "\r", "\n\n", "\u0085"])), "latin1");
    case 7: // invalid UTF-8: a lone continuation, an overlong form, a surrogate, a byte that never occurs
      return replace(random.pick([Buffer.of(0x80), Buffer.of(0xc0, 0xaf), Buffer.of(0xed, 0xa0, 0x80), Buffer.of(0xff)]));
    case 8:
      return replace(Buffer.alloc(1 << random.int(18), random.pick([0x00, 0x20, 0x22, 0x2c, 0x5b, 0x7b, 0x61, 0x0a, 0x5c])));
    case 9:
      return Buffer.concat([bytes, bytes]);
    case 10:
      return Buffer.from(bytes.toString("utf16le").slice(0, 1 << 16), "utf16le");
    default:
      return replace(Buffer.from(Array.from({ length: 1 + random.int(16) }, () => random.int(256))));
  }
}
