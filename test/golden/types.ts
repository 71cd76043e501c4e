/** A golden case as found on disk. */
export interface GoldenCase {
  /** Folder of the case. */
  dir: string;
  /** `<group>/<case>` when the folder layout tells the group, else the folder's name. */
  name: string;
  /** The parsed case.json. */
  // biome-ignore lint/suspicious/noExplicitAny: every kind has its own form, described in the group's README
  spec: any;
  options: GoldenOptions;
}

export interface GoldenOptions {
  /** Device the case runs on. */
  device: string;
}

export interface GoldenOutcome {
  ok: boolean;
  /** True when the project cannot do this yet; `reason` says what. */
  skipped?: boolean;
  /** Largest error in units of the case's tolerance-free metric (absolute or relative as the case says). */
  maxError?: number;
  reason?: string;
}

/** Runs one case. A thrown error is a failure with its message as reason. */
export type GoldenHandler = (c: GoldenCase) => Promise<GoldenOutcome>;

export const skipped = (reason: string): GoldenOutcome => ({ ok: false, skipped: true, reason });
