import { Environment, Interpreter } from "@huggingface/jinja";
import { findFilter, findTest } from "./filters.js";
import { loopValue, MAX_RANGE } from "./loops.js";
import { Args, contains, DICT_METHODS, LIST_METHODS, STRING_METHODS } from "./methods.js";
import { binary } from "./operators.js";
import { text } from "./print.js";
import {
  bool,
  fn,
  int,
  isBoolean,
  isDict,
  isInteger,
  isList,
  isString,
  isUndefined,
  iterate,
  keywordArguments,
  meter,
  none,
  str,
  TemplateLimitError,
  TemplateRuntimeError,
  truthy,
  typeName,
  undef,
  type Value,
} from "./values.js";

/** What one rendering may use. */
export interface RenderLimits {
  /** Evaluated nodes of the template, texts counted by their length too. */
  steps: number;
  /** Characters of any text the template makes, its output included. */
  outputChars: number;
  /** Wall-clock time in milliseconds. */
  milliseconds: number;
}

/** A node of the library's syntax tree. */
// biome-ignore lint/suspicious/noExplicitAny: fields depend on `type`
type Node = { type: string; [field: string]: any };
type Internals = {
  global: Environment;
  evaluate(node: Node | undefined, scope: Environment): Value;
  evaluateArguments(args: Node[], scope: Environment): [Value[], Map<string, Value>];
  evaluateSliceExpression(object: Value, node: Node, scope: Environment): Value;
  evaluateMacro(node: Node, scope: Environment): Value;
};
// The library keeps its methods private; the version is pinned and the golden templates hold this class to Python's results.
const Base = Interpreter as unknown as new (env: Environment) => Internals;

/** Leaves a loop; carries what the unfinished blocks had printed, which Python keeps. */
class LoopControl extends Error {
  printed = "";
  constructor(readonly leave: boolean) {
    super("loop control outside a loop");
  }
}

const SILENT = new Set(["Set", "Macro", "Comment"]);
/** Runs a parsed template with Python's meaning where the library's differs, and under limits. */
export class PythonInterpreter extends Base {
  private steps = 0;
  private readonly deadline: number;

  constructor(
    scope: Environment,
    private readonly limits: RenderLimits,
  ) {
    super(scope);
    this.deadline = performance.now() + limits.milliseconds;
    meter.spend = (steps) => this.spend(steps);
  }

  render(program: Node): string {
    return this.evaluate(program, this.global).value;
  }

  override evaluate(node: Node | undefined, scope: Environment): Value {
    this.spend(1);
    if (node?.type === "IntegerLiteral" && !Number.isSafeInteger(node.value))
      throw new TemplateLimitError("it holds an integer beyond 53 bits");
    if (node?.type === "Break" || node?.type === "Continue") throw new LoopControl(node.type === "Break");
    return super.evaluate(node, scope);
  }

  private spend(steps: number): void {
    const before = this.steps;
    this.steps += steps;
    if (this.steps > this.limits.steps) throw new TemplateLimitError(`it ran for more than ${this.limits.steps} steps`);
    if (this.steps >> 8 !== before >> 8 && performance.now() > this.deadline) {
      throw new TemplateLimitError(`it ran for more than ${this.limits.milliseconds} ms`);
    }
  }

  /** Counts the size of a new value against the limits. */
  private sized(value: Value): Value {
    if (isString(value)) {
      if (value.value.length > this.limits.outputChars)
        throw new TemplateLimitError(`it made a text of more than ${this.limits.outputChars} characters`);
      this.spend(value.value.length >> 6);
    } else if (isList(value)) {
      if (value.value.length > MAX_RANGE) throw new TemplateLimitError(`it made a list of more than ${MAX_RANGE} elements`);
      this.spend(value.value.length >> 2);
    }
    return value;
  }

  evaluateBlock(nodes: Node[], scope: Environment): Value {
    let printed = "";
    for (const node of nodes) {
      try {
        const value = this.evaluate(node, scope);
        if (!SILENT.has(node.type)) printed += text(value);
      } catch (error) {
        if (error instanceof LoopControl) error.printed = printed + error.printed;
        throw error;
      }
      if (printed.length > this.limits.outputChars)
        throw new TemplateLimitError(`it printed more than ${this.limits.outputChars} characters`);
    }
    return this.sized(str(printed));
  }

  evaluateIdentifier(node: Node): Value;
  evaluateIdentifier(node: Node, scope: Environment): Value;
  evaluateIdentifier(node: Node, scope: Environment = this.global): Value {
    for (let at: Environment | undefined = scope; at; at = at.parent) {
      const value = at.variables.get(node.value);
      if (value !== undefined) return value as Value;
    }
    return undef;
  }

  evaluateBinaryExpression(node: Node, scope: Environment): Value {
    const operator = node.operator.value as string;
    const left = this.evaluate(node.left, scope);
    if (operator === "and") return truthy(left) ? this.evaluate(node.right, scope) : left;
    if (operator === "or") return truthy(left) ? left : this.evaluate(node.right, scope);
    const right = this.evaluate(node.right, scope);
    if (operator === "in") return bool(contains(right, left));
    if (operator === "not in") return bool(!contains(right, left));
    return this.sized(binary(operator, left, right, this.limits.outputChars));
  }

  applyFilter(input: Value, filter: Node, scope: Environment): Value {
    const call = filter.type === "CallExpression";
    const name: unknown = (call ? filter.callee : filter).value;
    if (typeof name !== "string") throw new TemplateRuntimeError("a filter must be a name");
    return this.sized(findFilter(name)(input, new Args(name, call ? this.arguments(filter.args, scope) : [])));
  }

  evaluateTestExpression(node: Node, scope: Environment): Value {
    return bool(findTest(node.test.value)(this.evaluate(node.operand, scope), []) !== node.negate);
  }

  evaluateCallExpression(node: Node, scope: Environment): Value {
    const callee = this.evaluate(node.callee, scope);
    if (callee.type !== "FunctionValue")
      throw new TemplateRuntimeError(`${describe(node.callee)} is not callable (it is ${typeName(callee)})`);
    return this.sized(callee.value(this.arguments(node.args, scope), scope));
  }

  private arguments(nodes: Node[], scope: Environment): Value[] {
    const [args, keywords] = this.evaluateArguments(nodes, scope);
    if (keywords.size > 0) args.push(keywordArguments(keywords));
    return args;
  }

  evaluateMemberExpression(node: Node, scope: Environment): Value {
    const object = this.evaluate(node.object, scope);
    if (isUndefined(object)) throw new TemplateRuntimeError(`${describe(node.object)} is undefined`);
    if (node.computed && node.property.type === "SliceExpression") {
      return this.sized(this.evaluateSliceExpression(object, node.property, scope));
    }
    const key = node.computed
      ? this.evaluate(node.property, scope)
      : node.property.type === "IntegerLiteral"
        ? int(node.property.value)
        : str(node.property.value);
    if (isDict(object) && isString(key)) {
      const item = object.value.get(key.value);
      const method = bind(DICT_METHODS, object.value, key.value);
      // `a.items` means the method, `a["items"]` the entry.
      return (node.computed ? (item ?? method) : (method ?? item)) ?? undef;
    }
    if (object.type === "NamespaceValue" && isString(key)) return object.value.get(key.value) ?? undef;
    const index = isInteger(key) || isBoolean(key);
    if (index && isList(object)) return object.value.at(Number(key.value)) ?? undef;
    if (index && isString(object)) {
      const char = Array.from(object.value as string).at(Number(key.value));
      return char === undefined ? undef : str(char);
    }
    if (isString(key) && isString(object)) return bind(STRING_METHODS, object.value, key.value) ?? undef;
    if (isString(key) && isList(object)) return bind(LIST_METHODS, object.value, key.value) ?? undef;
    return undef;
  }

  override evaluateSliceExpression(object: Value, node: Node, scope: Environment): Value {
    // The library takes an undefined bound for one that is not written.
    for (const part of [node.start, node.stop, node.step]) {
      if (part && isUndefined(this.evaluate(part, scope))) throw new TemplateRuntimeError(`${describe(part)} is undefined`);
    }
    return super.evaluateSliceExpression(object, node, scope);
  }

  evaluateFor(node: Node, scope: Environment): Value {
    const filtered = node.iterable.type === "SelectExpression";
    const all = iterate(this.evaluate(filtered ? node.iterable.lhs : node.iterable, scope));
    const items = filtered
      ? all.filter((item) => truthy(this.evaluate(node.iterable.test, this.bound(node.loopvar, item, scope))))
      : all;
    let printed = "";
    for (const [i, item] of items.entries()) {
      // A scope for each round: what a round sets does not reach the next one.
      const round = this.bound(node.loopvar, item, scope);
      round.setVariable("loop", loopValue(items, i) as never);
      try {
        printed += this.evaluateBlock(node.body, round).value;
      } catch (error) {
        if (!(error instanceof LoopControl)) throw error;
        printed += error.printed;
        if (error.leave) break;
      }
      if (printed.length > this.limits.outputChars)
        throw new TemplateLimitError(`it printed more than ${this.limits.outputChars} characters`);
    }
    if (items.length === 0) return this.evaluateBlock(node.defaultBlock, new Environment(scope));
    return str(printed);
  }

  private bound(target: Node, item: Value, scope: Environment): Environment {
    // A round's scope costs as much as many nodes.
    this.spend(16);
    const inner = new Environment(scope);
    if (target.type === "Identifier") {
      inner.setVariable(target.value, item as never);
      return inner;
    }
    const parts = iterate(item);
    if (parts.length !== target.value.length)
      throw new TemplateRuntimeError(`expected ${target.value.length} values to unpack, got ${parts.length}`);
    for (const [i, name] of (target.value as Node[]).entries()) inner.setVariable(name.value, parts[i] as never);
    return inner;
  }

  override evaluateMacro(node: Node, scope: Environment): Value {
    super.evaluateMacro(node, scope);
    const name = node.name.value as string;
    const dynamic = scope.variables.get(name) as unknown as Value;
    // A macro sees the names of the place it was written in, not those of its caller.
    const lexical = fn((args, calledFrom) => {
      const inner = new Environment(scope);
      const caller = calledFrom?.variables.get("caller");
      if (caller) inner.setVariable("caller", caller);
      return dynamic.value(args, inner);
    });
    scope.setVariable(name, lexical as never);
    return none;
  }
}

function describe(node: Node): string {
  if (node.type === "Identifier") return `'${node.value}'`;
  if (node.type === "MemberExpression" && !node.computed) return `'${node.property.value}'`;
  if (node.type === "MemberExpression" && node.property.type === "StringLiteral") return `'${node.property.value}'`;
  return "a value";
}

function bind<T>(methods: Readonly<Record<string, (self: T, args: Args) => Value>>, self: T, name: string): Value | undefined {
  const method = Object.hasOwn(methods, name) ? methods[name] : undefined;
  return method && fn((args) => method(self, new Args(name, args)));
}
