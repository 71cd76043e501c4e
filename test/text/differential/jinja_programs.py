"""Random small Jinja programs, rendered by Python: python jinja_programs.py SEED COUNT > cases.jsonl

Needs jinja2 3.1.6 and transformers 5.23.0 (without torch). Each line is a case of compare.ts: the template, its variables,
and `expected` text or the `error` Python raised.
"""

import json
import random
import sys

from python_render import render

R = random.Random(int(sys.argv[1]))
WORDS = ["a", "b", " ", "", "hello world", "  pad\t", "x,y,,z", "<think>\nhm\n</think>\n\nok", "Äß é", "日本 語", "😀🇩🇪", "\u2028line",
         "it's", 'say "hi"', "a\\b", "\r\n", "line1\nline2\n\n  line3", "user", "ASSISTANT", "TiTle-case (word)", "\x1cq\x85", "12", "-3.5",
         " 7 ", "1e3", "\ufeffbom", "e\u0301", "ǅ", "Σίσυφος ΣΑΣ", "{{ x }}", "0", "None", "tool_call", "\u00a0nbsp\u3000", "²", "x" * 40]


def literal(v):
    if isinstance(v, str):
        out = "".join({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c, c) for c in v)
        return f"'{out}'"
    if v is None:
        return "none"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, (list, tuple)):
        body = ", ".join(literal(x) for x in v)
        return f"[{body}]" if isinstance(v, list) else f"({body}{',' if len(v) == 1 else ''})"
    if isinstance(v, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(x)}" for k, x in v.items()) + "}"
    return repr(v)


def scalar():
    return R.choice([lambda: R.choice(WORDS), lambda: R.choice(WORDS), lambda: R.randint(-5, 20), lambda: R.choice([1.0, 0.5, -2.5, 1e16, 1e-5, 0.1, 3.14159, 100.0, 2.675, 1e22]),
                     lambda: R.choice([True, False]), lambda: None, lambda: R.choice([2**53, 2**63, -(2**70), 12345678901234567890])])()


def data(depth=2):
    if depth == 0 or R.random() < 0.5:
        return scalar()
    if R.random() < 0.5:
        return [data(depth - 1) for _ in range(R.randint(0, 3))]
    return {R.choice(["k", "role", "content", "name", "items", "a b", "é"]): data(depth - 1) for _ in range(R.randint(0, 3))}


def rows():
    return [{"role": R.choice(["user", "assistant", "system"]), "content": R.choice(WORDS), "n": R.randint(0, 3)} for _ in range(R.randint(0, 4))]


NAMES = ["s", "t", "n", "f", "xs", "d", "rows", "u", "flag", "nothing"]


def string(depth):
    return R.choice([
        lambda: literal(R.choice(WORDS)),
        lambda: R.choice(["s", "t"]),
        lambda: f"{string(depth - 1)}.{R.choice(['strip()', 'lstrip()', 'rstrip()', 'upper()', 'lower()', 'title()', 'capitalize()'])}",
        lambda: f"{string(depth - 1)}.{R.choice(['strip', 'lstrip', 'rstrip', 'removeprefix', 'removesuffix'])}({literal(R.choice(WORDS))})",
        lambda: f"{string(depth - 1)}.replace({literal(R.choice(WORDS))}, {literal(R.choice(WORDS))}{R.choice(['', '', ', 1', ', 0', ', -1'])})",
        lambda: f"({string(depth - 1)} | {R.choice(['trim', 'upper', 'lower', 'title', 'capitalize', 'string', 'reverse', 'indent', 'indent(2, true)', 'indent(width=1, first=false, blank=true)', 'first', 'last', 'length', 'list', 'tojson', 'int', 'float', 'wordcount', 'e', 'safe'])})",
        lambda: f"({string(depth - 1)} | replace({literal(R.choice(WORDS))}, {literal(R.choice(WORDS))}))",
        lambda: f"({string(depth - 1)} ~ {expr(depth - 1)})",
        lambda: f"({string(depth - 1)} + {string(depth - 1)})",
        lambda: f"{string(depth - 1)}[{R.choice(['0', '-1', '1:', ':-1', '::2', '::-1', '1:3', '5', ':none', '-3:-1'])}]",
        lambda: f"{string(depth - 1)}.split({R.choice(['', literal(','), literal(' '), 'none, 1', literal('</think>'), literal('a') + ', 1'])})[{R.choice(['0', '-1', '1'])}]",
        lambda: f"({expr(depth - 1)} | join({literal(R.choice(WORDS))}))",
        lambda: f"{literal(R.choice(WORDS))}.join({R.choice(['xs', '[s, t]', 's', 'rows'])})",
        lambda: f"({string(depth - 1)} * {R.choice(['2', '0', 'n', '-1'])})",
    ] if depth > 0 else [lambda: literal(R.choice(WORDS)), lambda: R.choice(["s", "t"])])()


def number(depth):
    return R.choice([
        lambda: literal(R.choice([0, 1, 2, 7, -3, 1.5, 0.1, 1_000, 2**53])),
        lambda: R.choice(["n", "f"]),
        lambda: f"({number(depth - 1)} {R.choice(['+', '-', '*', '//', '%', '/', '**'])} {number(depth - 1)})",
        lambda: f"(-{number(depth - 1)})",
        lambda: f"({R.choice(['xs', 'rows', 's', 'd', 'nothing'])} | {R.choice(['length', 'count'])})",
        lambda: f"({expr(depth - 1)} | {R.choice(['int', 'float', 'abs', 'round', 'round(1)', 'int(7)', 'sum', 'round(2, method=' + repr(R.choice(['ceil', 'floor', 'common'])) + ')'])})",
        lambda: f"{string(depth - 1)}.{R.choice(['find', 'rfind', 'count'])}({literal(R.choice(WORDS))})",
        lambda: R.choice(["1e3", "1_0.5e-1", "0x1F", "0b11", "0o7", "2.5E2"]),
    ] if depth > 0 else [lambda: literal(R.choice([0, 1, 2, 7, -3, 1.5])), lambda: "n"])()


def sequence(depth):
    return R.choice([
        lambda: R.choice(["xs", "rows", "s", "d", "nothing", "rows[1:]", "rows[::-1]", "d.items()", "d.keys()", "d.values()", "d | items", "range(n)", "range(1, 9, 3)", "range(3)[1:]"]),
        lambda: "[" + ", ".join(expr(depth - 1) for _ in range(R.randint(0, 3))) + R.choice(["", ","] if depth > 5 else [""]) + "]",
        lambda: "(" + ", ".join(expr(depth - 1) for _ in range(2)) + ")",
        lambda: f"({sequence(depth - 1)} | {R.choice(['list', 'sort', 'unique', 'reverse', 'select', 'reject', 'dictsort', 'first', 'last', 'min', 'max', 'tojson', 'map(' + repr('upper') + ')', 'select(' + repr('string') + ')', 'batch(2)', 'sort(reverse=true)', 'unique | list'])})",
        lambda: f"(rows | {R.choice(['selectattr', 'rejectattr'])}('role', '{R.choice(['equalto', 'eq', 'ne', '==', 'in', 'string'])}', {R.choice([literal('user'), literal(['user', 'system'])])}))",
        lambda: f"(rows | {R.choice(['selectattr', 'rejectattr'])}({literal(R.choice(['role', 'n', 'missing', 'content']))}))",
        lambda: f"(rows | map(attribute={literal(R.choice(['role', 'n', 'missing', 'content']))}{R.choice(['', ', default=1'])}))",
        lambda: f"(rows | sort(attribute={literal(R.choice(['role', 'n', 'n,role', 'content']))}{R.choice(['', ', reverse=true', ', case_sensitive=true'])}))",
        lambda: f"({sequence(depth - 1)} + {sequence(depth - 1)})",
        lambda: f"{string(depth - 1)}.{R.choice(['split()', 'rsplit(none, 1)', 'splitlines()', 'partition(' + repr('a') + ')', 'split(' + repr(',') + ')', 'rsplit(' + repr(' ') + ', 2)', 'split(maxsplit=1)'])}",
    ] if depth > 0 else [lambda: R.choice(["xs", "rows", "s", "d"])])()


def mapping(depth):
    return R.choice([
        lambda: R.choice(["d", "rows[0]", "messages[0]"]),
        lambda: "{" + ", ".join(f"{literal(R.choice(['k', 'j', 'content']))}: {expr(depth - 1)}" for _ in range(R.randint(0, 2))) + "}",
        lambda: f"dict(k={expr(max(0, depth - 1))})",
    ])()


def boolean(depth):
    return R.choice([
        lambda: R.choice(["true", "false", "flag", "True"]),
        lambda: f"({expr(depth - 1)} {R.choice(['==', '!=', '<', '<=', '>', '>='])} {expr(depth - 1)})",
        lambda: f"({number(depth - 1)} {R.choice(['==', '!=', '<', '>='])} {number(depth - 1)} {R.choice(['<', '==', '!='])} {number(depth - 1)})",
        lambda: f"({expr(depth - 1)} {R.choice(['in', 'not in'])} {sequence(depth - 1)})",
        lambda: f"({expr(depth - 1)} is {R.choice(['', 'not '])}{R.choice(['defined', 'none', 'string', 'number', 'mapping', 'sequence', 'iterable', 'true', 'false', 'integer', 'float', 'boolean', 'odd', 'even', 'upper', 'lower', 'undefined', 'callable', 'divisibleby(2)', 'divisibleby 3', 'in xs', 'in [1, s]', 'equalto s', 'sameas none', 'sameas true', 'eq 1', 'gt(1)', 'escaped'])})",
        lambda: f"(not {boolean(depth - 1)})",
        lambda: f"({boolean(depth - 1)} {R.choice(['and', 'or'])} {boolean(depth - 1)})",
        lambda: f"{string(depth - 1)}.{R.choice(['startswith', 'endswith'])}({R.choice([literal(R.choice(WORDS)), '(' + literal('a') + ', s)'])})",
        lambda: f"{string(depth - 1)}.{R.choice(['isdigit', 'isalpha', 'isalnum', 'isspace', 'isupper', 'islower', 'isdecimal'])}()",
    ] if depth > 0 else [lambda: "flag", lambda: "true"])()


def expr(depth):
    if depth <= 0:
        return R.choice([lambda: literal(scalar()), lambda: R.choice(NAMES)])()
    return R.choice([string, string, number, sequence, mapping, boolean, other])(depth)


def other(depth):
    return R.choice([
        lambda: R.choice(NAMES),
        lambda: literal(data()),
        lambda: f"({expr(depth - 1)} if {boolean(depth - 1)} else {expr(depth - 1)})",
        lambda: f"({expr(depth - 1)} if {boolean(depth - 1)})",
        lambda: f"{mapping(depth - 1)}.{R.choice(['k', 'content', 'items', 'missing', 'get(' + repr('k') + ')', 'get(' + repr('q') + ', 1)', 'keys() | list', 'copy()'])}",
        lambda: f"{mapping(depth - 1)}[{R.choice([literal('k'), literal('items'), literal('content'), 's', '0', 'none'])}]",
        lambda: f"{sequence(depth - 1)}[{R.choice(['0', '-1', '1:', '::-1', 'n', 's', ':2', 'true', literal('role')])}]",
        lambda: f"({expr(depth - 1)} | {R.choice(['tojson', 'tojson(indent=2)', 'tojson(ensure_ascii=true)', 'tojson(sort_keys=true)', 'tojson(separators=(' + repr(',') + ',' + repr(':') + '))', 'default(1)', 'default(' + repr('z') + ', true)', 'd(s)', 'string', 'list', 'items', 'dictsort', 'first', 'last', 'min', 'max', 'length', 'frobnicate', 'tojson | safe'])})",
        lambda: f"{expr(depth - 1)} {R.choice(['+', '-', '~', '*', '%', '//', 'and', 'or'])} {expr(depth - 1)} {R.choice(['~', '+', '-', '*', '**'])} {expr(depth - 1)}",
        lambda: f"nothing.{R.choice(['x', 'strip()'])}",
        lambda: R.choice(["ns", "ns.v", "ns.w", "m(1)", "m(b=s)", "m()", "loop.index", "loop", "loop.last", "loop.cycle('a', 'b')", "loop.depth", "m"]),
        lambda: f"not {expr(depth - 1)}",
        lambda: f"-{number(depth - 1)} | {R.choice(['abs', 'string', 'int'])}",
    ])()


def tag(body):
    return R.choice(["{%", "{%-", "{%", "{%+"]) + R.choice([" ", ""]) + body + R.choice([" ", ""]) + R.choice(["%}", "-%}", "%}", "+%}"])


def text():
    return R.choice(["", "", " ", "\n", "\n  ", "  \n", "txt", " txt\n", "\n\n", "a-}\n", "100%}\n", "#}\n", "\t", "{ %", "}}", "\u00a0\n", "\r\n", "'q'", "{# c #}", "{#- c -#}\n", "{# c #}\n", "{#+ c +#}\n",
                     "{% raw %}{{ r }}\n{% endraw %}", "{%- raw -%} {% x %} {%- endraw -%}\n", "é😀"])


def statement(depth):
    b = lambda: body(depth - 1)
    return R.choice([
        lambda: R.choice(["{{", "{{-", "{{+" if R.random() < 0.1 else "{{"]) + " " + expr(3) + " " + R.choice(["}}", "-}}", "}}"]),
        lambda: R.choice(["{{", "{{-"]) + expr(2) + R.choice(["}}", "-}}"]),
        lambda: tag(f"if {expr(2)}") + b() + R.choice(["", tag(f"elif {boolean(2)}") + b(), tag("else") + b()]) + tag("endif"),
        lambda: tag(f"for {R.choice(['x', 'k, v', 'x, y', '(x, y)', 'm'])} in {sequence(2)}{R.choice(['', '', ' if ' + boolean(2), ' if ns.v'])}") + b() + text() + R.choice(["{{ loop.index }}", "{{ loop.last }}{{ x }}", "{{ x }}", "{{ k }}", "{{ loop.previtem }}", "{{ loop.revindex0 }}", "{{ loop.nextitem }}", "{% if loop.first %}F{% endif %}", "{% if x %}{% break %}{% endif %}", "{% if loop.index == 2 %}{% continue %}{% endif %}z", "{{ loop.changed(x) }}"]) + R.choice(["", tag("else") + b()]) + tag("endfor"),
        lambda: tag(f"set {R.choice(['a', 's', 'x', 'a, b', 'ns.v', 'ns.w', 'd.k', 'n'])} = {expr(2)}"),
        lambda: tag(f"set {R.choice(['a', 's', 'ns.v'])}{R.choice(['', ' | upper', ' | trim'])}") + b() + tag("endset"),
        lambda: tag("set ns = namespace(" + R.choice(["v=1", "v=s, w=0", "d", "", "v=none"]) + ")"),
        lambda: tag(f"macro m({R.choice(['', 'a', 'a, b=s', 'a=1, b=a', 'b=nothing'])})") + b() + R.choice(["{{ a }}", "{{ b }}", "{{ kwargs }}", "{{ varargs }}", "{{ caller() }}", "{{ a }}{{ n }}"]) + tag("endmacro"),
        lambda: tag(f"call {R.choice(['', '(x) '])}m({R.choice(['', '1'])})") + b() + tag("endcall"),
        lambda: tag(f"filter {R.choice(['upper', 'trim', 'replace(' + repr('a') + ', s)', 'indent', 'upper | trim'])}") + b() + tag("endfilter"),
        lambda: tag(f"with {R.choice(['a = ' + expr(1), 'a = 1, b = a', ''])}") + b() + R.choice(["{{ a }}", "{{ b }}", ""]) + tag("endwith"),
        lambda: tag("generation") + b() + tag("endgeneration"),
        lambda: "{{ " + R.choice(["a", "b", "x", "k", "ns.v", "ns.w", "s", "n", "v"]) + " }}",
    ] if depth > 0 else [lambda: "{{ " + expr(2) + " }}", lambda: "{{ " + R.choice(["a", "x", "s", "ns.v", "m(s)", "m()"]) + " }}"])()


def body(depth):
    return "".join(text() + statement(depth) for _ in range(R.randint(0, 2))) + text()


def damaged(template):
    """Sometimes a template with a mistake in it."""
    if R.random() > 0.05 or not template:
        return template
    i = R.randrange(len(template))
    return template[:i] + R.choice(["", "}", "{", "(", "|", ",", " ", "%}", "'", "=", "not "]) + template[i + R.randint(0, 2):]


for _ in range(int(sys.argv[2])):
    variables = {"s": R.choice(WORDS), "t": R.choice(WORDS), "n": R.randint(-2, 5), "f": R.choice([1.0, 2.5, -0.1, 1e16, 0.125]), "flag": R.random() < 0.5,
                 "xs": [scalar() for _ in range(R.randint(0, 4))], "d": {k: scalar() for k in R.sample(["k", "items", "é", "B", "a"], R.randint(0, 3))}, "rows": rows()}
    kind = R.random()
    template = "{{ " + expr(3) + " }}" if kind < 0.35 else text() + "".join(statement(2) + text() for _ in range(R.randint(1, 4)))
    case = {"template": damaged(template), "messages": [{"role": "user", "content": "hi"}], "variables": variables}
    print(json.dumps(render(case), ensure_ascii=True))
