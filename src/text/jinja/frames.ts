import { meter } from "./limits.js";
import { type Expr, insideOf, partsOf, type Signature, type Stmt, type Target } from "./syntax.js";

/**
 * Which names begin undefined in a frame, whatever has that name outside the template. Jinja compiles each frame (a loop's
 * body, a macro, …) to a Python function with local variables: a name that a frame only assigns is such a variable from its
 * first line on, so that an inner frame that reads it earlier finds it undefined. This is jinja2/idtracking.py.
 */
export function hiddenNames(program: readonly Stmt[]): Hidden {
  const hidden: Hidden = new Map();
  frame(program, new Symbols(undefined), hidden, program);
  return hidden;
}

/** Bodies of frames with the names to hide where they begin. */
export type Hidden = Map<readonly Stmt[], string[]>;

/** Where a frame takes a name from when it begins. */
type Load = "parameter" | "context" | "outer" | "nowhere";

class Symbols {
  constructor(
    readonly outer: Symbols | undefined,
    private loads = new Map<string, Load>(),
    private stores = new Set<string>(),
  ) {}

  private knows(name: string): boolean {
    return this.loads.has(name) || (this.outer?.knows(name) ?? false);
  }

  load(name: string): void {
    if (!this.knows(name)) this.loads.set(name, "context");
  }

  store(name: string): void {
    this.stores.add(name);
    if (!this.loads.has(name)) this.loads.set(name, this.outer?.knows(name) ? "outer" : "nowhere");
  }

  parameter(name: string): void {
    this.stores.add(name);
    this.loads.set(name, "parameter");
  }

  copy(): Symbols {
    meter.spend(1 + this.loads.size + this.stores.size);
    return new Symbols(this.outer, new Map(this.loads), new Set(this.stores));
  }

  /** Joins the branches of a condition: what only some of them assign keeps what it was before. */
  join(branches: readonly Symbols[]): void {
    const counts = new Map<string, number>();
    for (const branch of branches)
      for (const name of branch.stores) if (!this.stores.has(name)) counts.set(name, (counts.get(name) ?? 0) + 1);
    for (const branch of branches) {
      for (const [name, load] of branch.loads) this.loads.set(name, load);
      for (const name of branch.stores) this.stores.add(name);
    }
    for (const [name, count] of counts)
      if (count < branches.length) this.loads.set(name, this.outer?.knows(name) ? "outer" : "context");
  }

  hidden(): string[] {
    return [...this.loads].flatMap(([name, load]) => (load === "nowhere" ? [name] : []));
  }
}

/** Reads a frame, then the frames inside it. */
function frame(body: readonly Stmt[], symbols: Symbols, hidden: Hidden, key: readonly Stmt[]): void {
  for (const s of body) statement(s, symbols);
  const names = symbols.hidden();
  if (names.length > 0) hidden.set(key, names);
  for (const s of body) innerFrames(s, symbols, hidden);
}

function innerFrames(s: Stmt, outer: Symbols, hidden: Hidden): void {
  const { bodies } = insideOf(s);
  if (s.type === "if") {
    for (const body of bodies) for (const x of body) innerFrames(x, outer, hidden);
    return;
  }
  for (const body of bodies) {
    const symbols = new Symbols(outer);
    if ((s.type === "for" && body === s.body) || s.type === "macro" || s.type === "call block" || s.type === "with")
      declare(s, symbols);
    // The filter of a filter block is read behind its body.
    const read: readonly Stmt[] = s.type === "filter block" ? [...body, { type: "print", value: s.filter }] : body;
    frame(read, symbols, hidden, body);
  }
}

/** Names that a frame is given. */
function declare(s: Extract<Stmt, { type: "for" | "macro" | "call block" | "with" }>, symbols: Symbols): void {
  if (s.type === "for") {
    parameters(s.target, symbols);
    symbols.parameter("loop");
  } else if (s.type === "with") for (const [target] of s.bindings) parameters(target, symbols);
  else declareSignature(s.signature, symbols);
}

function declareSignature(signature: Signature, symbols: Symbols): void {
  for (const name of [...signature.params, "caller", "kwargs", "varargs"]) symbols.parameter(name);
  for (const e of signature.defaults) expression(e, symbols);
}

function parameters(target: Target, symbols: Symbols): void {
  if (target.type === "name") symbols.parameter(target.name);
  else if (target.type === "targets") for (const item of target.items) parameters(item, symbols);
}

function assigned(target: Target, symbols: Symbols): void {
  if (target.type === "name") symbols.store(target.name);
  else if (target.type === "attribute") symbols.load(target.namespace);
  else for (const item of target.items) assigned(item, symbols);
}

/** What a statement reads and assigns in its own frame. */
function statement(s: Stmt, symbols: Symbols): void {
  if (s.type === "if") {
    condition(s, symbols);
    return;
  }
  for (const e of insideOf(s).here) expression(e, symbols);
  if (s.type === "filter block") expression(s.filter, symbols);
  if (s.type === "set" || s.type === "set block") assigned(s.target, symbols);
  if (s.type === "macro") symbols.store(s.name);
}

function condition(s: Extract<Stmt, { type: "if" }>, symbols: Symbols): void {
  const [[test, body], ...elifs] = s.branches as [[Expr, Stmt[]], ...[Expr, Stmt[]][]];
  expression(test, symbols);
  const branch = (statements: readonly Stmt[]) => {
    const inner = symbols.copy();
    for (const x of statements) statement(x, inner);
    return inner;
  };
  // Each elif is a condition of its own inside the second branch.
  const between = elifs.map((b): Stmt => ({ type: "if", branches: [b], otherwise: [] }));
  symbols.join([branch(body), branch(between), branch(s.otherwise)]);
}

function expression(e: Expr, symbols: Symbols): void {
  if (e.type === "name") symbols.load(e.name);
  for (const part of partsOf(e)) if (part) expression(part, symbols);
}
