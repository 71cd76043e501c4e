import { CONSTANTS, ExpressionParser } from "./expressions.js";
import { tokenize } from "./lexer.js";
import type { Expr, Signature, Stmt, Target } from "./syntax.js";

/** Statements of Jinja that read other templates or change escaping; chat templates have neither. */
const REFUSED = new Set(["block", "extends", "include", "import", "from", "autoescape"]);

/** Parses a template as Jinja 3.1 does, its order of operators included. @throws TemplateRuntimeError, TemplateLimitError */
export const parse = (template: string): Stmt[] => new Parser(tokenize(template)).program();

class Parser extends ExpressionParser {
  /** Loops around the statement that `break` may leave. */
  private loops = 0;

  program(): Stmt[] {
    return this.statements([]);
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
    this.accept("op", ":");
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
    const test = this.accept("name", "if") && this.expression();
    if (this.is("name", "recursive")) this.fail("recursive loops are not supported");
    this.loops++;
    const { body, end } = this.block("endfor", "else");
    this.loops--;
    return { type: "for", target, source, test, body, otherwise: end === "else" ? this.block("endfor").body : [] };
  }

  private setStatement(): Stmt {
    const target = this.target(true);
    if (this.accept("op", "=")) return { type: "set", target, value: this.tuple() };
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
      if (this.accept("op", "=")) defaults.push(this.expression());
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
      if (items.length > 0 && !this.accept("op", ",")) break;
      if (items.length > 0) several = true;
      if (this.is("end") || this.is("op", ")")) break;
      if (this.accept("op", "(")) {
        items.push(this.nested(() => this.target()));
        this.expect("op", ")");
        continue;
      }
      const name = this.name();
      items.push(
        namespaces && this.accept("op", ".")
          ? { type: "attribute", namespace: name, name: this.expect("name").value }
          : { type: "name", name },
      );
    }
    if (items.length === 0) this.fail("expected a name to assign to");
    return several ? { type: "targets", items } : items[0]!;
  }
}
