#!/usr/bin/env python3
"""Goldens of runtime/tokenizer/jinja: small templates as Jinja2 renders them.

    python3 hack/golden/jinja.py runtime/tokenizer/jinja/testdata/jinja.json

Needs jinja2 (made with 3.1.6), set up as Hugging Face sets it up for chat
templates. Where Jinja2 refuses a template the golden says only that.
"""

import json
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

VERSION = 1

VARIABLES = {
    "name": "World", "empty": "", "n": 7, "f": 2.5, "yes": True, "no": False, "nothing": None,
    "list": ["b", "a", "C"], "numbers": [3, 1, 2], "one": ["only"], "none_left": [],
    "dict": {"b": 1, "a": "x", "items_": [1]},
    "messages": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hi <b>"},
        {"role": "assistant", "content": "a|b|c"},
        {"role": "user", "content": "Grüße, 日本\n"},
    ],
}

TEMPLATES = r"""
{{ name }}
{{ missing }}|{{ nothing }}|{{ yes }}|{{ f }}|{{ n }}
{{ missing.x }}
{{ dict.missing }}|{{ dict['missing'] }}|{{ dict.b }}|{{ dict['a'] }}
{{ messages[0].role }} {{ messages[-1]['role'] }} {{ messages[0]['content'] | trim }}
{{ one[-1] }}|{{ one[0:1][-1] }}|{{ list[5] }}|{{ 'abc'[-1] }}|{{ 'añb'[1] }}
{{ list[1:] }} {{ list[:-1] }} {{ list[::-1] }} {{ 'hello'[1:3] }} {{ 'hello'[::-1] }} {{ list[::2] }} {{ list[-2:] }}
{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ -n }} {{ 1.5 + 1 }} {{ 6 / 3 }}
{{ 'a' + 'b' }} {{ 'a' ~ 1 ~ none ~ true }} {{ 'ab' * 3 }} {{ [1] + [2] }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ missing + 'a' }}
{{ 1 == 1.0 }} {{ 'a' == 'a' }} {{ 1 != 2 }} {{ 1 < 2 < 3 }} {{ 3 > 2 >= 2 }} {{ 'a' < 'b' }} {{ none == none }} {{ [1, 2] == [1, 2] }} {{ true == 1 }}
{{ 'a' < 1 }}
{{ 'a' in 'abc' }} {{ 'x' not in list }} {{ 'b' in dict }} {{ 2 in numbers }} {{ not 1 in [1] }} {{ 'x' in missing }}
{{ yes and no }} {{ yes or no }} {{ not yes }} {{ '' or 'default' }} {{ 0 or [] }} {{ 1 and 'x' }} {{ no and missing.x }}
{{ 'a' if yes else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }} {{ ('a' if n > 5 else 'b') + 'c' }} {{ 1 if no else 2 if no else 3 }}
{{ name is defined }} {{ missing is defined }} {{ missing is not defined }} {{ nothing is none }} {{ name is none }} {{ name is not none and yes }}
{{ name is string }} {{ n is number }} {{ f is number }} {{ dict is mapping }} {{ list is iterable }} {{ name is iterable }} {{ n is iterable }} {{ list is sequence }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is eq 7 }} {{ name is equalto 'World' }} {{ n is integer }} {{ f is float }} {{ yes is boolean }} {{ yes is true }} {{ no is false }} {{ n is in numbers }} {{ 1 is sameas 1 }}
{{ name | upper }} {{ name | lower }} {{ 'hello world foo' | title }} {{ 'hELLO' | capitalize }} {{ name | length }} {{ list | count }} {{ dict | length }} {{ '日本' | length }}
{{ missing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ nothing | default('d') }} {{ missing | d }}|
{{ list | join(', ') }} {{ list | join }} {{ numbers | join('-') }} {{ messages | join('/', attribute='role') }}
{{ list | first }} {{ list | last }} {{ numbers | sort }} {{ list | sort }} {{ numbers | sort(reverse=true) }} {{ list | reverse | list }} {{ 'abc' | reverse }} {{ none_left | first }}|
{{ messages | map(attribute='role') | list }} {{ list | map('upper') | join }} {{ messages | map(attribute='role') | unique | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | selectattr('role', '==', 'user') | map(attribute='content') | first }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join(' ') }}
{{ [0, 1, '', 'x'] | select | list }} {{ numbers | select('odd') | list }} {{ numbers | reject('odd') | list }} {{ messages | selectattr('content') | list | length }}
{{ dict.items() | map('join', ':') | list }} {{ dict | items | map('last') | list }} {{ dict.keys() | list }} {{ dict.values() | list }} {{ dict | dictsort | map('first') | join }} {{ dict.get('b') }} {{ dict.get('z') }} {{ dict.get('z', 'q') }}
{{ name | replace('o', '0') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ '  x ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ '<a&b>' | escape }} {{ '<a>' | e }} {{ '<a>' | safe }}
{{ '42' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 3.9 | int }} {{ '2.5' | float }} {{ -3 | abs }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ 2.1 | round(0, 'ceil') }} {{ 5 | string + 'x' }}
{{ numbers | sum }} {{ numbers | min }} {{ numbers | max }} {{ list | max }}
{{ name.upper() }} {{ ' x '.strip() }}| {{ 'xxhixx'.strip('x') }} {{ ' x'.lstrip() }} {{ 'x '.rstrip() }}| {{ 'a\n'.rstrip('\n') }}|
{{ 'a,b,c'.split(',') }} {{ 'a b  c'.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('x')[-1] }} {{ 'a</t>b'.split('</t>')[0] }} {{ 'a\nb'.splitlines() }} {{ 'a=b'.partition('=') | join(' ') }}
{{ 'hello'.startswith('he') }} {{ 'hello'.endswith('lo') }} {{ 'hello'.startswith(('x', 'h')) }} {{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ 'hello'.count('l') }} {{ 'hello'.replace('l', 'L') }} {{ 'hello'.replace('l', 'L', 1) }}
{{ 'hello world'.title() }} {{ 'hELLO'.capitalize() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ '-'.join(['a', 'b']) }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }}
{{ dict | tojson }} {{ list | tojson }} {{ messages[3] | tojson }} {{ none | tojson }} {{ true | tojson }} {{ 1.0 | tojson }} {{ '"\\\n' | tojson }} {{ {} | tojson }} {{ [] | tojson }}
{{ {'a': [1, {'b': none}], 'c': 'ü'} | tojson(indent=2) }}
{{ {'a': 1, 'b': {'c': 2}}.b.c }} {{ {'x': 1} }} {{ (1, 2)[0] }} {{ [1, [2, 3]][1][0] }} {{ {} }} {{ [] }}
{{ "a\tb\x41\u00e9\\n" }} {{ 'it\'s' }} {{ "it's" }} {{ ['it\'s', "q"] }}
{{ 'a' 'b' }}
{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }}
{% for x in list %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.length }}/{{ loop.first }}/{{ loop.last }} {{ x }};{% endfor %}
{% for x in none_left %}x{% else %}empty{% endfor %} {% for x in missing %}x{% else %}none{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% endfor %}
{% for k, v in dict.items() %}{{ k }}={{ v }} {% endfor %}{% for k in dict %}{{ k }}{% endfor %}
{% for x in numbers %}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem is defined }}{% endfor %}
{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in list %}{% for y in numbers %}{{ x }}{{ y }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}
{% for c in 'abc' %}{{ c }}.{% endfor %}
{% for x in n %}{{ x }}{% endfor %}
{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set x = 0 %}{% for i in numbers %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}
{% set ns = namespace(x=0) %}{% for i in numbers %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% if no %}a{% elif yes %}b{% else %}c{% endif %}{% if missing %}x{% endif %}{% if not missing %}y{% endif %}{% if list %}z{% endif %}{% if {} %}w{% endif %}
{% if yes %}{% set inside = 5 %}{% endif %}{{ inside }}
{% set block %}a{{ name }}b{% endset %}[{{ block }}]{{ block | length }}
{% macro greet(who, mark='!') %}Hi {{ who }}{{ mark }}{% endmacro %}{{ greet('A') }}{{ greet('B', '?') }}{{ greet(who='C', mark='.') }}{{ greet() }}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m(x) %}{{ x }}{{ name }}{% endmacro %}{% for i in numbers %}{{ m(i if i > 1 else 'one') }}{% endfor %}
{{ 'x' if (name == 'World') != (n % 2 == 0) else 'y' }}
{{ (messages | selectattr('role', 'equalto', 'system') | first).content }}
{{ messages[0]['content'] | trim | length > 3 }}
{{ name|upper ~ '!' }} {{ 'a' ~ 'b' | upper }} {{ ('a' ~ 'b') | upper }} {{ -1 | abs }} {{ not missing is defined }}
{# comment #}a{#- trimmed -#} b
a {%- if yes %} b {%- endif %} c {{- ' d' -}}   e
{% raw %}{{ not rendered }}{% endraw %}x
{{ undefined_function() }}
{{ name() }}
{{ name.nomethod() }}
{{ raise_exception('no') }}
{{ list.append('x') }}
{{ name | nofilter }}
{{ name is notest }}
{% include 'x' %}
{% nostatement %}
{{ 1 / 0 }}
{{ (1 }}
{{ }}
{% if yes %}open
{{ 'open }}
{{ "}}" }} {{ '%}' }} {{ {'a': {'b': 1}}['a']['b'] }}
{{ true and none }} {{ True }} {{ False }} {{ None }}
{{ 1_000 }} {{ 10 % 4 * 2 }} {{ 2 * 3 % 4 }}
{{ ''.join(['a']) }}{{ [1, 2, 3][n - 6] }}{{ dict['b' if yes else 'a'] }}
{{ messages | length - 1 }} {{ (messages | length) - 1 }} {{ list.index('a') }} {{ numbers.count(1) }}
{{ 'line1\nline2' | indent }}|{{ 'line1\nline2' | indent(2, true) }}
{{ [messages[1:], 'x'] | length }} {{ [['a', 1], ['b', 2]] | map(attribute=0) | list }} {{ dict | list }} {{ 'ab' | list }}
{% generation %}x{% endgeneration %}
""".strip("\n").split("\n")

# White space control needs several lines.
MULTILINE = [
    "{% for m in messages %}\n    {% if m.role == 'user' %}\n  U:{{ m.content }}\n    {% endif %}\n{% endfor %}\nend\n",
    "a\n  {% if yes %}\n  b\n  {% endif %}\n  c\n\n",
    "a\n  {%+ if yes %}\n  b\n  {%+ endif %}\n  c",
    "a\n  {%- if yes -%}\n  b\n  {%- endif -%}\n  c",
    "  {{ name }}\n  {{- name }}\n\n{{ name -}}\n\n  x",
    "{# c #}\n  {# d #}\nx {# e #}\ny",
    "x {% if yes %} y {% endif %}\n z",
    "{% if yes %}\n{% if yes %}\n  deep\n{% endif %}\n{% endif %}\n",
    "{% set x = 1 %}\n{% set y = 2 %}\n{{ x }}{{ y }}\n\n\n",
    "{%- macro t(a) -%}\n  <{{ a }}>\n{%- endmacro -%}\n{{ t(1) }}\n{{ t(2) }}",
    "line\r\n{% if yes %}\r\nwindows\r\n{% endif %}\r\nend",
    "{%- for m in messages %}\n    {{- '<|' + m['role'] + '|>\\n' + m['content'] | trim + '\\n' -}}\n{%- endfor %}",
    "\t{% if yes %}tab{% endif %}\n \t {% if yes %}\nmix\n\t{% endif %}",
    "{% raw %}\n  {% x %}\n{% endraw %}\nafter",
    "{{ name\n   | upper\n }}{{ [\n 1,\n 2,\n] }}",
]


def main():
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    cases = []
    for template in TEMPLATES + MULTILINE:
        case = {"template": template}
        if "generation %}" in template:  # Hugging Face's own statement.
            case["text"] = "x"
        else:
            try:
                case["text"] = environment.from_string(template).render(**VARIABLES)
            except Exception as e:
                case["error"] = type(e).__name__
        cases.append(case)
    with open(sys.argv[1], "w") as f:
        json.dump({"version": VERSION, "made by": "hack/golden/jinja.py, jinja2 " + jinja2.__version__,
                   "variables": VARIABLES, "cases": cases}, f, indent=1, ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
