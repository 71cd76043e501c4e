/** Random numbers from a seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A template by a grammar whose every production makes, repeats or walks something large. */
export function hostileTemplate(random: () => number): string {
  const pick = <T>(...options: T[]): T => options[Math.floor(random() * options.length)]!;
  const big = () => pick("99", "999", "9999", "99999", "400000", "10 ** 9", "7 ** 20", "ns.n");
  const name = () => pick("ns.a", "ns.b", "ns.c");
  const text = (d: number): string =>
    d === 0
      ? pick("'x'", "'ab,'", "'\u4e2d'", "'\ud83d\ude00'", "' \\n'", "'<'", "ns.s")
      : pick(
          () => `(${text(d - 1)} * ${big()})`,
          () => `(${text(d - 1)} ~ ${value(d - 1)})`,
          () => `(${text(d - 1)} + ns.s)`,
          () => `(${text(d - 1)}).replace(${text(0)}, ${text(d - 1)})`,
          () =>
            `(${text(d - 1)} | ${pick("upper", "lower", "title", "trim", "indent(999)", "e | string", "reverse", "capitalize", "tojson", "tojson(indent=99)", "string")})`,
          () => `(${value(d - 1)} | ${pick("tojson", "string", "tojson(indent='xxxxxxxx')", "tojson(sort_keys=true)")})`,
          () => `${text(0)}.join(${list(d - 1)} | map('string'))`,
          () => `(${list(d - 1)} | join(${text(d - 1)}))`,
          () => `(${text(d - 1)})[${pick("::-1", "1:", ":-1", "::2", "0")}]`,
          () => `m(${value(d - 1)})`,
        )();
  const list = (d: number): string =>
    d === 0
      ? pick("[1, 2]", "range(99999)", "messages", "ns.a", "[ns.a, ns.b]", "(ns.a, ns.a)")
      : pick(
          () => `(${list(d - 1)} | list * ${big()})`,
          () => `((${list(d - 1)} | list) + (${list(d - 1)} | list))`,
          () =>
            `(${list(d - 1)} | ${pick("sort", "sort(reverse=true)", "unique | list", "reverse | list", "map('string') | list", "select | list", "map('list') | list", "list")})`,
          () => `[${value(d - 1)}, ${value(d - 1)}]`,
          () => `(${text(d - 1)}).${pick("split()", "split(',')", "rsplit(',', 999)", "splitlines()", "partition('b')")}`,
          () => `(${text(d - 1)} | list)`,
          () => `(${list(d - 1)})[${pick("::-1", "1:", "::2")}]`,
          () => `(dict(a=${value(d - 1)}).items() | list)`,
        )();
  const value = (d: number): string =>
    d === 0
      ? pick("1", "ns.n", "ns.a", "ns.s", "messages")
      : pick(
          () => text(d),
          () => list(d),
          () => `{'a': ${value(d - 1)}, 'b': ${name()}}`,
          () => `(${list(d - 1)} | ${pick("length", "sum", "max", "min", "first", "last")})`,
          () => `(${value(d - 1)} ${pick("==", "in", "<", "!=")} ${list(d - 1)})`,
          () => `(${text(d - 1)}).${pick("count", "find", "rfind", "startswith")}(${text(d - 1)})`,
          () => `(ns.n ${pick("*", "**", "+", "//", "%")} ${big()})`,
          () => `(${text(d - 1)} in ${text(d - 1)})`,
        )();
  const statement = (d: number): string =>
    pick(
      () => `{{ ${value(3)} }}`,
      () => `{% set ${name()} = ${value(3)} %}`,
      () => `{% set ns.s = ${text(2)} %}`,
      () => `{% set ns.n = (${value(1)} | int) + ns.n ${pick("* ns.n", "* 9", "+ 1")} %}`,
      () => (d > 0 ? `{% for x in ${list(2)} %}${body(d - 1)}{% endfor %}` : `{{ ${value(2)} }}`),
      () =>
        d > 0
          ? `{% for x in range(${pick("9", "99", "9999")}) %}${body(d - 1)}{% endfor %}`
          : `{% set ${name()} = [${name()}, ${name()}] %}`,
      () => (d > 0 ? `{% set ns.s %}${body(d - 1)}{% endset %}` : "{{ ns.s }}"),
      () => (d > 0 ? `{% filter ${pick("upper", "indent", "replace('x', ns.s)")} %}${body(d - 1)}{% endfilter %}` : "{{ ns.a }}"),
      () => `{% if ${value(2)} %}${d > 0 ? body(d - 1) : ""}{% endif %}`,
    )();
  const body = (d: number): string => Array.from({ length: 1 + Math.floor(random() * 3) }, () => statement(d)).join("");
  return `{% set ns = namespace(s='xy', n=3, a=[1], b=[2], c=[3]) %}{% macro m(v) %}{{ v }}${pick("", "{{ m([v, v]) }}", "{{ v }}")}{% endmacro %}${body(4)}`;
}
