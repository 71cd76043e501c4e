/** JSON as a tree that also holds what JSON.stringify never writes: keys twice, numbers out of range, broken literals. */
import type { Random } from "./random.js";

export type Node = { raw: string } | { list: Node[] } | { pairs: { key: string; value: Node }[] };

export function toNode(value: unknown): Node {
  if (Array.isArray(value)) return { list: value.map(toNode) };
  if (typeof value === "object" && value !== null)
    return { pairs: Object.entries(value).map(([key, part]) => ({ key: JSON.stringify(key), value: toNode(part) })) };
  return { raw: JSON.stringify(value) };
}

export function print(node: Node): string {
  if ("raw" in node) return node.raw;
  if ("list" in node) return `[${node.list.map(print).join(",")}]`;
  return `{${node.pairs.map(({ key, value }) => `${key}:${print(value)}`).join(",")}}`;
}

/** Values that programs trip over. */
const RAW = [
  "null true false 0 -0 -1 1 2 0.5 1.5 -3 1e999 -1e999 1e-400 NaN Infinity 1e21 2147483647 2147483648 4294967296 1099511627776",
  "9007199254740991 9007199254740992 9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616",
  '"" "x" "0" "null" "\\ud800" "\\udc00\\ud800" "\\u0000" "../outside/secret.json" "/etc/passwd" "a/../../b" "pipe" "link" "\\ufeff"',
  '"__proto__" "constructor" "(a+)+$" "(.*)*x" "{{" "{%" [] {} [[]] [null] {"a":1} {"__proto__":{"polluted":1}}',
]
  .join(" ")
  .split(" ");
const KEYS = [
  "__proto__",
  "constructor",
  "toString",
  "length",
  "hasOwnProperty",
  "",
  "unknown_key",
  "\\u005f_proto__",
  "auto_map",
  "0",
];

const nested = (depth: number, open: string, close: string): Node => ({ raw: `${open.repeat(depth)}${close.repeat(depth)}` });

function replacement(random: Random): Node {
  switch (random.int(10)) {
    case 0:
      return nested(random.pick([100, 129, 5000, 100_000]), "[", "]");
    case 1:
      return nested(random.pick([100, 129, 5000]), '{"a":', "}");
    case 2:
      return { raw: `"${random.pick(["a", "\\u00e9", "(", "{{ x }}", "\\\\"]).repeat(1 << random.int(17))}"` };
    case 3:
      return { list: Array.from({ length: 1 << random.int(15) }, () => ({ raw: random.pick(RAW) })) };
    default:
      return { raw: random.pick(RAW) };
  }
}

interface Place {
  get: Node;
  set(node: Node): void;
  siblings: unknown[];
  index: number;
}

function places(root: { node: Node }): Place[] {
  const found: Place[] = [{ get: root.node, set: (node) => (root.node = node), siblings: [], index: 0 }];
  const visit = (node: Node) => {
    if ("list" in node)
      for (const [index, part] of node.list.entries()) {
        found.push({ get: part, set: (other) => (node.list[index] = other), siblings: node.list, index });
        visit(part);
      }
    else if ("pairs" in node)
      for (const [index, pair] of node.pairs.entries()) {
        found.push({ get: pair.value, set: (other) => (pair.value = other), siblings: node.pairs, index });
        visit(pair.value);
      }
  };
  visit(root.node);
  return found;
}

const clone = (part: unknown) => structuredClone(part);

/** One change somewhere in the tree. */
export function mutateJson(tree: Node, random: Random): Node {
  const root = { node: tree };
  const all = places(root);
  const place = all[all.length > 1 && random.chance(0.97) ? 1 + random.int(all.length - 1) : 0]!;
  const other = random.pick(all);
  const { siblings, index } = place;
  switch (random.int(12)) {
    case 0:
      siblings.splice(index, 1);
      break;
    case 1: // the same key twice, or an element more
      siblings.splice(random.int(siblings.length + 1), 0, clone(siblings[index] ?? { raw: "0" }));
      break;
    case 2:
      for (let i = 1 << random.int(13); i > 0 && siblings.length > 0; i--) siblings.push(siblings[index]);
      break;
    case 3: {
      const pair = siblings[index] as { key?: string } | undefined;
      if (pair?.key !== undefined)
        pair.key = random.chance(0.5) ? `"${random.pick(KEYS)}"` : (random.pick(siblings) as { key: string }).key;
      break;
    }
    case 4: {
      const here = place.get;
      place.set(clone(other.get) as Node);
      other.set(here);
      break;
    }
    case 5:
      place.set({ list: [place.get] });
      break;
    case 6:
    case 7:
      if ("raw" in place.get) place.set({ raw: nudged(place.get.raw, random) });
      break;
    case 8:
      siblings.reverse();
      break;
    default:
      place.set(replacement(random));
  }
  return root.node;
}

/** A number near or far, a text changed a little. */
function nudged(raw: string, random: Random): string {
  const value = Number(raw);
  if (!Number.isNaN(value) && raw !== "")
    return String(random.pick([value + 1, value - 1, -value, value * 2, value * 2 ** random.int(60), value / 3, value + 0.5]));
  if (!raw.startsWith('"')) return random.pick(RAW);
  const at = 1 + random.int(raw.length);
  return `${raw.slice(0, at)}${random.pick(["x", "\\", '"', ".", "/", "\\n", "é", "(", "*", " "])}${raw.slice(at + random.int(2))}`;
}
