"""One small program for each rule of the language, rendered by Python: python jinja_language.py > cases/language.jsonl

Needs what jinja_programs.py needs. Each program stands for rules of src/text/jinja: what they print, or that they fail.
A program is a line of PROGRAMS; ⏎ is a line break in it.
"""

import json

from python_render import render

VARIABLES = {"s": "it's", "n": 5, "f": 2.5, "big": 2**63, "xs": [3, 1, 2], "d": {"b": 1, "a": "x", "C": None}, "none_": None, "emoji": "a😀b",
             "rows": [{"role": "user", "n": 2, "tags": ["x"]}, {"role": "System", "n": 1}], "flag": True, "html": "<a href='x'>\"&</a>"}

PROGRAMS = r"""
{{ ('nan' | float) }} {{ 'inf' | float }} {{ '-Infinity' | float }} {{ '+inf' | float }} {{ 'nope' | float }} {{ 'nope' | float(7) }} {{ [] | float('x') }}
{{ 'nan' | float | int(3) }}|{{ ' 12 ' | int }}|{{ '+1_000' | int }}|{{ '1.9' | int }}|{{ 'x' | int }}|{{ 'x' | int(9) }}|{{ true | int }}|{{ 2.9 | int }}|{{ -2.9 | int }}|{{ [] | int(4) }}|{{ 'inf' | int(6) }}|{{ '.5e1' | int }}|{{ none | int }}
{{ 'inf' | float | int }}
{{ nothing | int }}
{{ nothing | float }}
{{ true | float }} {{ 3 | float }} {{ '1_0.5' | float }} {{ '1__0' | float }}
{{ '12' | int(base=10) }} {{ '12' | int(0, 10) }}
{{ [2, 1, 3] | sort }} {{ [2, 1, 3] | sort(reverse=true) }} {{ ['b', 'A', 'a'] | sort }} {{ ['b', 'A', 'a'] | sort(case_sensitive=true) }}
{{ rows | sort(attribute='role') | map(attribute='role') | list }} {{ rows | sort(attribute='role,n') | map(attribute='n') | list }} {{ rows | map(attribute='tags.0') | list }}
{{ [[2, 'a'], [1, 'b']] | sort(attribute=1) }} {{ [[2, 'a'], [1, 'b']] | sort(attribute='0') }}
{{ [1, 'a'] | sort }}
{{ [none, 1] | sort }}
{{ rows | map(attribute='x', default='-') | list }}{{ rows | map(attribute='x', default=none) | list | length }}
{{ rows | map(attribute='x', other=1) | list }}
{{ rows | map | list }}
{{ [1, 2] | map('frobnicate') | list }}
{{ [1, 2] | map(1) | list }}
{{ none | map('upper') | list }} {{ [] | map('upper') | list }} {{ ['a'] | map('replace', 'a', 'b') | list }} {{ ['a', 'B'] | map('upper') | join }}
{{ [1, 0, 2] | select | list }} {{ [1, 0] | reject | list }} {{ [1, 2, 3, 4] | select('divisibleby', 2) | list }} {{ none | select | list }} {{ [1, 2] | reject('odd') | list }}
{{ rows | selectattr('tags') | list | length }} {{ rows | rejectattr('tags') | list | length }} {{ rows | selectattr('n', 'gt', 1) | map(attribute='role') | list }} {{ rows | selectattr('role', 'equalto', 'user') | list | length }}
{{ rows | selectattr | list }}
{{ [1] | select('frobnicate') | list }}
{{ [1] | select(none) | list }}
{{ [3, 1, 2] | max }} {{ [3, 1, 2] | min }} {{ [] | max }}| {{ rows | max(attribute='n') }} {{ ['b', 'A'] | min }} {{ ['b', 'B', 'a'] | max(case_sensitive=true) }}
{{ [1, 2] | sum }} {{ [1, 2.5] | sum(start=1) }} {{ rows | sum(attribute='n') }} {{ [] | sum }}
{{ ['a'] | sum }}
{{ [1] | sum(start='a') }}
{{ ['a', 'A', 'b', 'a'] | unique | list }} {{ ['a', 'A'] | unique(case_sensitive=true) | list }} {{ rows | unique(attribute='role') | list | length }} {{ [1, 1.0, true, none, none, (1, 2), (1, 2)] | unique | list }}
{{ [[1]] | unique | list }}
{{ [nothing, nothing] | unique | list | length }}
{{ 'abc' | first }}{{ '' | first }}{{ [] | first }}{{ xs | last }}{{ [] | last }}{{ 'abc' | last }}{{ emoji | list }}{{ emoji[1] }}{{ emoji | first }}
{% set g = xs | select %}{{ g | first }}{{ g | first }}{{ g | list }}{{ g | first }}
{{ (xs | select) | last }}
{{ 5 | first }}
{{ 'abc' | reverse }} {{ xs | reverse | list }} {{ xs | select | reverse }} {{ (1, 2) | reverse | list }}
{{ 5 | reverse }}
{{ [1, 'a', none, 1.5] | join('-') }} {{ rows | join(', ', attribute='role') }} {{ [] | join('x') }} {{ ['a', 'b'] | join }} {{ ['a', 'b'] | join(1) }}
{{ d | items | list }} {{ nothing | items | list }}
{{ 5 | items | list }}
{{ d | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ {'b': 1} | dictsort(by='nothing') }}
{{ [] | dictsort }}
{{ -3 | abs }} {{ -2.5 | abs }} {{ 4 | abs }} {{ true | abs }}
{{ 'a' | abs }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ -2.5 | round }} {{ 2.675 | round(2) }} {{ 5 | round }} {{ 7 | round(1) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.19 | round(1, 'floor') }} {{ 7 | round(1, 'ceil') }} {{ 7 | round(0, 'floor') }} {{ -0.0 | round }} {{ -1.26 | round(1) }} {{ 0.125 | round(2) }} {{ true | round }}
{{ 2.5 | round(0, 'up') }}
{{ 'a' | round }}
{{ 2.5 | round('a') }}
{{ 2.5 | round(1.5) }}
{{ 'a' | indent(5, 6, 7, 8) }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb\n\nc' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('>> ') }}|{{ '' | indent }}|{{ 'a\nb' | indent(width=1, first=true) }}
{{ 5 | indent }}
{{ 'ab' | replace('a', 'c') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'ab' | replace('', '-') }} {{ 'ab' | replace('', '-', 2) }} {{ 'ab' | replace('', '-', 0) }} {{ 55 | replace('5', 1) }} {{ 'aa' | replace('a', 'b', count=none) }}
{{ 'ab' | replace('a') }}
{{ 'ab' | replace('a', old='b', new='c') }}
{{ '  a ' | trim }}|{{ 'xax' | trim('x') }}|{{ 5 | trim }}|{{ 'xax' | trim(chars='x') }}|{{ ' a ' | trim(none) }}
{{ 'a' | trim(5) }}
{{ 'a' | trim(other='x') }}
{{ 'a' | upper('x') }}
{{ s | default('x') }} {{ nothing | default }}| {{ nothing | default('y') }} {{ '' | default('z', true) }} {{ 'q' | default('z', true) }} {{ 0 | d(1, boolean=true) }} {{ '' | default('z') }}|
{{ 'hello' | length }} {{ d | count }} {{ xs | length }} {{ emoji | length }} {{ range(5) | length }} {{ d.items() | length }} {{ nothing | length }}
{{ 5 | length }}
{{ (xs | select) | length }}
{% for x in xs %}{{ loop | length }}{% endfor %}
{{ d | list }} {{ 'ab' | list }} {{ range(3) | list }} {{ nothing | list }} {{ d.items() | list }} {{ (1, 2) | list }}
{{ 5 | list }}
{{ none | list }}
{{ 'hELLO wOrld' | title }} {{ "it's a-b (c) [d <e" | title }} {{ 'hELLO' | capitalize }} {{ '' | capitalize }} {{ '' | title }}
{{ html | e }} {{ html | escape }} {{ html | e | e }} {{ html | forceescape }} {{ html | safe }} {{ html | e | string }} {{ html | safe ~ '<' }}
{{ (html | e) is string }} {{ (html | e) is escaped }} {{ 'a' is escaped }} {{ (html | e) is defined }} {{ (html | e) is none }} {{ ('a' | e) == ('a' | e) }} {{ [('a' | e)] }} {{ ('a' | e) | tojson }}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ d | tojson(sort_keys=true) }} {{ xs | tojson(separators=(',', ':')) }} {{ {'a': [1]} | tojson(separators=['; ', ' = ']) }} {{ 'é\u007f' | tojson(ensure_ascii=true) }} {{ 'é"\n' | tojson }} {{ emoji | tojson(true) }}
{{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [[], {}, [1]] | tojson(indent='--') }} {{ [none, true, false, 1, 1.0, -0.0, big] | tojson }} {{ ['nan' | float, 'inf' | float, '-inf' | float] | tojson }} {{ (1, 'a') | tojson }} {{ [1] | tojson(indent=0) }} {{ {'é': 1} | tojson(true) }}
{{ nothing | tojson }}
{{ xs | tojson(indent=1.5) }}
{{ range(3) | tojson }}
{{ ('nan' | float, 'inf' | float, '-inf' | float, 0.0, -0.0, 1e16, 1e-5, 0.0001, 123456.789, -1.5, 1e100, 100.0) }}
{{ (1,) }} {{ () }} {{ (1, 2) }} {{ [none, true, 'a', 1.0] }} {{ {'k': (1,)} }} {{ range(3) }} {{ range(1, 3) }} {{ range(0, 9, 2) }} {{ range(5, 0, -2) }} {{ d.keys() }} {{ d.values() }} {{ d.items() }} {{ [nothing] }}
{{ ['\n\r\t\\', "it's", 'say "hi"', "'\"", 'é', '\x00\x7f\xa0', '\u200b\ufeff', '😀', '\U000e0001', ' '] }}
{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ 7 // 2 }} {{ 6 // 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -2 }} {{ 2 ** 70 }} {{ 0 ** 0 }} {{ 1 ** 5 }} {{ 0 ** 3 }} {{ 5 ** 0 }} {{ 3 - 5 }} {{ 3 * 4 }} {{ true + 1 }} {{ big + 1 }} {{ big * big }} {{ big - big }}
{{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ 6.0 % 3 }} {{ 6.0 % -3 }} {{ 0.5 // 2 }} {{ -0.0 // 2 }} {{ 0.0 // -2 }} {{ 1.5 + 1 }} {{ 1.5 - 1 }} {{ 1.5 * 2 }} {{ 1.5 / 2 }} {{ 4.7 // 0.1 }} {{ 1e308 // 1e-10 }} {{ 6.0 // 2.0 }} {{ 1.0 // 0.1 }} {{ 5e-324 // 3 }} {{ -5e-324 // 3e300 }} {{ 2.0 % 1.1 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1.5 / 0 }}
{{ 1.5 // 0 }}
{{ 1.5 % 0.0 }}
{{ 0 ** -1 }}
{{ 'a' * 3 }} {{ 3 * 'a' }} {{ [1] * 2 }} {{ 2 * [1] }} {{ (1, 2) * 2 }} {{ true * 'a' }} {{ 'a' * true }} {{ 'a' * 0 }}| {{ [1] * 0 }} {{ (1,) * -1 }} {{ [] * 3 }} {{ 'a' * -1 }}| {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }}
{{ 'a' * 'b' }}
{{ 'a' - 'b' }}
{{ {} * 2 }}
{{ 2 * {} }}
{{ 1.5 * 'a' }}
{{ [1] + (2,) }}
{{ [1] + 1 }}
{{ none + 1 }}
{{ -n }} {{ +n }} {{ -f }} {{ +f }} {{ -true }} {{ +true }} {{ not n }} {{ -big }} {{ - -3 }} {{ not not n }}
{{ -'a' }}
{{ +none }}
{{ 1 < 2 <= 2 }} {{ 2 > 1 >= 1 }} {{ 'a' < 'b' }} {{ 'a' <= 'a' }} {{ 'b' > 'a' }} {{ [1, 2] < [1, 3] }} {{ [1] < [1, 2] }} {{ (2,) > (1, 5) }} {{ 1 != 1.0 }} {{ true == 1 }} {{ big > 1.5 }} {{ big == big }} {{ '\uffff' < emoji }} {{ '😀' > '\uffff' }} {{ 'é' > 'z' }} {{ '😀' < '😁' }} {{ 1 < big }}
{{ '\uffff' < '😀' }} {{ '😀' < '\uffff' }} {{ ['😀', '\uffff', 'a'] | sort }}
{{ 'nan' | float < 1 }} {{ 'nan' | float == 'nan' | float }} {{ 1 <= 'nan' | float }} {{ ('nan' | float) != 1 }}
{{ 1 < 'a' }}
{{ {} < {} }}
{{ none < none }}
{{ [1] < (1,) }}
{{ {'a': 1} == {'a': 1.0} }} {{ {'a': 1} == {'a': 2} }} {{ {'a': 1} == {'b': 1} }} {{ {'a': 1} == {} }} {{ range(3) == range(3) }} {{ [1] == (1,) }} {{ none == none }} {{ nothing == missing }} {{ [1, 2] == [1, 2.0] }} {{ [1] == [1, 2] }} {{ 'a' == 1 }} {{ none != false }}
{{ range == range }} {{ namespace == range }}
{{ 'a' in 'abc' }} {{ 'a' not in 'abc' }} {{ 1 in [1, 2] }} {{ 'b' in d }} {{ 1 in d }} {{ 'b' in d.keys() }} {{ ('b', 1) in d.items() }} {{ 1 in d.values() }} {{ 2 in range(3) }} {{ 1 in nothing }} {{ 1 in (xs | select) }} {{ 5 in d.items() }} {{ none in [none] }} {{ 'long needle' in 'a' }}
{{ 1 in 'abc' }}
{{ 1 in none }}
{{ 1 in 5 }}
{{ [] in d }}
{{ [] in d.keys() }}
{{ ([], 1) in d.items() }}
{{ {} in {}.items() }}
{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abc'[9] }}| {{ xs[0] }} {{ xs[true] }} {{ xs[9] }}| {{ xs['a'] }}| {{ (1, 2)[1] }} {{ range(5)[2] }} {{ d['b'] }} {{ d['zz'] }}| {{ d[1] }}| {{ d.zz }}| {{ emoji[9] }}| {{ emoji[-1] }} {{ n[0] }}| {{ none['a'] }}| {{ d['items'] is callable }} {{ d[none] }}| {{ xs[1.5] }}|
{{ xs[0, 1] }}|{{ d[0, 1] }}|
{{ nothing['a'] }}
{{ nothing.a }}
{{ d.zz.y }}
{{ d['zz']['y'] }}
{{ xs[9][1] }}
{{ 'abcdef'[1:3] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[4:1:-1] }} {{ 'abc'[9:] }}| {{ 'abc'[none:true] }} {{ emoji[1:] }} {{ emoji[::-1] }} {{ xs[1:] }} {{ xs[::-1] }} {{ (1, 2, 3)[:2] }} {{ range(9)[2:5] }} {{ range(9)[::-2] }} {{ xs[:] }} {{ xs[::] }} {{ 'abc'[2:1] }}|
{{ xs[::0] }}
{{ xs['a':] }}
{{ xs[1.5:] }}
{{ xs[1:2, 3] }}
{{ ' a '.strip() }}|{{ 'xax'.strip('x') }}|{{ 'xax'.lstrip('x') }}|{{ 'xax'.rstrip('x') }}|{{ ' a'.strip(none) }}|{{ '😀a😀'.strip('😀') }}|{{ ''.strip() }}|{{ 'xx'.strip('x') }}|{{ '😀'.rstrip() }}
{{ 'a'.strip(5) }}
{{ 'a'.strip('a', 'b') }}
{{ 'a'.strip(chars='a') }}
{{ 'a b  c'.split() }} {{ 'a b  c'.split(' ') }} {{ ''.split() }} {{ '  '.split() }} {{ ''.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a b c'.rsplit(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b  c '.rsplit(none, 2) }} {{ 'a'.split(none, 3) }} {{ ' a  b '.split(none, 1) }} {{ 'a,b'.split(',', 5) }} {{ 'a b'.split(maxsplit=1) }} {{ 'a,b'.split(sep=',') }} {{ 'a b'.rsplit(none, 9) }} {{ 'a b'.split(none, 0) }} {{ 'ab cd'.rsplit(none, 1) }}
{{ 'a'.split('') }}
{{ 'a'.split(1) }}
{{ 'a'.split('a', 'b') }}
{{ 'a\nb\r\nc\x0bd\x1ce\x85f\u2028g\n'.splitlines() }} {{ ''.splitlines() }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith(('x', 'y')) }} {{ 'abc'.startswith(()) }} {{ 'abc'.startswith('') }}
{{ 'abc'.startswith(1) }}
{{ 'abc'.endswith(('x', 1)) }}
{{ 'abc'.startswith(['a']) }}
{{ 'abc'.startswith() }}
{{ 'aXa'.replace('a', 'b') }} {{ 'aXa'.replace('a', 'b', 1) }} {{ 'ab'.replace('', '-') }} {{ 'ab'.replace('', '-', 1) }} {{ 'ab'.replace('c', 'd') }} {{ 'aaa'.replace('a', '', 0) }} {{ emoji.replace('', '.') }}
{{ 'a'.replace('a') }}
{{ 'a'.replace(1, 'a') }}
{{ 'aB'.upper() }} {{ 'aB'.lower() }} {{ "it's a b".title() }} {{ 'hELLO'.capitalize() }} {{ ''.capitalize() }} {{ ''.title() }} {{ 'éa ÉA'.title() }}
{{ 'abc'.removeprefix('a') }} {{ 'abc'.removeprefix('x') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removesuffix('x') }} {{ 'abc'.removesuffix('') }}
{{ 'abcb'.find('b') }} {{ 'abcb'.rfind('b') }} {{ 'abc'.find('x') }} {{ emoji.find('b') }} {{ 'aaa'.count('a') }} {{ 'aaa'.count('') }} {{ 'abc'.count('x') }} {{ 'aaaa'.count('aa') }}
{{ 'abc'.find(1) }}
{{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('-') }} {{ 'abc'.rpartition('-') }}
{{ 'a'.partition('') }}
{{ 'a'.rpartition('') }}
{{ ','.join(['a', 'b']) }} {{ ','.join('abc') }} {{ ','.join(d) }} {{ ''.join([]) }}
{{ ','.join([1]) }}
{{ ','.join(5) }}
{{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ ''.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' \t'.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ 'aB'.islower() }} {{ '1'.isupper() }} {{ '1'.islower() }}
{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ d.get(1) }} {{ d.get(none, 3) }} {{ d.copy() }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.items() | list }} {{ {'items': 1}['items'] }} {{ {'items': 1}.items is callable }}
{{ d.get([]) }}
{{ d.get() }}
{{ xs.index(1) }} {{ xs.count(3) }} {{ xs.copy() }} {{ (1, 2).index(2) }} {{ (1, 1).count(1) }} {{ (1).copy }}|
{{ xs.index(9) }}
{{ (1, 2).copy() }}
{{ xs.append(1) }}
{{ d.update({}) }}
{{ s.__class__ }}|{{ s['__class__'] }}|{{ xs._x }}|
{{ s.nope }}|{{ xs.nope }}|{{ n.nope }}|{{ d.items().nope }}|{{ range.nope }}|
{{ s.nope() }}
{{ n() }}
{{ d['x-y']() }}
{{ xs[0]() }}
{{ nothing() }}
{{ s is defined }} {{ nothing is defined }} {{ nothing is undefined }} {{ none is none }} {{ true is boolean }} {{ true is true }} {{ false is false }} {{ true is false }} {{ 1 is true }} {{ 0 is false }} {{ 'a' is string }} {{ 1 is string }} {{ 1 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.5 is float }} {{ 1 is float }} {{ d is mapping }} {{ xs is mapping }}
{{ xs is sequence }} {{ 'a' is sequence }} {{ d is sequence }} {{ 1 is sequence }} {{ range(2) is sequence }} {{ nothing is sequence }} {{ (1,) is sequence }} {{ ('a' | e) is string }} {{ xs is iterable }} {{ 'a' is iterable }} {{ 5 is iterable }} {{ (xs | select) is iterable }} {{ nothing is iterable }} {{ d is iterable }} {{ range is callable }} {{ 'a' is callable }} {{ nothing is callable }} {{ none is iterable }}
{% for x in [1] %}{{ loop is iterable }}{{ loop is defined }}{{ loop is sequence }}{% if loop %}t{% endif %}{% endfor %}
{{ 3 is odd }} {{ 4 is even }} {{ 3 is even }} {{ 6 is divisibleby 3 }} {{ 7 is divisibleby(3) }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ 1 is lower }} {{ 1 is in [1, 2] }} {{ 1 is not in [1] }} {{ 'a' is in 'abc' }} {{ none is sameas none }} {{ true is sameas true }} {{ true is sameas 1 }} {{ none is sameas false }}
{{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is == 1 }} 
{{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is lessthan 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 2 is greaterthan 1 }} {{ 2 is ge 3 }} {{ 1 is not eq 2 }} {{ 'a' is eq 'a' ~ '' }}
{{ 'a' is odd }}
{{ 1.5 is odd }}
{{ 3 is divisibleby 0 }}
{{ 3 is divisibleby }}
{{ 3 is odd(1) }}
{{ 1 is eq(1, 2) }}
{{ 1 is eq(other=1) }}
{{ 1 is in 5 }}
{{ 1 is frobnicate }}
{{ 1 | frobnicate }}
{% if true %}ok{% else %}{{ 1 | frobnicate }}{{ 1 is frobnicate }}{% endif %}
{% if false %}ok{% else %}{{ 1 | frobnicate }}{% endif %}
{% if true %}{{ 1 is frobnicate }}{% endif %}
{{ 1 is string is string }}
{{ x is defined and y is not defined or 1 is odd }} {{ (1 is odd) if 1 else 2 }} {{ 1 is odd if 1 else 2 }}
{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{{ loop['index'] }}{{ loop.nope }};{% endfor %}
{% for x in xs %}{{ loop.cycle() }}{% endfor %}
{% for x in xs %}{% for y in xs %}{{ loop.index }}{% if y == 1 %}{% continue %}{% endif %}{{ y }}{% endfor %}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}{% for x in [1] %}{% continue %}{% else %}e{% endfor %}
{% for x in xs if x > 1 %}{{ x }}{{ loop.last }}{% else %}none{% endfor %}{% for x in xs if x > 5 %}{{ x }}{% else %}none{% endfor %}{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}
{% for a, in [(1,)] %}{{ a }}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in nothing %}{% else %}empty{% endfor %}{% for x in 'ab' %}{{ x }}{% endfor %}{% for x in d %}{{ x }}{% endfor %}{% for x in range(2) %}{{ x }}{% endfor %}
{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}|{{ x }}|{{ loop }}
{% break %}
{% set x = 1 %}{% set y, z = 2, 3 %}{% set (p, q) = (4, 5) %}{{ x }}{{ y }}{{ z }}{{ p }}{{ q }}{% set t = 1, 2 %}{{ t }}
{% set r, = [6] %}{{ r }}
{% set x %}a{{ 1 }}b{% endset %}{{ x }}{% set y | upper | replace('A', 'z') %}abc{% endset %}{{ y }}
{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{% set ns.b = 3 %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}{{ ns.c }}|{% if ns %}t{% endif %}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{% set ns2 = namespace() %}{{ ns2.x }}|
{% set d.a = 1 %}
{% set nothing.a = 1 %}
{% set true = 1 %}
{% set = 1 %}
{% set x, y = 1 %}
{% set x, y = 1, 2, 3 %}
{% set ns = namespace(a=1) %}{% for i in xs %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}
{{ dict(a=1) }} {{ dict({'a': 1}, b=2) }} {{ dict([('a', 1), ['b', 2]]) }} {{ dict() }} {{ dict(d.items()) }}
{{ dict(1) }}
{{ dict([('a',)]) }}
{{ dict([('a', 1, 2)]) }}
{{ dict({}, {}) }}
{{ dict([()]) }}
{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(9, 0, -3) | list }} {{ range(0) | list }} {{ range(true) | list }} {{ range(3, 1) | list }} {% if range(0) %}a{% else %}b{% endif %}{% if d.keys() %}a{% endif %}{% if {}.keys() %}a{% endif %}{% if range %}a{% endif %}{% if () %}a{% endif %}{% if d %}a{% endif %}
{{ range() }}
{{ range(1, 2, 3, 4) }}
{{ range('a') }}
{{ range(1.5) }}
{{ range(1, 5, 0) }}
{{ range(stop=3) }}
{{ range(200000) }}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}{{ m(1, 3, 4, 5, x=6) }}{{ m(b=7, a=8) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x=1) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m(a, a) %}{% endmacro %}
{% macro m(none) %}{% endmacro %}
{% macro m() %}{{ m2() }}{% endmacro %}{% macro m2() %}x{% endmacro %}{{ m() }}
{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}
{% macro m(a) %}[{{ caller(a) }}]{% endmacro %}{% call(x) m(5) %}<{{ x }}>{% endcall %}
{% macro m(a) %}[{{ caller(a) }}]{% endmacro %}{% call m(1) %}y{% endcall %}
{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}z{% endcall %}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% call n %}x{% endcall %}
{% call n() %}x{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{% call m(caller=1) %}y{% endcall %}
{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1, 2], c=3) }}{{ m(1, *(2, 3)) }}{{ m(**{'a': 1, 'b': 2, 'c': 3}) }}{{ m(*[1], **{'b': 2, 'c': 3}) }}
{{ range(*5) }}
{{ dict(**5) }}
{{ dict(a=1, **{'a': 2}) }}
{{ dict(a=1, a=2) }}
{{ dict(**{}, a=1) }}
{{ range(*[1], *[2]) }}
{{ range(stop=1, 2) }}
{{ dict(**{}, **{}) }}
{{ range(*[1], 2) }}
{% filter upper %}abc{{ n }}{% endfilter %}{% filter replace('a', 'b') | upper %}aXa{% endfilter %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}|{% with %}x{% endwith %}{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}
{% with a = 1 b = 2 %}{% endwith %}
{% if n > 9 %}a{% elif n > 4 %}b{% else %}c{% endif %}{% if n == 5: %}d{% endif %}{% if 1, 2 %}e{% endif %}{% if false %}x{% endif %}{% if none %}y{% elif 0 %}z{% endif %}
{{ 'a' if true }}{{ 'a' if false }}{{ 'a' if false else 'b' }}{{ 1 if 0 else 2 if 0 else 3 }}{{ (1 if true else 2) + 3 }}
{{ true and 'a' }} {{ 0 and 'a' }} {{ '' or 'b' }} {{ 'c' or 'd' }} {{ not true or true and false }} {{ 1 not in [2] }} {{ not 1 in [2] }}
{{ 1 ~ 'a' ~ none ~ 1.5 ~ nothing }} {{ 'a' ~ 1 + 2 }}
{{ 1_000 }} {{ 1.5e3 }} {{ 1e3 }} {{ 1_0.5_0 }} {{ 0x1f if false }}
{{ 007 }}
{{ xs.0 }} {{ xs.0 + 1 }} {{ rows.0.role }} {{ rows[0].tags.0 }}
{{ xs. }}
{{ xs.'a' }}
{{ 'a' 'b' "c" }} {{ "\x41\u0042\U00000043\101\n\t\a\b\f\r\v\'\"\\" | tojson }} {{ 'a\qb' }} {{ 'a\éb' }} {{ 'a\中b' }} {{ 'a\😀b' }} {{ 'a\⏎b' }}
{{ '\x4' }}
{{ '\u12' }}
{{ '\U0011ffff' }}
{{ '\U1' }}
{{ (1, 2,) }} {{ [1, 2,] }} {{ {'a': 1,} }} {{ range(3,) | list }} {{ 1, 2 }} {{ (1) }} {{ ((1, 2), 3) }} {{ (1, ) }}
{{ [1,,2] }}
{{ {'a' 1} }}
{{ {[]: 2} }}
{{ (1 }}
{{ [1 }}
{{ 1 ] }}
{{ (1] }}
{{ }}
{{ 1 2 }}
{{ ) }}
{{ 1 +
{{ $ }}
{{ xs[ }}
{{ xs[] }}
{{ xs[,] }}
{{ 1 | }}
{{ 1 is }}
{% %}
{% 5 %}
{% nonsense %}
{% if true %}
{% if true %}{% endfor %}
{% for x %}{% endfor %}
{% for in xs %}{% endfor %}
{% for 5 in xs %}{% endfor %}
{% endif %}
{% else %}
{% include 'x' %}
{% macro m %}{% endmacro %}
{% macro m(a %}{% endmacro %}
{% set x = %}
{% set x
{% filter %}{% endfilter %}
{{ 1 | default('a')('b') }}
{{ (range)(2) | list }} {{ range(2)[0] }} {{ 'a'.upper()[0] }} {{ (xs | sort)[0] }} {{ -xs[0] }} {{ -n | abs }} {{ (n | string).upper() }} {{ 2 * n ** 2 }} {{ n | string ~ 'a' }} {{ 'a' | upper | lower }} {{ 3 if n is divisibleby 5 }}
{# c #}a{#- c -#} b {#+ c +#}
c{##}d{#⏎x#}⏎e{# y +#}⏎f{# z -#}⏎ g
{# not closed
a{% raw %} {{ x }} {% b %}{# c #} {% endraw %}b{%- raw -%} {{ {%- endraw -%} c{%+ raw %}x{% endraw %}⏎y⏎{% raw %}⏎  x⏎  {%+ endraw %}⏎  {% raw %}⏎  x⏎  {% endraw %}⏎{%- raw %} z {% endraw -%}  q
{% raw %} x
{%+ raw +%}x{% endraw %}
a  {%- if true -%}  b  {%- endif -%}  c  {{- 1 -}}  d
a⏎  {% if true %}⏎    b⏎  {%+ if true +%}⏎    c⏎  {% endif %}⏎  {% endif %}⏎d⏎  {{ 1 }}⏎  {# c #}⏎f⏎⏎
d {{ 1 +}} e
{{ 'é' }}{{ é }}{{ 名 }}|{% set 名 = 5 %}{{ 名 }}
{{ a² }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %y %B %b %A %a %j %I %p %e %F %T %% %-d %-m %-H %-I %-j') }}
{{ strftime_now(format='%Y') }}
{{ strftime_now(5) }}
{{ strftime_now() }}
{{ strftime_now('%Y', '%m') }}
{{ raise_exception('no') }}
{{ raise_exception(message='no') }}
{{ raise_exception() }}
{{ namespace(__a=1) }}
{% set ns = namespace() %}{% set ns._a = 1 %}
{{ xs | sort(attribute='x.y') }}
{{ rows | map(attribute='a.b') | list }}
{{ xs | first | string | length }} {{ 1 if 'x' | default(false) else 2 }}
{{ messages[0].role }} {{ messages | length }} {{ tools }} {{ documents }} {{ add_generation_prompt }} {{ messages[0] }}
{% if n %}{% set x = 1 %}{% else %}{% set y = 2 %}{% endif %}{{ x }}{{ y }}|{% for i in [1, 2] %}{% if i == 1 %}{% set s = 'in' %}{% endif %}{{ s }}{% endfor %}{{ s }}
{% macro m(x) %}{% if x %}{% set n = 7 %}{% endif %}{{ n }}{% endmacro %}{{ m(1) }}{{ m(0) }}{{ n }}
{% set x = 1 %}{% for i in [0, 1] %}{% if i %}{% set x = 2 %}{% endif %}{{ x }}{% endfor %}{{ x }}{% with %}{% if 0 %}{% set x = 3 %}{% endif %}{{ x }}{% endwith %}
{% macro m((a, b)) %}{% endmacro %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, (b, c) in [(1, 2)] %}{% endfor %}
{% generation %}x{% endgeneration %}y{% for x in [1, 2] %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}
{{ big == 9223372036854775808.0 }} {{ big == 2.5 }} {{ 1 == big }} {{ 134.0 // 0.77 }} {{ 538.48 // 1.4 }} {{ 0.5 == 1 }}
{{ ('1' * 5000) | int(7) }} {{ ('1' * 4300) | int | string | length }}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{% for i in [0, 1] %}{% if i %}{% set q = 1 %}{% elif n == 9 %}{% set q = 2 %}{% else %}{% set q = 3 %}{% endif %}{{ q }}{% endfor %}{{ q }}|{% if n %}{% set q = 4 %}{% elif n %}{% set q = 5 %}{% else %}{% set q = 6 %}{% endif %}{{ q }}
{% for (a, b,) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}{% with (a, b) = (3, 4) %}{{ a }}{{ b }}{% endwith %}
{% for %}{% endfor %}
{{ none.x }}|{{ true.x }}|{{ f.x }}|{{ range(2).x }}|{{ namespace.x }}|{{ (xs | select).x }}|
a{{
a{%
{{ 1.5e }}
{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}
"""


for line in PROGRAMS.strip().split("\n"):
    program = line.replace("⏎", "\n")
    case = {"template": program, "messages": [{"role": "user", "content": "hi"}], "variables": VARIABLES}
    print(json.dumps(render(case)))
