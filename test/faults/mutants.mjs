/** One step or check of a source file taken away at a time. */
import { constants } from "node:fs";
import ts from "typescript";

const { SyntaxKind: Kind } = ts;
const COMPARISONS = new Map([
  [Kind.LessThanToken, "<="],
  [Kind.LessThanEqualsToken, "<"],
  [Kind.GreaterThanToken, ">="],
  [Kind.GreaterThanEqualsToken, ">"],
  [Kind.EqualsEqualsEqualsToken, undefined],
  [Kind.ExclamationEqualsEqualsToken, undefined],
]);
const SUMS = new Map([
  [Kind.PlusToken, "-"],
  [Kind.MinusToken, "+"],
]);
const FLAGS = new Map([
  ['"wx"', '"w"'],
  ['"a"', '"w"'],
]);
const operatorOf = (node) => (ts.isBinaryExpression(node) ? node.operatorToken.kind : undefined);
const isJoin = (node) => [Kind.AmpersandAmpersandToken, Kind.BarBarToken].includes(operatorOf(node));
const isCheck = (node) =>
  COMPARISONS.has(operatorOf(node)) || isJoin(node) || (ts.isPrefixUnaryExpression(node) && node.operator === Kind.ExclamationToken);
const isText = (node) => ts.isStringLiteralLike(node) || ts.isTemplateExpression(node);

const isCatch = (node) => ts.isCallExpression(node) && ts.isPropertyAccessExpression(node.expression) && node.expression.name.text === "catch";
/** A condition that lets nothing pass: without it, its check is gone. The opposite would stop everything. */
const isGuard = (node) => {
  const [first, ...more] = ts.isBlock(node.thenStatement) ? node.thenStatement.statements : [node.thenStatement];
  return !node.elseStatement && more.length === 0 && [Kind.ThrowStatement, Kind.ReturnStatement, Kind.ContinueStatement].includes(first?.kind);
};

/**
 * Mutants of a file, `{ file, within, key, name, text, ignoresError }`:
 * - a statement that does something, left out; an awaited one also with its error ignored; `.catch(…)` left out
 * - a throw left out; a callback that calls something, empty
 * - a condition or comparison always true, always false; one part of && or || left out; < for <=
 * - `true` for `false`, + for -, an exclusive or appending open not so, a flag of the system not set
 * - a list or a spread in an object, empty; what stands behind ??, left out
 */
export function mutants(file, text) {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found = new Map();
  let within = "";
  const add = (node, ...replacements) => {
    const begin = node.getStart();
    for (const replacement of replacements) {
      const line = source.getLineAndCharacterOfPosition(begin).line + 1;
      const change = `${within}: ${node.getText().replace(/\s+/g, " ").slice(0, 90)} → ${replacement.replace(/\s+/g, " ").slice(0, 90)}`;
      const ignoresError = replacement.endsWith(".catch(() => {});");
      const mutant = { file, within, key: `${file} ${change}`, name: `${file}.ts:${line} ${change}`, ignoresError };
      found.set(`${begin}-${node.end}-${replacement}`, { ...mutant, text: text.slice(0, begin) + replacement + text.slice(node.end) });
    }
  };
  const condition = (node) => add(node, "true", "false");
  const rules = (node) => {
    if (ts.isExpressionStatement(node)) {
      add(node, ";");
      if (ts.isAwaitExpression(node.expression)) {
        const call = node.expression.expression.getText();
        if (!isCatch(node.expression.expression)) add(node, `await (async () => ${call})().catch(() => {});`);
      }
    }
    if (ts.isThrowStatement(node)) add(node, ";");
    if (ts.isArrowFunction(node) && ts.isCallExpression(node.body) && !isText(node.body)) add(node.body, "(undefined as never)");
    if (isCatch(node))
      add(node, node.expression.expression.getText());
    if (ts.isIfStatement(node) && isGuard(node)) add(node.expression, "false");
    else if (ts.isIfStatement(node) || ts.isWhileStatement(node)) condition(node.expression);
    if (ts.isForStatement(node) && node.condition) add(node.condition, "false");
    if (ts.isConditionalExpression(node)) condition(node.condition);
    if (isCheck(node) && !isJoin(node.parent) && !(ts.isIfStatement(node.parent) && isGuard(node.parent))) condition(node);
    if (isJoin(node))
      for (const part of [node.left, node.right])
        if (operatorOf(part) !== operatorOf(node)) add(part, operatorOf(node) === Kind.BarBarToken ? "false" : "true");
    const other = COMPARISONS.get(operatorOf(node));
    if (other) add(node.operatorToken, other);
    if (SUMS.has(operatorOf(node)) && !isText(node.left) && !isText(node.right)) add(node.operatorToken, SUMS.get(operatorOf(node)));
    if (node.kind === Kind.TrueKeyword && !ts.isLiteralTypeNode(node.parent)) add(node, "false");
    if (node.kind === Kind.FalseKeyword && !ts.isLiteralTypeNode(node.parent)) add(node, "true");
    if (FLAGS.has(node.getText()) && ts.isStringLiteral(node)) add(node, FLAGS.get(node.getText()));
    if (ts.isPropertyAccessExpression(node) && node.expression.getText() === "constants" && constants[node.name.text] !== 0) add(node, "0");
    if (ts.isArrayLiteralExpression(node) && node.elements.length > 0 && !ts.isSpreadElement(node.parent)) add(node, "[]");
    if (ts.isSpreadAssignment(node)) add(node, "...{}");
    if (operatorOf(node) === Kind.QuestionQuestionToken) add(node, node.left.getText());
  };
  const visit = (node) => {
    const outer = within;
    if (node.name && (ts.isFunctionDeclaration(node) || ts.isMethodDeclaration(node) || (ts.isVariableDeclaration(node) && node.parent.parent.parent === source)))
      within = node.name.getText().replace("#", "");
    if (!ts.isTypeNode(node) && !ts.isInterfaceDeclaration(node)) {
      rules(node);
      ts.forEachChild(node, visit);
    }
    within = outer;
  };
  visit(source);
  return [...found.values()];
}
