import type { Token, TokenType } from "./lexer.js";
import { MAX_DEPTH, TemplateLimitError, TemplateRuntimeError } from "./limits.js";

/** The tokens of a template, read one after the other. */
export class Cursor {
  protected at = 0;
  private depth = 0;

  constructor(protected readonly tokens: Token[]) {}

  protected get token(): Token {
    return this.tokens[this.at]!;
  }

  protected is(type: TokenType, ...values: string[]): boolean {
    const { token } = this;
    return token.type === type && (values.length === 0 || values.includes(token.value));
  }

  protected accept(type: TokenType, ...values: string[]): Token | undefined {
    if (!this.is(type, ...values)) return undefined;
    return this.tokens[this.at++];
  }

  protected expect(type: TokenType, ...values: string[]): Token {
    return this.accept(type, ...values) ?? this.fail(`expected ${values[0] ?? type}`);
  }

  protected fail(message: string): never {
    const { token } = this;
    const what = token.type === "eof" ? "the template ends" : `there is ${JSON.stringify(token.value.slice(0, 40))}`;
    throw new TemplateRuntimeError(`syntax error: ${message}, but ${what}, line ${token.line}`);
  }

  protected nested<T>(parse: () => T): T {
    if (++this.depth > MAX_DEPTH)
      throw new TemplateLimitError("depth", `its source is nested more than ${MAX_DEPTH} deep, line ${this.token.line}`);
    const result = parse();
    this.depth--;
    return result;
  }
}
