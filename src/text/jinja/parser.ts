import { type Token, type TokenType, tokenize } from "./lexer.js";
import { MAX_DEPTH, TemplateLimitError, TemplateRuntimeError } from "./limits.js";
import type { Arguments, Expr, Signature, Stmt, Target } from "./syntax.js";
import { bool, float, int, none, small, str } from "./values.js";

const CONSTANTS = new Map([
  ["true", bool(true)],
  ["True", bool(true)],
  ["false", bool(false)],
  ["False", bool(false)],
  ["none", none],
  ["None", none],
]);
const COMPARISONS = new Set(["==", "!=", "<", "<=", ">", ">="]);
/** Statements of Jinja that read other templates or change escaping; chat templates have neither. */
const REFUSED = new Set(["block", "extends", "include", "import", "from", "autoescape"]);

/** Parses a template as Jinja 3.1 does, its order of operators included. @throws TemplateRuntimeError, TemplateLimitError */
export const parse = (template: string): Stmt[] => new Parser(tokenize(template)).program();

class Parser {
  private at = 0;
  private depth = 0;
  /** Loops around the statement that `break` may leave. */
  private loops = 0;
  /** Which special names a macro's body reads. */
  private reads = new Set<string>();

  constructor(private readonly tokens: Token[]) {}

  program(): Stmt[] {
    return this.statements([]);
  }

  private get token(): Token {
    return this.tokens[this.at]!;
  }

  private is(type: TokenType, ...values: string[]): boolean {
    const { token } = this;
    return token.type === type && (values.length === 0 || values.includes(token.value));
  }

  private skip(type: TokenType, ...values: string[]): Token | undefined {
    if (!this.is(type, ...values)) return undefined;
    return this.tokens[this.at++];
  }

  private expect(type: TokenType, ...values: string[]): Token {
    return this.skip(type, ...values) ?? this.fail(`expected ${values[0] ?? type}`);
  }

  private fail(message: string): never {
    const { token } = this;
    const what = token.type === "eof" ? "the template ends" : `there is ${JSON.stringify(token.value.slice(0, 40))}`;
    throw new TemplateRuntimeError(`syntax error: ${message}, but ${what}, line ${token.line}`);
  }

  private nested<T>(parse: () => T): T {
    if (++this.depth > MAX_DEPTH)
      throw new TemplateLimitError("depth", `its source is nested more than ${MAX_DEPTH} deep, line ${this.token.line}`);
    const result = parse();
    this.depth--;
    return result;
  }

  /** Statements up to one of the tags named; `begin` and the name are read. */
  private statements(ends: readonly string[]): Stmt[] {
    const body: Stmt[] = [];
    for (;;) {
      const { token } = this;
      if (token.type === "eof") {
        if (ends.length > 0) this.fail(`expected ${ends.join(" or ")}`);
        return body;
      }
      this.at++;
      if (token.type === "data") body.push({ type: "text", value: token.value });
      else if (token.type === "print") {
        body.push({ type: "print", value: this.tuple() });
        this.expect("endprint");
      } else if (this.is("name", ...ends) && ends.length > 0) return body;
      else {
        body.push(this.nested(() => this.statement()));
        this.expect("end");
      }
    }
  }

  /** The rest of a tag, then the statements up to an end tag, whose name it gives. */
  private block(...ends: string[]): { body: Stmt[]; end: string } {
    this.skip("op", ":");
    this.expect("end");
    const body = this.statements(ends);
    return { body, end: this.tokens[this.at++]!.value };
  }

  /** A block whose text is kept apart: no `break` leaves it. */
  private apart(end: string): Stmt[] {
    const loops = this.loops;
    this.loops = 0;
    const { body } = this.block(end);
    this.loops = loops;
    return body;
  }

  private statement(): Stmt {
    const name = this.expect("name").value;
    switch (name) {
      case "if":
        return this.ifStatement();
      case "for":
        return this.forStatement();
      case "set":
        return this.setStatement();
      case "macro": {
        const called = this.name();
        const { signature, body } = this.macro("endmacro");
        return { type: "macro", name: called, signature, body };
      }
      case "call": {
        const params = this.is("op", "(") ? this.params() : { params: [], defaults: [] };
        const call = this.expression();
        if (call.type !== "call") this.fail("expected a call");
        return { type: "call block", call, ...this.macroBody("endcall", params) };
      }
      case "filter": {
        const filter = this.filters(undefined, true)!;
        return { type: "filter block", filter, body: this.apart("endfilter") };
      }
      case "with": {
        const bindings: [Target, Expr][] = [];
        while (!this.is("end")) {
          if (bindings.length > 0) this.expect("op", ",");
          const target = this.target();
          this.expect("op", "=");
          bindings.push([target, this.expression()]);
        }
        return { type: "with", bindings, body: this.block("endwith").body };
      }
      case "generation":
        return { type: "generation", body: this.apart("endgeneration") };
      case "break":
      case "continue":
        if (this.loops === 0) this.fail(`${name} stands outside a loop`);
        return { type: name };
      default:
        this.at--;
        return this.fail(REFUSED.has(name) ? `'${name}' is not supported in chat templates` : `'${name}' is not a tag`);
    }
  }

  private ifStatement(): Stmt {
    const branches: [Expr, Stmt[]][] = [];
    for (;;) {
      const test = this.tuple(false);
      const { body, end } = this.block("elif", "else", "endif");
      branches.push([test, body]);
      if (end === "elif") continue;
      return { type: "if", branches, otherwise: end === "else" ? this.block("endif").body : [] };
    }
  }

  private forStatement(): Stmt {
    const target = this.target();
    this.expect("name", "in");
    const source = this.tuple(false);
    const test = this.skip("name", "if") && this.expression();
    if (this.is("name", "recursive")) this.fail("recursive loops are not supported");
    this.loops++;
    const { body, end } = this.block("endfor", "else");
    this.loops--;
    return { type: "for", target, source, test, body, otherwise: end === "else" ? this.block("endfor").body : [] };
  }

  private setStatement(): Stmt {
    const target = this.target(true);
    if (this.skip("op", "=")) return { type: "set", target, value: this.tuple() };
    const filter = this.filters(undefined, false);
    return { type: "set block", target, filter, body: this.apart("endset") };
  }

  private macro(end: string) {
    return this.macroBody(end, this.params());
  }

  private macroBody(end: string, params: Pick<Signature, "params" | "defaults">): { signature: Signature; body: Stmt[] } {
    const outer = this.reads;
    this.reads = new Set();
    const body = this.apart(end);
    const has = (name: string) => this.reads.has(name) && !params.params.includes(name);
    const signature = { ...params, caller: has("caller"), kwargs: has("kwargs"), varargs: has("varargs") };
    // A block inside a macro reads the macro's names.
    for (const name of this.reads) outer.add(name);
    this.reads = outer;
    return { signature, body };
  }

  private params(): Pick<Signature, "params" | "defaults"> {
    const params: string[] = [];
    const defaults: Expr[] = [];
    this.expect("op", "(");
    while (!this.is("op", ")")) {
      if (params.length > 0) this.expect("op", ",");
      const name = this.name();
      if (params.includes(name)) this.fail(`duplicate parameter '${name}'`);
      params.push(name);
      if (this.skip("op", "=")) defaults.push(this.expression());
      else if (defaults.length > 0) this.fail("non-default argument follows default argument");
    }
    this.expect("op", ")");
    return { params, defaults };
  }

  private name(): string {
    const { value } = this.expect("name");
    if (CONSTANTS.has(value)) this.fail(`can't assign to '${value}'`);
    return value;
  }

  /** What `set`, `for` and `with` assign to. */
  private target(namespaces = false): Target {
    const items: Target[] = [];
    let several = false;
    for (;;) {
      if (items.length > 0 && !this.skip("op", ",")) break;
      if (items.length > 0) several = true;
      if (this.is("end") || this.is("op", ")")) break;
      if (this.skip("op", "(")) {
        items.push(this.nested(() => this.target()));
        this.expect("op", ")");
        continue;
      }
      const name = this.name();
      items.push(
        namespaces && this.skip("op", ".")
          ? { type: "attribute", namespace: name, name: this.expect("name").value }
          : { type: "name", name },
      );
    }
    if (items.length === 0) this.fail("expected a name to assign to");
    return several ? { type: "targets", items } : items[0]!;
  }

  private tuple(conditions = true, parenthesised = false): Expr {
    const items: Expr[] = [];
    let several = false;
    for (;;) {
      if (items.length > 0 && !this.skip("op", ",")) break;
      if (items.length > 0) several = true;
      if (this.is("endprint") || this.is("end") || this.is("op", ")")) break;
      items.push(this.expression(conditions));
    }
    if (several || (parenthesised && items.length === 0)) return { type: "tuple", items };
    return items[0] ?? this.fail("expected an expression");
  }

  private expression(conditions = true): Expr {
    return this.nested(() => (conditions ? this.condition() : this.or()));
  }

  private condition(): Expr {
    let expr = this.or();
    while (this.skip("name", "if")) {
      const test = this.or();
      const no = this.skip("name", "else") && this.nested(() => this.condition());
      expr = { type: "condition", test, yes: expr, no };
    }
    return expr;
  }

  private or(): Expr {
    let left = this.and();
    while (this.skip("name", "or")) left = { type: "binary", operator: "or", left, right: this.and() };
    return left;
  }

  private and(): Expr {
    let left = this.not();
    while (this.skip("name", "and")) left = { type: "binary", operator: "and", left, right: this.not() };
    return left;
  }

  private not(): Expr {
    if (this.skip("name", "not")) return { type: "unary", operator: "not", operand: this.nested(() => this.not()) };
    return this.comparison();
  }

  private comparison(): Expr {
    const first = this.sum();
    const rest: [string, Expr][] = [];
    for (;;) {
      if (this.token.type === "op" && COMPARISONS.has(this.token.value)) {
        const operator = this.tokens[this.at++]!.value;
        rest.push([operator, this.sum()]);
      } else if (this.skip("name", "in")) rest.push(["in", this.sum()]);
      else if (this.is("name", "not") && this.tokens[this.at + 1]?.type === "name" && this.tokens[this.at + 1]?.value === "in") {
        this.at += 2;
        rest.push(["not in", this.sum()]);
      } else return rest.length > 0 ? { type: "compare", first, rest } : first;
    }
  }

  private sum(): Expr {
    return this.leftToRight(["+", "-"], () => this.concat());
  }

  private concat(): Expr {
    const items = [this.product()];
    while (this.skip("op", "~")) items.push(this.product());
    return items.length > 1 ? { type: "concat", items } : items[0]!;
  }

  private product(): Expr {
    return this.leftToRight(["*", "/", "//", "%"], () => this.power());
  }

  private power(): Expr {
    return this.leftToRight(["**"], () => this.unary());
  }

  private leftToRight(operators: readonly string[], operand: () => Expr): Expr {
    let left = operand();
    for (;;) {
      const operator = this.skip("op", ...operators)?.value;
      if (operator === undefined) return left;
      left = { type: "binary", operator, left, right: operand() };
    }
  }

  private unary(filtered = true): Expr {
    const sign = this.skip("op", "-", "+")?.value as "-" | "+" | undefined;
    const inner: Expr = sign ? { type: "unary", operator: sign, operand: this.nested(() => this.unary(false)) } : this.primary();
    const expr = this.postfix(inner);
    return filtered ? this.filterExpression(expr) : expr;
  }

  private primary(): Expr {
    const { token } = this;
    this.at++;
    switch (token.type) {
      case "name": {
        const constant = CONSTANTS.get(token.value);
        if (constant) return { type: "const", value: constant };
        this.reads.add(token.value);
        return { type: "name", name: token.value };
      }
      case "string": {
        let { value } = token;
        for (let next = this.skip("string"); next; next = this.skip("string")) value += next.value;
        return { type: "const", value: str(value) };
      }
      case "int":
        return { type: "const", value: int(small(BigInt(token.value.replaceAll("_", "")))) };
      case "float":
        return { type: "const", value: float(Number(token.value.replaceAll("_", ""))) };
      case "op":
        if (token.value === "(") {
          const expr = this.tuple(true, true);
          this.expect("op", ")");
          return expr;
        }
        if (token.value === "[") return { type: "list", items: this.listed("]", () => this.expression()) };
        if (token.value === "{") {
          const items = this.listed("}", (): [Expr, Expr] => {
            const key = this.expression();
            this.expect("op", ":");
            return [key, this.expression()];
          });
          return { type: "dict", items };
        }
    }
    this.at--;
    return this.fail("expected an expression");
  }

  /** Items with commas between them up to a closing bracket; one comma may stand at the end. */
  private listed<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.is("op", close)) {
      if (items.length > 0) this.expect("op", ",");
      if (this.is("op", close)) break;
      items.push(item());
    }
    this.expect("op", close);
    return items;
  }

  private postfix(start: Expr): Expr {
    let expr = start;
    for (;;) {
      if (this.skip("op", ".")) {
        const name = this.skip("name");
        const index = name ? undefined : this.skip("int");
        if (name) expr = { type: "attribute", object: expr, name: name.value };
        else if (index)
          expr = {
            type: "item",
            object: expr,
            key: { type: "const", value: int(small(BigInt(index.value.replaceAll("_", "")))) },
          };
        else this.fail("expected name or number");
      } else if (this.skip("op", "[")) {
        const keys: Expr[] = [];
        while (!this.is("op", "]")) {
          if (keys.length > 0) this.expect("op", ",");
          keys.push(this.subscript());
        }
        this.expect("op", "]");
        const key: Expr = keys.length === 1 ? keys[0]! : { type: "tuple", items: keys };
        expr = { type: "item", object: expr, key };
      } else if (this.is("op", "(")) expr = { type: "call", callee: expr, args: this.args() };
      else return expr;
    }
  }

  private subscript(): Expr {
    const parts: (Expr | undefined)[] = [];
    const part = () => (this.is("op", "]", ",", ":") ? undefined : this.expression());
    const first = part();
    if (!this.is("op", ":")) return first ?? this.fail("expected an expression");
    parts.push(first);
    for (let i = 0; i < 2 && this.skip("op", ":"); i++) parts.push(part());
    return { type: "slice", parts };
  }

  private args(): Arguments {
    const args: Arguments = { positional: [], keywords: [], spread: undefined, keywordSpread: undefined };
    this.expect("op", "(");
    const ensure = (holds: boolean) => {
      if (!holds) this.fail("invalid syntax for function call expression");
    };
    this.listed(")", () => {
      const plain = args.keywordSpread === undefined;
      if (this.skip("op", "*")) {
        ensure(plain && args.spread === undefined);
        args.spread = this.expression();
      } else if (this.skip("op", "**")) {
        ensure(plain);
        args.keywordSpread = this.expression();
      } else if (
        this.token.type === "name" &&
        this.tokens[this.at + 1]?.type === "op" &&
        this.tokens[this.at + 1]?.value === "="
      ) {
        ensure(plain);
        const name = this.token.value;
        this.at += 2;
        if (args.keywords.some(([other]) => other === name)) this.fail(`keyword argument repeated: ${name}`);
        args.keywords.push([name, this.expression()]);
      } else {
        ensure(plain && args.spread === undefined && args.keywords.length === 0);
        args.positional.push(this.expression());
      }
    });
    return args;
  }

  private dotted(): string {
    let name = this.expect("name").value;
    while (this.skip("op", ".")) name += `.${this.expect("name").value}`;
    return name;
  }

  private filterExpression(start: Expr): Expr {
    let expr = start;
    for (;;) {
      if (this.is("op", "|")) expr = this.filters(expr, false)!;
      else if (this.skip("name", "is")) expr = this.test(expr);
      else if (this.is("op", "(")) expr = { type: "call", callee: expr, args: this.args() };
      else return expr;
    }
  }

  private filters(input: Expr | undefined, inline: boolean): Expr | undefined {
    let expr = input;
    for (let first = inline; first || this.skip("op", "|"); first = false) {
      const name = this.dotted();
      expr = { type: "filter", input: expr, name, args: this.is("op", "(") ? this.args() : NO_ARGUMENTS };
    }
    return expr;
  }

  private test(input: Expr): Expr {
    const negated = this.skip("name", "not") !== undefined;
    const name = this.dotted();
    let args = NO_ARGUMENTS;
    if (this.is("op", "(")) args = this.args();
    else if (
      ["name", "string", "int", "float"].includes(this.token.type)
        ? !this.is("name", "else", "or", "and")
        : this.is("op", "[", "{")
    ) {
      if (this.is("name", "is")) this.fail("You cannot chain multiple tests with is");
      args = { ...NO_ARGUMENTS, positional: [this.postfix(this.primary())] };
    }
    const expr: Expr = { type: "test", input, name, args };
    return negated ? { type: "unary", operator: "not", operand: expr } : expr;
  }
}

const NO_ARGUMENTS: Arguments = { positional: [], keywords: [], spread: undefined, keywordSpread: undefined };
