import { Cursor } from "./cursor.js";
import type { Arguments, Expr } from "./syntax.js";
import { bool, float, int, none, small, str } from "./values.js";

/** Names that are values, in whatever place they stand. */
export const CONSTANTS = new Map([
  ["true", bool(true)],
  ["True", bool(true)],
  ["false", bool(false)],
  ["False", bool(false)],
  ["none", none],
  ["None", none],
]);
const COMPARISONS = new Set(["==", "!=", "<", "<=", ">", ">="]);
const NO_ARGUMENTS: Arguments = { positional: [], keywords: [], spread: undefined, keywordSpread: undefined };

/** Expressions of Jinja 3.1, by its order of operators. */
export class ExpressionParser extends Cursor {
  /** Names that were read; a macro's body finds its special ones here. */
  protected reads = new Set<string>();

  protected tuple(conditions = true, parenthesised = false): Expr {
    const items: Expr[] = [];
    let several = false;
    for (;;) {
      if (items.length > 0 && !this.accept("op", ",")) break;
      if (items.length > 0) several = true;
      if (this.is("endprint") || this.is("end") || this.is("op", ")")) break;
      items.push(this.expression(conditions));
    }
    if (several || (parenthesised && items.length === 0)) return { type: "tuple", items };
    return items[0] ?? this.fail("expected an expression");
  }

  protected expression(conditions = true): Expr {
    return this.nested(() => (conditions ? this.condition() : this.or()));
  }

  private condition(): Expr {
    let expr = this.or();
    while (this.accept("name", "if")) {
      const test = this.or();
      const no = this.accept("name", "else") && this.nested(() => this.condition());
      expr = { type: "condition", test, yes: expr, no };
    }
    return expr;
  }

  private or(): Expr {
    let left = this.and();
    while (this.accept("name", "or")) left = { type: "binary", operator: "or", left, right: this.and() };
    return left;
  }

  private and(): Expr {
    let left = this.not();
    while (this.accept("name", "and")) left = { type: "binary", operator: "and", left, right: this.not() };
    return left;
  }

  private not(): Expr {
    if (this.accept("name", "not")) return { type: "unary", operator: "not", operand: this.nested(() => this.not()) };
    return this.comparison();
  }

  private comparison(): Expr {
    const first = this.sum();
    const rest: [string, Expr][] = [];
    for (;;) {
      if (this.token.type === "op" && COMPARISONS.has(this.token.value)) {
        const operator = this.tokens[this.at++]!.value;
        rest.push([operator, this.sum()]);
      } else if (this.accept("name", "in")) rest.push(["in", this.sum()]);
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
    while (this.accept("op", "~")) items.push(this.product());
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
      const operator = this.accept("op", ...operators)?.value;
      if (operator === undefined) return left;
      left = { type: "binary", operator, left, right: operand() };
    }
  }

  private unary(filtered = true): Expr {
    const sign = this.accept("op", "-", "+")?.value as "-" | "+" | undefined;
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
        for (let next = this.accept("string"); next; next = this.accept("string")) value += next.value;
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
      if (this.accept("op", ".")) {
        const name = this.accept("name");
        const index = name ? undefined : this.accept("int");
        if (name) expr = { type: "attribute", object: expr, name: name.value };
        else if (index)
          expr = {
            type: "item",
            object: expr,
            key: { type: "const", value: int(small(BigInt(index.value.replaceAll("_", "")))) },
          };
        else this.fail("expected name or number");
      } else if (this.accept("op", "[")) {
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
    for (let i = 0; i < 2 && this.accept("op", ":"); i++) parts.push(part());
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
      if (this.accept("op", "*")) {
        ensure(plain && args.spread === undefined);
        args.spread = this.expression();
      } else if (this.accept("op", "**")) {
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
    while (this.accept("op", ".")) name += `.${this.expect("name").value}`;
    return name;
  }

  private filterExpression(start: Expr): Expr {
    let expr = start;
    for (;;) {
      if (this.is("op", "|")) expr = this.filters(expr, false)!;
      else if (this.accept("name", "is")) expr = this.test(expr);
      else if (this.is("op", "(")) expr = { type: "call", callee: expr, args: this.args() };
      else return expr;
    }
  }

  protected filters(input: Expr | undefined, inline: boolean): Expr | undefined {
    let expr = input;
    for (let first = inline; first || this.accept("op", "|"); first = false) {
      const name = this.dotted();
      expr = { type: "filter", input: expr, name, args: this.is("op", "(") ? this.args() : NO_ARGUMENTS };
    }
    return expr;
  }

  private test(input: Expr): Expr {
    const negated = this.accept("name", "not") !== undefined;
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
