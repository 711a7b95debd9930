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
{{ nothing | selectattr('x') | list }} {{ nothing | rejectattr('x') | list }} {{ nothing | select | list }} {{ nothing | reject('odd') | list }} {{ nothing | map('upper') | list }} {{ nothing | map(attribute='x') | list }}
{{ missing | selectattr('x') | list }} {{ missing | reject | list }} {{ missing | map('nofilter') | list }} {{ missing | list }} {{ missing | join }} {{ missing | sort }} {{ missing | unique | list }} {{ missing | sum }} {{ missing | first }}|
{{ 0 | select | list }} {{ false | map('upper') | list }} {{ '' | selectattr('x') | list }}
{{ nothing | list }}
{{ nothing | join }}
{{ nothing | length }}
{{ nothing | sort }}
{{ nothing | first }}
{{ nothing | sum }}
{{ nothing | unique | list }}
{{ nothing | items | list }}
{% for x in nothing %}{{ x }}{% endfor %}
{{ messages | selectattr('role', 'equalto', 'tool') | length }}
{% if messages | selectattr('role', 'equalto', 'tool') %}a generator is true{% endif %}{% if messages | selectattr('role', 'equalto', 'tool') | list %}a list is not{% endif %}
{% set g = list | map('upper') %}{{ g | join }}|{{ g | join }}|{{ g is iterable }} {{ g is sequence }} {{ g is defined }}
{% set g = list | select %}{{ g | first }}{{ g | list }}
{{ (list | reverse) | first }} {{ (list | map('upper'))[0] }}|
{{ list | map('upper') | last }}
{{ 'x' in (list | map('lower')) }} {{ 'c' in (list | map('lower')) }}
{{ name | nofilter if no else 'skipped' }}
{{ (name is notest) if no else 'skipped' }}
{% if no %}{{ name | nofilter }}{% elif no %}{{ name is notest(1) }}{% else %}skipped{% endif %}
{% if yes %}{{ name | nofilter }}{% endif %}
{% if yes %}{{ name is notest }}{% endif %}
{{ {1: 'a', 2: 'b'}[2] }} {{ {1: 'a', true: 'b'} }} {{ {1: 'a'}[1.0] }} {{ {none: 1, 2.5: 3, (1, 'x'): 4} }} {{ {(1, 2): 'x'}[(1, 2)] }} {{ 1 in {1: 2} }} {{ {1: 2}.get(1) }} {{ {1: 2} | tojson }} {{ {1: 'x'}[2] }}|
{% for k, v in {512: 'a', 1024: 'b'}.items() %}{{ k + 1 }}{{ v }} {% endfor %}{{ {3: 1, 1: 2} | dictsort }} {{ {3: 1, 1: 2}.keys() | sort }}
{{ {[1]: 2} }}
{{ {{}: 2} }}
{{ (1, 2) }} {{ (1,) }} {{ () }} {{ 1, 2 }} {{ [(1, 'a')] }} {{ (1, 2) == (1, 2) }} {{ (1, 2) == [1, 2] }} {{ (1, 2) + (3,) }} {{ (1, 2)[::-1] }} {{ (3, 1) | sort }} {{ dict.items() | list }} {{ (1, 2) | tojson }}
{{ (1, 2) + [3] }}
{{ [1, 2] * 2 }} {{ 2 * 'ab' }} {{ 'ab' * -1 }}| {{ (1,) * 2 }}
{% call wrap() %}x{% endcall %}
{% macro wrap(a='') %}<{{ a }}{{ caller() }}>{% endmacro %}{% call wrap('y') %}inner {{ name }}{% endcall %}{% call wrap() %}{% endcall %}
{% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(x, i) each(list) %}[{{ i }}:{{ x }}]{% endcall %}
{% macro outer() %}({{ caller('z') }}){% endmacro %}{% macro middle() %}{% call(v) outer() %}{{ v }}{{ caller() }}{% endcall %}{% endmacro %}{% call middle() %}deep{% endcall %}
{% macro plain(a) %}{{ a }}{% endmacro %}{% call plain(1) %}x{% endcall %}
{% macro w() %}{{ caller is defined }}{{ caller }}{% endmacro %}{{ w() }}
{% macro d(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ d(1) }}{{ d(1, 2) }}
{% call name %}x{% endcall %}
{% macro f(a, b, c=3) %}{{ a }}{{ b }}{{ c }} {% endmacro %}{{ f(*[1, 2]) }}{{ f(1, *(5, 6)) }}{{ f(**{'a': 7, 'b': 8}) }}{{ f(1, b=2, **{'c': 4}) }}{{ f(*[1], **{'b': 2}) }}
{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(1, *[2, 3]) }}
{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(1, **{'a': 3}) }}
{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, z=4, y=5) }}{{ f() }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=1) }}
{{ range(*[1, 4]) | list }} {{ dict(**{'b': 1}, **{'a': 2}) }}
{{ dict_(b=2, a=1) }}
{{ [1, 2] | join(*['-']) }} {{ 'x' | center(**{'width': 5}) }}|
{% macro f(a=1, b) %}{% endmacro %}
{% for x in [1, 2] %}{% for y in [3] %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}{% endfor %}
{% for n in [{'v': 1, 'c': [{'v': 2, 'c': []}, {'v': 3, 'c': [{'v': 4, 'c': []}]}]}] recursive %}{{ loop.depth }}:{{ n.v }}{% if n.c %}({{ loop(n.c) }}){% endif %};{% endfor %}
{% for x in [1, 1, 2, 2] %}{{ loop.changed(x) }} {% endfor %}
{% for i, (k, v) in [(1, ('a', 'b')), (2, ('c', 'd'))] %}{{ i }}{{ k }}{{ v }} {% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for x in [3, 4] if x > 3 %}{{ x }}{% else %}none{% endfor %}{% for x in [1] if x > 3 %}{{ x }}{% else %}none{% endfor %}
{% set a, (b, c) = 1, (2, 3) %}{{ a }}{{ b }}{{ c }} {% set x = 'a', 'b' %}{{ x }} {% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }} {{ ns['a'] }}
{% set x | upper | replace('A', '-') %}abc{{ name }}{% endset %}{{ x }}
{% filter upper %}abc {{ name }}{% endfilter %}{% filter replace('a', 'b') | indent(2, true) %}aa{% endfilter %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }} {% set a = 5 %}{% with a = a + 1, c = a %}{{ a }}{{ c }}{% endwith %}
{% block content %}in {{ name }}{% endblock %} {% block other scoped %}x{% endblock other %} {% for x in [1] %}{% block inner %}{{ x }}|{% endblock %}{% block seen scoped %}{{ x }}{% endblock %}{% endfor %}
{% print name, n %}{% print 'x' %}
{% autoescape false %}{{ '<' }}{% endautoescape %}
{% endif %}
{% else %}
{{ dict | dictsort(by='value', reverse=true) if no else 1 }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(false, 'value') }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ messages | groupby('role') | map(attribute='grouper') | list }} {% for role, ms in messages | groupby('role') %}{{ role }}{{ ms | length }} {% endfor %}{{ ([{'a': 'x'}, {'a': 'X'}, {}] | groupby('a', default='zz'))[0].list | length }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, '-') | list }} {{ [1, 2, 3, 4, 5] | slice(3) | list }} {{ [1, 2, 3, 4] | slice(3, 'x') | list }}
{{ 'abc' | center(9) }}|{{ 'abc' | center(8) }}|{{ 'it\'s a-b (c)' | title }} {{ 'foo bar-baz' | title }} {{ "it's".title() }}
{{ 'one two  three' | wordcount }} {{ '<b>a</b>  <!-- x -->c' | striptags }} {{ 'a b&c/d' | urlencode }} {{ {'a': 'b c', 'd': 1} | urlencode }} {{ [('x', 'y z')] | urlencode }}
{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(11, false, '...', 0) }} {{ 'short' | truncate }}
{{ 100 | filesizeformat }} {{ 1 | filesizeformat }} {{ 1000 | filesizeformat }} {{ 1000000 | filesizeformat }} {{ 1024 | filesizeformat(true) }} {{ 1048576 | filesizeformat(true) }}
{{ '%s, %s!' | format('a', 1) }} {{ '%(x)s' | format(x=3) }} {{ '%05.1f|%-4d|%+d|%x|%%' | format(3.14159, 7, 8, 255) }} {{ '%s' % 'x' }} {{ '%s %s' % ('a', [1]) }} {{ '%r' % 'x' }} {{ '%3s|%-3s|%03d' % ('a', 'b', 5) }} {{ '%.2f' % 2 }} {{ '%(a)s' % {'a': 1} }} {{ '%c%c' % ('x', 65) }} {{ '%e' % 12345.678 }} {{ '%g' % 0.0001 }} {{ '%d' % 3.9 }}
{{ '%s' % (1, 2) }}
{{ '%s %s' % 1 }}
{{ '%d' % 'x' }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('x', 'y') }} {{ '{a}-{b}'.format(a=1, b=2) }} {{ '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}|{:x}|{:+d}'.format('a', 'b', 'c', 42, 3.14159, 1234567, 255, 5) }} {{ '{{}}'.format() }} {{ '{!r}'.format('x') }} {{ '{:*^7}'.format('m') }} {{ '{:.1%}'.format(0.256) }} {{ '{:5}|{:5}|'.format('s', 3) }} {{ '{:.2}'.format('abc') }} {{ '{}'.format(none) }}
{{ '{} {}'.format(1) }}
{{ '{x}'.format(y=1) }}
{{ '{:d}'.format('x') }}
{{ '{'.format() }}
{{ dict | attr('items') is defined }} {{ dict | attr('b') is defined }} {{ ' x ' | attr('strip') is defined }} {{ dict.items is defined }} {{ {'items': 1}.items is number }} {{ {'items': 1}['items'] }} {{ {'items': 1} | map(attribute='x') | list }} {{ name.upper is callable }} {{ [{'keys': 5}] | map(attribute='keys') | list }} {{ name.nomethod is defined }} {{ list.append is defined }}
{{ [1, 2, 2, 1] | unique | list }} {{ ['a', 'A', 'b'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ messages | unique(attribute='role') | map(attribute='content') | list | length }}
{{ ['b', 'A'] | min }} {{ ['b', 'A'] | max }} {{ ['b', 'A'] | max(true) }} {{ messages | max(attribute='role') | length }} {{ [] | min }}| {{ numbers | sum(start=10) }} {{ [{'v': 2}, {'v': 3}] | sum('v') }} {{ [[1], [2]] | sum(start=[]) }}
{{ [{'a': 2, 'b': 1}, {'a': 1, 'b': 3}, {'a': 1, 'b': 2}] | sort(attribute='a,b') | map(attribute='b') | list }} {{ ['b', 'A', 'a'] | sort }} {{ ['b', 'A', 'a'] | sort(case_sensitive=true) }} {{ [3, 1] | sort(true) }} {{ [{'x': {'y': 2}}, {'x': {'y': 1}}] | sort(attribute='x.y') | map(attribute='x.y') | list }}
{{ [1, 'a'] | sort }}
{{ '0x1F' | int(0, 16) }} {{ '0b11' | int(0, 2) }} {{ '0o17' | int(base=8) }} {{ 'zz' | int(-1) }} {{ '1e3' | int }} {{ ' 5 ' | int }} {{ 'x' | float(1.5) }} {{ true | int }} {{ none | int }} {{ 'x' | int(none) }}
{{ 2.675 | round(2) }} {{ 42.55 | round(1) }} {{ 42 | round }} {{ 42.0 | round }} {{ 1234 | round(-2) }} {{ 2.5 | round(0, 'floor') }} {{ 7 | round(1) }} {{ 7.25 | round(1, 'ceil') }}
{{ 'a\nb\n\nc' | indent }}|{{ '\na' | indent(2, first=true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('>> ') }}|{{ 'a\nb' | indent(width=1, first=true) }}
{{ {'b': 1, 'a': [1, 2]} | tojson(sort_keys=true) }} {{ 'é' | tojson(ensure_ascii=true) }} {{ {'a': 1, 'b': [1]} | tojson(separators=(',', ':')) }} {{ {'a': []} | tojson(indent=4) }} {{ '🦙' | tojson(ensure_ascii=true) }} {{ [1.5, 1e20, 1e-7, true, none] | tojson }} {{ {true: 1, none: 2, 1.5: 3} | tojson }} {{ '\b\f\x01\x7f</>' | tojson }} {{ {'a': {'b': [1, {}]}} | tojson(indent=0) }}
{{ missing | tojson }}
{{ 'hello'.center(11) }}|{{ 'ab'.center(5, '*') }}|{{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4, '.') }}|{{ '-5'.zfill(4) }} {{ '5'.zfill(3) }} {{ 'aB'.swapcase() }} {{ 'Ab'.casefold() }} {{ 'a\tb'.expandtabs(4) }} {{ 'abcabc'.index('c') }} {{ 'abcabc'.rindex('c') }} {{ 'a.b.c'.rpartition('.') }} {{ 'abc'.partition('x') }} {{ 'a1'.isalnum() }} {{ '1'.isdecimal() }} {{ 'a'.isascii() }} {{ 'é'.isascii() }} {{ '½'.isnumeric() }}
{{ 'abc'.index('x') }}
{{ 'a b  c d'.split(none, 1) }} {{ 'a b  c d'.rsplit(none, 1) }} {{ ' a b '.split(' ') }} {{ 'a\r\nb\x0bc'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'aXbXc'.rsplit('X', 1) }} {{ 'abc'.split('b', 5) }}
{{ 'hello'.startswith('l', 2) }} {{ 'hello'.endswith('l', 0, 4) }} {{ 'hello'.find('l', 3) }} {{ 'hello'.count('l', 3) }} {{ 'hello'.startswith(('a', 'he')) }} {{ 'hello'.find('é') }} {{ 'éa'.find('a') }} {{ 'hello'.rfind('l', 0, 3) }}
{{ 'hello'.startswith(['h']) }}
{{ 5 is gt 3 }} {{ 5 is lessthan(3) }} {{ 5 is greaterthan 3 }} {{ 5 is ge 5 }} {{ 'x' is escaped }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ '' is lower }} {{ 'a1' is lower }} {{ '12' is upper }} {{ 'A' is upper }} {{ range is callable }} {{ 1 is sameas 1.0 }} {{ true is sameas true }} {{ none is sameas none }} {{ 1 is sameas true }} {{ (1, 2) is sequence }} {{ dict is sequence }} {{ true is number }} {{ true is integer }} {{ n is divisibleby dict.b }}
{{ n is not odd }} {{ (n is odd) and (n is number) }} {{ n is number and no }} {{ 'a' is in ['a'] }} {{ 'a' is not in ['a'] }} {{ n is odd == true }}
{% set j = joiner(', ') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set _ = c.reset() %}{{ c.current }}
{{ dict.copy() }} {{ list.copy() }} {{ dict.keys() | join }} {{ {'a': 1}.values() | list }}
{{ dict.update({'x': 1}) }}
{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1e3 }} {{ 1.5e-3 }} {{ 1_000.5 }} {{ 1.0e10 }} {{ 12345678901234.5 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ -7 % -3 }} {{ 7.5 // 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ (-1) ** 3 }} {{ 7 / 7 }} {{ 9007199254740993 // 1 }} {{ 9007199254740993 }}
{{ list[0] if list else 'none' }} {{ [x, y] if no else [1] }} {{ missing.x if missing is defined else 'no' }} {{ (missing or {}).x }}|
{{ list[10:] }} {{ 'abc'[5:] }}| {{ 'abc'[-100:2] }} {{ list[:0] }} {{ [1, 2, 3, 4][1::2] }} {{ [1, 2, 3][::-2] }} {{ numbers[-1:] }} {{ 'abc'[1] }} {{ 'abc'.1 }} {{ list.0 }}
{{ none.x }}|{{ n.x }}|{{ 'a'.x }}|{{ (none).x is defined }} {{ list.x is defined }}
{{ none['x'] }}|
{{ none.x.y }}
{{ messages | map(attribute='role') | map('upper') | join(',') }} {{ messages | map(attribute='nope', default='d') | list }} {{ messages | map(attribute='content') | map('length') | list }} {{ list | map('replace', 'a', 'z') | list }} {{ [1, 2] | map('string') | join }} {{ [[1, 2], [3]] | map('join', '-') | list }} {{ messages | map('items') | first | list | length }}
{{ messages | selectattr('content', 'in', ['a|b|c']) | list | length }} {{ numbers | select('gt', 1) | list }} {{ numbers | select('>', 1) | list }} {{ numbers | reject('in', [1]) | list }} {{ messages | selectattr('x', 'undefined') | list | length }} {{ messages | selectattr('role', 'ne', 'user') | list | length }} {{ list | select('string') | list }} {{ messages | rejectattr('role', '==', 'user') | list | length }} {{ numbers | select('divisibleby', 3) | list }}
{{ list | map('nofilter') | list }}
{{ list | select('notest') | list }}
{{ list | first | upper ~ (list | last) }} {{ (numbers | max) + 1 }} {{ numbers | length * 2 }} {{ not list }} {{ not list is defined }} {{ 2 + 3 ~ 4 }} {{ 2 * 3 ~ 4 }} {{ 'a' ~ 1 + 2 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 1 if yes else 2 | string }} {{ - 3 | abs }}
{{ loop is defined }} {{ range is defined }} {{ true is defined }}
{% macro m() %}{% set x = 1 %}{% endmacro %}{{ m() }}|{{ x is defined }}{% set y = 1 %}{% macro m2() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m2() }}
{% if yes and list | length == 3 and 'a' in list %}ok{% endif %}{% if not (no or missing) %}ok{% endif %}{% if 1 < n <= 7 != 8 %}ok{% endif %}
{% for m in messages %}{% if loop.first and m.role == 'system' %}{% continue %}{% elif not loop.last and loop.nextitem.role == 'assistant' %}>{% endif %}{{ m.role[0] }}{% if loop.previtem is defined %}{{ loop.previtem.role[0] }}{% endif %} {% endfor %}
{{ {'a': 1, **{'b': 2}} }}
{{ f'x' }}
{{ list | }}
{% for %}{% endfor %}
{% set %}{% endset %}
{% if %}x{% endif %}
{{ x.y.z }}
{{ [1, 2 }}
{{ 1 2 }}
{{ a b }}
{{ name | upper() | lower }} {{ name | default('x', boolean=true) }} {{ '' | d('x', true) }} {{ missing | default(none) }} {{ missing | default(value='x') if no else 1 }} {{ missing | default(default_value='x') }}
{{ {'a': 1} == {'a': 1.0} }} {{ [1, [2]] == [1, [2]] }} {{ [1, 2] < [1, 3] }} {{ (1, 'a') < (1, 'b') }} {{ none == false }} {{ 'a' == 1 }} {{ missing == missing }} {{ missing == none }} {{ 1 in [true] }} {{ [] == () }}
{{ {} < {} }}
{{ 9223372036854775807 + 0 }}
{{ '<a>' | safe + '<b>' }} {{ '<a>' + ('<b>' | safe) + '<c>' }} {{ '<a>' | e + '<' }} {{ '<a>' | safe ~ '<b>' }} {{ ('<a>' | safe) + ('<b>' | safe) }} {{ "'<'" | safe + messages[1].content + '\n' | safe + dict | tojson }}
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
    '{{ \'a\' \'b\' ~ \'c\' }} {{ \'\\x41\\u00e9\\U0001F999\\101\' }} {{ "\\\'" }} {{ \'a\\\nb\' }} {{ \'\\q\' }} {{ [\'\\x00\', \'\\x7f\', \'é\', \'\\u200b\', \'\\xa0\', \'tab\\t\', \'q\\\'"\'] }}',
    "{% macro tool(t) %}\n  {{- t.name }}({{ caller() }})\n{% endmacro %}\n{%- call tool({'name': 'f'}) -%}\n  x: int\n{%- endcall %}\nend",
    "{% filter indent(2) %}\na\nb\n{% endfilter %}\n{% set x %}\n y\n{% endset %}[{{ x }}]\n{% with a=1 %}\n{{ a }}\n{% endwith %}\nz",
    "{%- for x in [1, 2] -%}\n  {{ x }}\n{%- else -%}\n none\n{%- endfor -%}",
    "a\n{%- raw %}\n {{ x }}\n{%- endraw %}\nb",
    "{#- a -#}\n  x\n {#+ b #}\n  y",
    "{{- 'x' -}}\n\n{{- 'y' }}\n\n",
    "  {%- set x = 1 %}  {{ x }}  {%- set y = 2 -%}  {{ y }}",
    "{% if yes -%}\n   a\n{%- endif %}  b",
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
