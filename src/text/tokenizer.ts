import { readFile, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { Tokenizer as Backend } from "@huggingface/tokenizers";
import { LowrankError } from "../errors.js";
import { writeFolder } from "../io/durable.js";
import { LIMITS, pathInside } from "../io/input.js";
import { parseJsonObject } from "../io/json.js";
import { withinTime } from "../io/time-limit.js";
import { Keys, noteUnread, type OnNote } from "../notes.js";
import { type AddedToken, AddedTokenSplitter } from "./added-tokens.js";
import { mendModel } from "./bpe.js";
import { cleanUpSpaces, mendDecoder, StreamDecoder } from "./decode.js";
import { limitGrowth } from "./growth.js";
import { isTimely } from "./known-patterns.js";
import { mendNormalizer } from "./normalize.js";
import { type Offset, tokenOffsets } from "./offsets.js";
import { mendPreTokenizer } from "./pre-tokenize.js";
import { readRepeats } from "./tokenizer-config.js";
import {
  addedToken,
  checkIds,
  missingTokenizer,
  readChatTemplates,
  readOptional,
  readOptionalJson,
  TOKENIZER_FILES,
  tokenText,
} from "./tokenizer-files.js";
import { checkParts, modelType } from "./tokenizer-parts.js";

export interface EncodeOptions {
  /** Let the post-processor put the model's special tokens around the text (default true). */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out of the text (default false). */
  skipSpecialTokens?: boolean;
}

type SpecialName = "bos" | "eos" | "pad" | "unk";

/** A stretch of text: an added token, or the tokens of ordinary text with what they were cut from. */
type Section = { start: number; end: number } & ({ added: AddedToken } | { tokens: string[]; changed: string; raw: string });

/**
 * A Hugging Face tokenizer (tokenizer.json). Ids and texts equal those of the Rust library `tokenizers`; the differences of
 * the JavaScript one are mended from outside, or refused (`checkParts`).
 */
export class Tokenizer {
  /** Number of ids, added tokens included. */
  readonly vocabSize: number;
  /** Text of each special token the model has. */
  readonly specialTokens: Readonly<Partial<Record<SpecialName, string>>>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly unkId: number | undefined;
  private readonly raw: AddedTokenSplitter;
  private readonly normalized: AddedTokenSplitter;
  /** Texts that the decoder gets for normalized added tokens. */
  private readonly decoded: ReadonlyMap<number, string>;
  private readonly specialIds: ReadonlySet<number>;
  private readonly byteLevel: boolean;

  /**
   * @param backend the library's tokenizer
   * @param json tokenizer.json
   * @param addedTokens `added_tokens` of tokenizer.json
   * @param cleanUp `clean_up_tokenization_spaces` of tokenizer_config.json
   * @param chatTemplates named templates; `default` is the one to use
   * @param folder where the files lie, for `save`
   * @param timed the file brings regular expressions or lengths of its own, which may take time without end: texts get a limit
   */
  private constructor(
    private readonly backend: Backend,
    json: Record<string, unknown>,
    addedTokens: AddedToken[],
    private readonly cleanUp: boolean,
    readonly chatTemplates: Readonly<Record<string, string>>,
    readonly folder: string,
    specialTokens: Partial<Record<SpecialName, string>>,
    byteLevel: boolean,
    private readonly timed: boolean,
  ) {
    const part = (name: string) => json[name] as Record<string, unknown>;
    if (backend.normalizer) mendNormalizer(backend.normalizer, part("normalizer"));
    if (backend.pre_tokenizer) mendPreTokenizer(backend.pre_tokenizer, part("pre_tokenizer"));
    if (backend.model) mendModel(backend.model);
    if (backend.decoder) mendDecoder(backend.decoder);
    limitGrowth(backend, folder);
    this.raw = new AddedTokenSplitter(addedTokens.filter((t) => !t.normalized).map((t) => [t.content, t]));
    const normalized = addedTokens.filter((t) => t.normalized).map((t) => [this.normalize(t.content), t] as [string, AddedToken]);
    this.normalized = new AddedTokenSplitter(normalized);
    this.decoded = new Map(normalized.map(([content, { id }]) => [id, content]));
    this.specialIds = new Set(addedTokens.filter((t) => t.special).map((t) => t.id));
    this.vocabSize = backend.model?.tokens_to_ids.size ?? 0;
    this.byteLevel = byteLevel;
    this.specialTokens = specialTokens;
    const idOf = (text: string | undefined) => (text === undefined ? undefined : this.tokenToId(text));
    this.bosId = idOf(specialTokens.bos);
    this.eosId = idOf(specialTokens.eos);
    this.padId = idOf(specialTokens.pad);
    this.unkId = idOf(specialTokens.unk);
  }

  /**
   * Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat template of a model's folder.
   *
   * @param options.onNote told which keys of tokenizer_config.json have no effect here; default: a process warning
   * @throws LowrankError NOT_FOUND, UNSUPPORTED (no tokenizer.json) or INVALID_FILE
   */
  static async fromFolder(folder: string, options: { onNote?: OnNote | undefined } = {}): Promise<Tokenizer> {
    const path = join(folder, "tokenizer.json");
    const text = await readOptional(folder, "tokenizer.json", LIMITS.tokenizer);
    if (text === undefined) throw await missingTokenizer(folder);
    const json: Record<string, unknown> = parseJsonObject(text, path, LIMITS.tokenizer);
    const config = new Keys((await readOptionalJson(folder, "tokenizer_config.json")) ?? {});
    const type = modelType(json.model);
    if (type !== undefined) json.model = { ...(json.model as object), type };
    const map = (await readOptionalJson(folder, "special_tokens_map.json")) ?? {};
    const chatTemplates = await readChatTemplates(folder, config);
    const special: Partial<Record<SpecialName, string>> = {};
    for (const name of ["bos", "eos", "pad", "unk"] as const) {
      const content = tokenText(config.read(`${name}_token`)) ?? tokenText(map[`${name}_token`]);
      if (content !== undefined) special[name] = content;
    }
    checkParts(json, path);
    const timely = isTimely(json);
    const make = () => {
      for (const key of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) json[key] ??= null;
      json.added_tokens ??= [];
      const added = (json.added_tokens as Record<string, unknown>[]).map(addedToken);
      checkIds(json);
      const tokenizer = new Tokenizer(
        new Backend(json, config.json),
        json,
        added,
        config.read("clean_up_tokenization_spaces") === true,
        chatTemplates,
        resolve(folder),
        special,
        JSON.stringify(json.pre_tokenizer).includes('"ByteLevel"'),
        !timely,
      );
      tokenizer.tryOut();
      const { bos, eos } = special;
      readRepeats(config, {
        added,
        bos,
        eos,
        around: tokenizer.finish([]),
        prefixed: tokenizer.words(tokenizer.normalize("a"), 0).join("").length > 1,
      });
      return tokenizer;
    };
    const endless = () => new LowrankError("INVALID_FILE", "it does not come to an end");
    let tokenizer: Tokenizer;
    try {
      tokenizer = timely ? make() : withinTime(400 + text.length / 200, make, endless);
    } catch (cause) {
      throw new LowrankError("INVALID_FILE", `${path} is not a tokenizer this version can read: ${(cause as Error).message}`, {
        cause,
      });
    }
    noteUnread("tokenizer_config.json", folder, config.unread(), options.onNote);
    return tokenizer;
  }

  /** The default chat template, or undefined for a model without one. */
  get chatTemplate(): string | undefined {
    return this.chatTemplates.default;
  }

  /** Ids of a text. Special tokens inside the text are recognised. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    return this.limited(text.length, () => this.encodeNow(text, options));
  }

  private encodeNow(text: string, options: EncodeOptions): number[] {
    const tokens: string[] = [];
    for (const section of this.sections(text)) {
      if ("added" in section) tokens.push(section.added.content);
      else for (const token of section.tokens) tokens.push(token);
    }
    const all = options.addSpecialTokens === false ? tokens : this.finish(tokens);
    return all.map((token) => this.idOfPiece(token));
  }

  /**
   * Ids of a text without the post-processor's special tokens, each with the characters it covers.
   *
   * @throws LowrankError UNSUPPORTED for tokenizers that change the text in ways that cannot be followed
   */
  encodeWithOffsets(text: string): { ids: number[]; offsets: Offset[] } {
    return this.limited(text.length, () => this.encodeWithOffsetsNow(text));
  }

  private encodeWithOffsetsNow(text: string): { ids: number[]; offsets: Offset[] } {
    const ids: number[] = [];
    const offsets: Offset[] = [];
    for (const section of this.sections(text)) {
      if ("added" in section) {
        ids.push(section.added.id);
        offsets.push([section.start, section.end]);
        continue;
      }
      const ranges = tokenOffsets(section.raw, section.changed, section.tokens, this.byteLevel, (t) => this.normalize(t));
      if (!ranges) {
        throw new LowrankError("UNSUPPORTED", "This tokenizer rewrites the text so that its tokens cannot be located in it", {
          hint: "Use a chat template without generation marks: the mask is then made by growing prefixes.",
        });
      }
      for (const token of section.tokens) ids.push(this.idOfPiece(token));
      for (const [start, end] of ranges) offsets.push([section.start + start, section.start + end]);
    }
    return { ids, offsets };
  }

  /** Text of ids; ids outside the vocabulary are left out, as in Python. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    return this.limited(ids.length, () => this.decodeNow(ids, options));
  }

  private decodeNow(ids: ArrayLike<number>, options: DecodeOptions): string {
    const tokens: string[] = [];
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      if (options.skipSpecialTokens && this.specialIds.has(id)) continue;
      const token = this.decoded.get(id) ?? this.idToToken(id);
      if (token !== undefined) tokens.push(token);
    }
    if (tokens.length === 0) return "";
    const { decoder } = this.backend;
    const text = decoder ? decoder.decode(tokens) : tokens.join(" ");
    return this.cleanUp ? cleanUpSpaces(text) : text;
  }

  /** A decoder that takes ids one by one; its texts joined are the text of all ids. */
  stream(options: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder((ids) => this.decode(ids, options));
  }

  /** The highest id, added tokens included; ids may have gaps. */
  get largestId(): number {
    let largest = -1;
    for (const id of this.backend.model?.tokens_to_ids.values() ?? []) largest = Math.max(largest, id);
    return largest;
  }

  tokenToId(token: string): number | undefined {
    return this.backend.token_to_id(token);
  }

  idToToken(id: number): string | undefined {
    return this.backend.id_to_token(id);
  }

  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /** Copies the tokenizer's files, byte for byte as they were read. Returns the names written. */
  async save(folder: string): Promise<string[]> {
    const files = await this.files();
    if (resolve(folder) !== this.folder) {
      await writeFolder(folder, async (dir) => {
        for (const path of files) await dir.file(basename(path), await readFile(path));
      });
    }
    return files.map((path) => basename(path));
  }

  /** Paths of the files this tokenizer was read from. */
  async files(): Promise<string[]> {
    const found: string[] = [];
    for (const name of TOKENIZER_FILES) {
      const path = await pathInside(this.folder, name);
      if (
        await stat(path).then(
          (s) => s.isFile(),
          () => false,
        )
      )
        found.push(path);
    }
    return found;
  }

  /** Runs every part once: a damaged file shows when it is loaded, not in the middle of a run. */
  private tryOut(): void {
    for (const text of ["", "a 1\n é"])
      for (const section of this.sections(text)) if ("tokens" in section) this.finish(section.tokens);
    this.decode([0, this.vocabSize - 1]);
  }

  /** Runs a step whose time depends on the file's own regular expressions; 5 characters a millisecond is a hundredth of what others need. */
  private limited<T>(length: number, body: () => T): T {
    if (!this.timed) return body();
    return withinTime(400 + length / 5, body, () => {
      return new LowrankError(
        "INVALID_FILE",
        `The tokenizer in ${this.folder} takes too long for a text of ${length} characters`,
        {
          hint: "A regular expression of its tokenizer.json backtracks: take the file from the model's own page.",
          details: { folder: this.folder },
        },
      );
    });
  }

  private finish(tokens: string[]): string[] {
    const post = this.backend.post_processor;
    return post ? post.post_process(tokens, null, true).tokens : tokens;
  }

  private idOfPiece(token: string): number {
    const id = this.backend.token_to_id(token) ?? this.backend.model?.unk_token_id;
    if (id === undefined)
      throw new LowrankError(
        "INVALID_FILE",
        `The tokenizer in ${this.folder} has no id for ${JSON.stringify(token)} and no unknown token`,
      );
    return id;
  }

  private normalize(text: string): string {
    return this.backend.normalizer ? this.backend.normalizer.normalize(text) : text;
  }

  /** What the model gets of a normalized text. @param at where it begins: 0 at the text's beginning only */
  private words(text: string, at: number): string[] {
    return this.backend.pre_tokenizer ? this.backend.pre_tokenizer.pre_tokenize(text, { section_index: at }) : [text];
  }

  private *sections(text: string): Generator<Section> {
    for (const piece of this.raw.split(text)) {
      if (piece.token) {
        yield { start: piece.start, end: piece.end, added: piece.token };
        continue;
      }
      const raw = text.slice(piece.start, piece.end);
      const normal = this.normalize(raw);
      const inner = this.normalized.split(normal);
      // Without a normalized added token inside, the whole stretch keeps its place in the text.
      const same = normal === raw;
      for (const part of inner) {
        const whole = part.start === 0 && part.end === normal.length;
        const start = same || whole ? piece.start + (whole ? 0 : part.start) : piece.start;
        const end = same && !whole ? piece.start + part.end : piece.end;
        if (part.token) {
          yield { start, end, added: part.token };
          continue;
        }
        const changed = normal.slice(part.start, part.end);
        const words = this.words(changed, piece.start + part.start);
        const tokens = this.backend.model ? this.backend.model._call(words) : words;
        yield { start, end, tokens, raw: text.slice(start, end), changed: this.byteLevel ? changed : words.join("") };
      }
    }
  }
}

/** `AutoTokenizer.fromPretrained(folder)`, the name people know. */
export const AutoTokenizer = {
  fromPretrained: (folder: string, options: { onNote?: OnNote | undefined } = {}): Promise<Tokenizer> =>
    Tokenizer.fromFolder(folder, options),
};
