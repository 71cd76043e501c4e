import type { StreamDecoder } from "../text/decode.js";

/** Turns token ids into text that may be shown: holds back what may still become part of a stop text. */
export class TextEmitter {
  private held = "";
  private stopped = false;

  constructor(
    private readonly decoder: Pick<StreamDecoder, "push" | "flush">,
    private readonly stops: readonly string[],
  ) {}

  /** The text that is certain after this token; `stopped` once a stop text is complete. `last`: nothing may be held back. */
  push(tokenId: number, last: boolean): { text: string; stopped: boolean } {
    if (this.stopped) return { text: "", stopped: true };
    this.held += this.decoder.push(tokenId) + (last ? this.decoder.flush() : "");
    const stopAt = this.firstStop();
    if (stopAt >= 0) {
      this.stopped = true;
      return { text: this.held.slice(0, stopAt), stopped: true };
    }
    const keep = last ? 0 : this.possibleStop();
    const text = this.held.slice(0, this.held.length - keep);
    this.held = this.held.slice(text.length);
    return { text, stopped: false };
  }

  private firstStop(): number {
    const places = this.stops.map((stop) => this.held.indexOf(stop)).filter((at) => at >= 0);
    return places.length === 0 ? -1 : Math.min(...places);
  }

  /** Length of the longest end of the held text that a stop text begins with. */
  private possibleStop(): number {
    let longest = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, this.held.length); n > longest; n--) {
        if (this.held.endsWith(stop.slice(0, n))) longest = n;
      }
    }
    return longest;
  }
}
