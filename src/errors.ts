/** Codes of every error this package throws on purpose. The table with meanings is docs/errors.md. */
export type ErrorCode =
  | "INVALID_ARGUMENT" // a call with a wrong value or type
  | "INVALID_CONFIG" // a configuration (YAML, LoraConfig, generation options) with mistakes; details lists all of them
  | "INVALID_FILE" // a file that is damaged or not what it claims to be
  | "NOT_FOUND" // a file, folder, model or adapter that does not exist
  | "UNSUPPORTED" // known, but not something this version computes
  | "SHAPE_MISMATCH" // an op or a file with shapes that do not fit
  | "DISPOSED" // use after dispose
  | "DEVICE_NOT_FOUND" // the device asked for is absent
  | "OUT_OF_MEMORY" // device or host memory, with needed and free bytes
  | "NATIVE" // the native addon cannot be loaded or an op failed
  | "DEVICE_LOST" // the device failed and fails everything from now on, in this process
  | "ADAPTER_MISMATCH" // an adapter that does not fit its base
  | "TEMPLATE" // a chat template that is missing, failed or ran over its limits
  | "DATASET" // a data set that cannot be used
  | "CHECKPOINT" // a checkpoint or run folder that cannot be used
  | "HUB" // a download from the Hub that failed
  | "NO_SPACE" // the disk is full, with needed and free bytes
  | "LOCKED" // another process uses the folder
  | "NON_FINITE" // training stopped because losses or gradients were not finite
  | "ABORTED"; // stopped by an AbortSignal that gave no reason of its own

/** Longer messages are cut: a damaged file must not fill the log it is reported in. */
const MAX_MESSAGE = 8000;

/** The one error type of the package: a code for programs, a sentence for people, a hint that says what to do next. */
export class LowrankError extends Error {
  override readonly name = "LowrankError";
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { hint?: string; details?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(
      message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)} …` : message,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? {};
  }
}
