import { getAttribute, getItem } from "./attributes.js";
import { filter } from "./filters.js";
import type { Hidden } from "./frames.js";
import { MAX_DEPTH, meter, TemplateLimitError, TemplateRuntimeError } from "./limits.js";
import { Loop } from "./loops.js";
import { binary, compares } from "./operators.js";
import { text } from "./print.js";
import { slice } from "./slices.js";
import type { Arguments, Expr, Signature, Stmt, Target } from "./syntax.js";
import { test } from "./tests.js";
import {
  bool,
  dict,
  float,
  fn,
  int,
  isDict,
  isFloat,
  isNumber,
  isString,
  iterate,
  list,
  numberOf,
  small,
  str,
  truthy,
  tuple,
  typeName,
  undef,
  type Value,
} from "./values.js";

/** Names and values of one frame; what is not here is looked for around it. */
export class Scope {
  readonly names = new Map<string, Value>();
  constructor(readonly outer?: Scope) {}

  get(name: string): Value {
    for (let at: Scope | undefined = this; at; at = at.outer) {
      meter.spend(0.25);
      const value = at.names.get(name);
      if (value !== undefined) return value;
    }
    return undef;
  }
}

/** How a list of statements ended. */
type Flow = "break" | "continue" | undefined;

/** Runs a parsed template with the meaning it has in Python. Everything it does is paid for at the meter. */
export class Interpreter {
  private out = "";
  /** Above zero while text is kept apart from the output. */
  private apart = 0;
  private depth = 0;
  /** Ranges of the output that generation blocks printed. */
  readonly regions: [start: number, end: number][] = [];

  /** @param marks find the regions of generation blocks */
  constructor(
    private readonly marks: boolean,
    private readonly hidden: Hidden,
  ) {}

  render(program: readonly Stmt[], globals: Scope): string {
    this.run(program, this.frame(globals, program));
    return this.out;
  }

  private run(body: readonly Stmt[], scope: Scope): Flow {
    for (const statement of body) {
      const flow = this.execute(statement, scope);
      if (flow) return flow;
    }
    return undefined;
  }

  private print(printed: string): void {
    meter.text(printed.length);
    this.out += printed;
  }

  /** What a block prints, kept apart. */
  private capture(body: readonly Stmt[], scope: Scope): Value {
    const before = this.out;
    this.out = "";
    this.apart++;
    this.run(body, scope);
    this.apart--;
    const printed = this.out;
    this.out = before;
    return str(printed);
  }

  /** A scope for a body that Jinja makes a frame of. */
  private frame(outer: Scope, body: readonly Stmt[]): Scope {
    meter.spend(4);
    const scope = new Scope(outer);
    for (const name of this.hidden.get(body) ?? []) scope.names.set(name, undef);
    return scope;
  }

  private execute(s: Stmt, scope: Scope): Flow {
    meter.spend(1);
    switch (s.type) {
      case "text":
        this.print(s.value);
        return undefined;
      case "print":
        this.print(text(this.evaluate(s.value, scope)));
        return undefined;
      case "if":
        for (const [condition, body] of s.branches) if (truthy(this.evaluate(condition, scope))) return this.run(body, scope);
        return this.run(s.otherwise, scope);
      case "for":
        return this.loop(s, scope);
      case "set":
        this.assign(s.target, this.evaluate(s.value, scope), scope);
        return undefined;
      case "set block": {
        const inner = this.frame(scope, s.body);
        const printed = this.capture(s.body, inner);
        this.assign(s.target, s.filter ? this.evaluateWith(s.filter, printed, inner) : printed, scope);
        return undefined;
      }
      case "macro":
        scope.names.set(s.name, this.macro(s.name, s.signature, s.body, scope));
        return undefined;
      case "call block": {
        const call = s.call as Extract<Expr, { type: "call" }>;
        const caller = this.macro("caller", s.signature, s.body, scope);
        const callee = this.evaluate(call.callee, scope);
        const [positional, keywords] = this.args(call.args, scope);
        if (keywords.has("caller")) throw new TemplateRuntimeError("a call block passes 'caller' itself");
        this.print(text(this.invoke(callee, positional, new Map([...keywords, ["caller", caller]]), call.callee)));
        return undefined;
      }
      case "filter block": {
        // The filter's arguments see what the body has set.
        const inner = this.frame(scope, s.body);
        this.print(text(this.evaluateWith(s.filter, this.capture(s.body, inner), inner)));
        return undefined;
      }
      case "with": {
        const inner = this.frame(scope, s.body);
        for (const [target, value] of s.bindings) this.assign(target, this.evaluate(value, scope), inner);
        return this.run(s.body, inner);
      }
      case "generation":
        return this.generation(s.body, scope);
      default:
        return s.type;
    }
  }

  private generation(body: readonly Stmt[], scope: Scope): Flow {
    if (this.marks && this.apart > 0)
      throw new TemplateRuntimeError(
        "a generation block inside a macro, call, set or filter block is not supported: where its text goes cannot be told",
      );
    const start = this.out.length;
    this.run(body, this.frame(scope, body));
    if (this.marks && this.out.length > start) this.regions.push([start, this.out.length]);
    return undefined;
  }

  private loop(s: Extract<Stmt, { type: "for" }>, scope: Scope): Flow {
    const round = (item: Value, frame: readonly Stmt[]) => {
      const inner = this.frame(scope, frame);
      this.assign(s.target, item, inner);
      return inner;
    };
    const condition = s.test;
    // The condition is a frame of its own: it sees none of the names that the body hides.
    const passes = condition && ((item: Value) => truthy(this.evaluate(condition, round(item, []))));
    const loop = new Loop(iterate(this.evaluate(s.source, scope)), passes, 1);
    // Python runs `else` where no round came to its end, also when each was left by break or continue.
    let finished = false;
    for (let item = loop.advance(); item; item = loop.advance()) {
      // A scope for each round: what a round sets does not reach the next one.
      const inner = round(item, s.body);
      inner.names.set("loop", loop.value);
      const flow = this.run(s.body, inner);
      if (flow === "break") break;
      finished ||= flow === undefined;
    }
    return !finished ? this.run(s.otherwise, this.frame(scope, s.otherwise)) : undefined;
  }

  private assign(target: Target, value: Value, scope: Scope): void {
    if (target.type === "name") {
      scope.names.set(target.name, value);
      return;
    }
    if (target.type === "attribute") {
      const namespace = scope.get(target.namespace);
      if (namespace.type !== "namespace") throw new TemplateRuntimeError("cannot assign attribute on non-namespace object");
      checkAttribute(target.name);
      namespace.value.set(target.name, value);
      return;
    }
    const parts = iterate(value);
    if (parts.length !== target.items.length)
      throw new TemplateRuntimeError(`expected ${target.items.length} values to unpack, got ${parts.length}`);
    for (const [i, item] of target.items.entries()) this.assign(item, parts[i]!, scope);
  }

  /** A macro sees the names of the place it was written in, not those of its caller. */
  private macro(name: string, signature: Signature, body: readonly Stmt[], scope: Scope): Value {
    const { params, defaults } = signature;
    return fn((positional, keywords) => {
      if (++this.depth > MAX_DEPTH) throw new TemplateLimitError("depth", `macros call one another more than ${MAX_DEPTH} deep`);
      const inner = this.frame(scope, body);
      const named = new Map(keywords);
      for (const [i, param] of params.entries()) {
        const value = positional[i] ?? named.get(param);
        if (positional[i] === undefined) named.delete(param);
        const otherwise = defaults[i - (params.length - defaults.length)];
        // Without a value a parameter hides a name outside, also while defaults are made.
        inner.names.set(param, value ?? undef);
        if (value === undefined && otherwise) inner.names.set(param, this.evaluate(otherwise, inner));
      }
      if (signature.caller) {
        inner.names.set("caller", named.get("caller") ?? undef);
        named.delete("caller");
      }
      if (signature.kwargs) inner.names.set("kwargs", dict(named));
      else if (named.size > 0)
        throw new TemplateRuntimeError(`macro '${name}' takes no keyword argument '${named.keys().next().value}'`);
      if (signature.varargs) inner.names.set("varargs", tuple(positional.slice(params.length)));
      else if (positional.length > params.length)
        throw new TemplateRuntimeError(`macro '${name}' takes not more than ${params.length} argument(s)`);
      const printed = this.capture(body, inner);
      this.depth--;
      return printed;
    });
  }

  private evaluate(e: Expr, scope: Scope): Value {
    meter.spend(1);
    switch (e.type) {
      case "const":
        return e.value;
      case "name":
        return scope.get(e.name);
      case "list":
        meter.spend(e.items.length);
        return list(e.items.map((x) => this.evaluate(x, scope)));
      case "tuple":
        meter.spend(e.items.length);
        return tuple(e.items.map((x) => this.evaluate(x, scope)));
      case "dict":
        return this.dictionary(e.items, scope);
      case "attribute":
        return getAttribute(this.evaluate(e.object, scope), e.name, describe(e.object));
      case "item": {
        const object = this.evaluate(e.object, scope);
        if (e.key.type !== "slice") return getItem(object, this.evaluate(e.key, scope), describe(e.object));
        return slice(
          object,
          e.key.parts.map((part) => part && this.evaluate(part, scope)),
        );
      }
      case "call": {
        const callee = this.evaluate(e.callee, scope);
        const [positional, keywords] = this.args(e.args, scope);
        return this.invoke(callee, positional, keywords, e.callee);
      }
      case "filter":
        return this.evaluateWith(e, undef, scope);
      case "test": {
        const input = this.evaluate(e.input, scope);
        return bool(test(e.name, input, ...this.args(e.args, scope)));
      }
      case "unary":
        return unary(e.operator, this.evaluate(e.operand, scope));
      case "binary": {
        const left = this.evaluate(e.left, scope);
        if (e.operator === "and") return truthy(left) ? this.evaluate(e.right, scope) : left;
        if (e.operator === "or") return truthy(left) ? left : this.evaluate(e.right, scope);
        const right = this.evaluate(e.right, scope);
        // Jinja writes -3 ** n into its Python code, which means -(3 ** n), but not where n is constant.
        if (e.operator === "**" && isNumber(left) && numberOf(left) < 0)
          throw new TemplateRuntimeError("powers of negative numbers are not supported");
        return binary(e.operator, left, right);
      }
      case "concat": {
        const parts = e.items.map((x) => text(this.evaluate(x, scope)));
        meter.text(parts.reduce((n, part) => n + part.length, 0));
        return str(parts.join(""));
      }
      case "compare": {
        let left = this.evaluate(e.first, scope);
        for (const [operator, operand] of e.rest) {
          const right = this.evaluate(operand, scope);
          if (!compares(operator, left, right)) return bool(false);
          left = right;
        }
        return bool(true);
      }
      case "condition":
        if (truthy(this.evaluate(e.test, scope))) return this.evaluate(e.yes, scope);
        return e.no ? this.evaluate(e.no, scope) : undef;
      default:
        throw new TemplateRuntimeError("a slice may stand only in brackets behind a value");
    }
  }

  /** A chain of filters; `input` is what the first of a filter block is applied to. */
  private evaluateWith(e: Expr, input: Value, scope: Scope): Value {
    if (e.type !== "filter") return this.evaluate(e, scope);
    meter.spend(1);
    const value = e.input ? this.evaluateWith(e.input, input, scope) : input;
    return filter(e.name, value, ...this.args(e.args, scope));
  }

  private dictionary(items: readonly [Expr, Expr][], scope: Scope): Value {
    meter.spend(items.length * 2);
    const entries = new Map<string, Value>();
    for (const [k, v] of items) {
      const key = this.evaluate(k, scope);
      if (!isString(key)) throw new TemplateRuntimeError(`a key of a dict must be a text here, not ${typeName(key)}`);
      entries.set(key.value, this.evaluate(v, scope));
    }
    return dict(entries);
  }

  private args(args: Arguments, scope: Scope): [Value[], Map<string, Value>] {
    const positional = args.positional.map((e) => this.evaluate(e, scope));
    const keywords = new Map(args.keywords.map(([name, e]) => [name, this.evaluate(e, scope)] as const));
    if (args.spread) {
      const items = iterate(this.evaluate(args.spread, scope));
      meter.spend(items.length);
      for (const item of items) positional.push(item);
    }
    if (args.keywordSpread) {
      const spread = this.evaluate(args.keywordSpread, scope);
      if (!isDict(spread)) throw new TemplateRuntimeError(`argument after ** must be a mapping, not ${typeName(spread)}`);
      meter.spend(spread.value.size);
      for (const [name, value] of spread.value as Map<string, Value>) {
        if (keywords.has(name)) throw new TemplateRuntimeError(`got multiple values for keyword argument '${name}'`);
        keywords.set(name, value);
      }
    }
    return [positional, keywords];
  }

  private invoke(callee: Value, positional: Value[], keywords: ReadonlyMap<string, Value>, node: Expr): Value {
    if (callee.type !== "function")
      throw new TemplateRuntimeError(`${describe(node)} is not callable (it is ${typeName(callee)})`);
    return callee.value(positional, keywords);
  }
}

/** transformers keeps attributes that begin with an underscore out of namespaces. */
export function checkAttribute(name: string): void {
  if (name.startsWith("_"))
    throw new TemplateRuntimeError(`an attribute of a namespace cannot begin with an underscore: ${name}`);
}

function unary(operator: "-" | "+" | "not", v: Value): Value {
  if (operator === "not") return bool(!truthy(v));
  if (!isNumber(v)) throw new TemplateRuntimeError(`bad operand type for unary ${operator}: '${typeName(v)}'`);
  const n = numberOf(v);
  if (isFloat(v)) return float(operator === "-" ? -v.value : v.value);
  return int(operator === "-" ? small(-BigInt(n)) : n);
}

function describe(node: Expr): string {
  if (node.type === "name" || node.type === "attribute") return `'${node.name}'`;
  if (node.type === "item" && node.key.type === "const" && isString(node.key.value)) return `'${node.key.value.value}'`;
  return "a value";
}
