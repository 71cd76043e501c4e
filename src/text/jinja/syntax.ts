import type { Value } from "./values.js";

/** Arguments of a call, filter or test. */
export interface Arguments {
  positional: Expr[];
  keywords: [name: string, value: Expr][];
  spread: Expr | undefined;
  keywordSpread: Expr | undefined;
}

export type Target =
  | { type: "name"; name: string }
  | { type: "attribute"; namespace: string; name: string }
  | { type: "targets"; items: Target[] };

export type Expr =
  | { type: "const"; value: Value }
  | { type: "name"; name: string }
  | { type: "list" | "tuple"; items: Expr[] }
  | { type: "dict"; items: [key: Expr, value: Expr][] }
  | { type: "attribute"; object: Expr; name: string }
  | { type: "item"; object: Expr; key: Expr }
  | { type: "slice"; parts: (Expr | undefined)[] }
  | { type: "call"; callee: Expr; args: Arguments }
  | { type: "filter"; input: Expr | undefined; name: string; args: Arguments }
  | { type: "test"; input: Expr; name: string; args: Arguments }
  | { type: "unary"; operator: "-" | "+" | "not"; operand: Expr }
  | { type: "binary"; operator: string; left: Expr; right: Expr }
  | { type: "concat"; items: Expr[] }
  | { type: "compare"; first: Expr; rest: [operator: string, operand: Expr][] }
  | { type: "condition"; test: Expr; yes: Expr; no: Expr | undefined };

/** Parameters of a macro, and which of the special names its body reads. */
export interface Signature {
  params: string[];
  /** Of the last parameters. */
  defaults: Expr[];
  caller: boolean;
  kwargs: boolean;
  varargs: boolean;
}

export type Stmt =
  | { type: "text"; value: string }
  | { type: "print"; value: Expr }
  | { type: "if"; branches: [test: Expr, body: Stmt[]][]; otherwise: Stmt[] }
  | { type: "for"; target: Target; source: Expr; test: Expr | undefined; body: Stmt[]; otherwise: Stmt[] }
  | { type: "set"; target: Target; value: Expr }
  | { type: "set block"; target: Target; filter: Expr | undefined; body: Stmt[] }
  | { type: "macro"; name: string; signature: Signature; body: Stmt[] }
  | { type: "call block"; call: Expr; signature: Signature; body: Stmt[] }
  | { type: "filter block"; filter: Expr; body: Stmt[] }
  | { type: "with"; bindings: [Target, Expr][]; body: Stmt[] }
  | { type: "generation"; body: Stmt[] }
  | { type: "break" | "continue" };

function argumentsOf(args: Arguments): (Expr | undefined)[] {
  return [...args.positional, ...args.keywords.map(([, e]) => e), args.spread, args.keywordSpread];
}

/** The expressions that an expression is made of. */
export function partsOf(e: Expr): (Expr | undefined)[] {
  switch (e.type) {
    case "const":
    case "name":
      return [];
    case "list":
    case "tuple":
    case "concat":
      return e.items;
    case "dict":
      return e.items.flat();
    case "attribute":
      return [e.object];
    case "item":
      return [e.object, e.key];
    case "slice":
      return e.parts;
    case "call":
      return [e.callee, ...argumentsOf(e.args)];
    case "filter":
    case "test":
      return [e.input, ...argumentsOf(e.args)];
    case "unary":
      return [e.operand];
    case "binary":
      return [e.left, e.right];
    case "compare":
      return [e.first, ...e.rest.map(([, operand]) => operand)];
    case "condition":
      return [e.test, e.yes, e.no];
  }
}

/** The expressions a statement reads in its own frame, those of the frames inside it, and the statements it holds. */
export function insideOf(s: Stmt): { here: Expr[]; within: Expr[]; bodies: Stmt[][] } {
  switch (s.type) {
    case "print":
    case "set":
      return { here: [s.value], within: [], bodies: [] };
    case "if":
      return { here: s.branches.map(([test]) => test), within: [], bodies: [...s.branches.map(([, body]) => body), s.otherwise] };
    case "for":
      return { here: [s.source], within: s.test ? [s.test] : [], bodies: [s.body, s.otherwise] };
    case "set block":
      return { here: [], within: s.filter ? [s.filter] : [], bodies: [s.body] };
    case "filter block":
      return { here: [], within: [s.filter], bodies: [s.body] };
    case "macro":
      return { here: [], within: s.signature.defaults, bodies: [s.body] };
    case "call block":
      return { here: [s.call], within: s.signature.defaults, bodies: [s.body] };
    case "with":
      return { here: s.bindings.map(([, value]) => value), within: [], bodies: [s.body] };
    case "generation":
      return { here: [], within: [], bodies: [s.body] };
    default:
      return { here: [], within: [], bodies: [] };
  }
}
