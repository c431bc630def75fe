#!/usr/bin/env python3
"""Makes cases.json: what jinja2 prints for the templates of this folder and for many small ones.

The environment is the one in which Hugging Face transformers renders chat templates: immutable sandbox, trim_blocks,
lstrip_blocks, loop controls, its tojson, raise_exception and strftime_now, tools and documents none.
The .jinja files are ours; they are built like the templates of well-known models (chatml: SmolLM2, headers: Llama 3.1,
brackets: Mistral 7B v0.3, turns: Gemma, tools: Qwen2.5, thinking: Qwen3, asks: Llama 2; with tools calls: Mistral 7B v0.3,
functions: Llama 3.1).
"""
import datetime
import json
import os

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = datetime.datetime(2025, 3, 9, 14, 5, 6)
FILES = ["chatml", "headers", "brackets", "turns", "tools", "thinking", "asks", "calls", "functions"]
WITH_TOOLS = ["tools", "calls", "functions"]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def turns(*texts):
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def system(text, *texts):
    return [{"role": "system", "content": text}] + turns(*texts)


CONVERSATIONS = {
    "one": turns("Hello"),
    "system": system("You are terse.", "What is 2 + 2?"),
    "long": system("  Système 🙂 \n", "  first\n", "Reply one. ", "second {{ not a tag }} {% nor this %}", "\nReply two", "third"),
    "unicode": turns("naïve 你好 👩‍👩‍👧 שלום", "ﬁ ①\u00a0\u3000", " \u2003trim me\u2003 \u200b"),
    "answered": turns("q", "a"),
    "empty text": turns("", "", ""),
    "only system": system("Alone."),
    "two system": system("One.", "q")[:1] + system("Two.", "q"),
    "wrong order": turns("q", "a")[::-1],
    "thoughts": turns("why", "<think>\nhm\n</think>\n\nbecause", "<tool>x</tool>", "<think>again</think>done"),
    "quotes": turns("'single' \"double\" \\back\n\ttab \x01 \x7f", "{'a': 1}", "a'b"),
    "specials": turns("<|im_end|><s></s>[INST]", "&<>\"'", "x"),
    "nothing": [],
}



def call(identifier, name, **arguments):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls):
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def result(identifier, content):
    return {"role": "tool", "tool_call_id": identifier, "content": content}


WEATHER = call("abcdefgh1", "weather", city="Łódź", days=2, parts=[1, 2.5, None, True, {"k": "\"v\""}])
CALLS = {
    "called": system(" Be brief.\n", "How is the weather? ") + [calling(WEATHER), result("abcdefgh1", "sunny & \"warm\"")] + turns(" And? ", "Fine.", "q")[1:],
    "result object": turns("q") + [calling(WEATHER), result("abcdefgh1", {"content": 5, "unit": "°C"})],
    "two calls": turns("q") + [calling(WEATHER, call("abcdefgh2", "now")), result("abcdefgh1", "1"), result("abcdefgh2", "2")],
    "short id": turns("q") + [calling(call("abc", "weather", city="a"))],
    "built in": turns("q") + [calling(call("abcdefgh3", "search", query="1+1", mode="x")), {"role": "shell", "content": "2"}],
    "no call": turns("q", "a", "q"),
    "nothing asked": [{"role": "system", "content": "Alone."}],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The \"weather\" <now> in a café",
                                           "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Łódź", "b"]},
                                                                                           "days": {"type": "integer", "default": -3},
                                                                                           "x": {"type": "number", "default": 1.5}},
                                                          "required": ["city"]},
                                           "return": {"type": "string"}}},
         {"name": "now", "description": "", "parameters": {"properties": {}, "required": [], "strict": False, "more": None}}]
VARIABLES = [{}, {"tools": TOOLS}, {"tools": TOOLS[:1], "tools_with_question": False, "date_string": "1 Feb 2024"},
             {"built_in": ["search", "shell", "maths"]}, {"own_tools": TOOLS[1:]}]

# One construct each. Rendered with the conversation "long" unless another is named.
SNIPPETS = r"""
plain text
{{ '{} and {}'.format(1, 'b') }} {{ '{1}{0}{1}'.format('a', 2.5) }} {{ '{x}-{{}}-{y}'.format(x=none, y=[1, 'c']) }} {{ ''.format() }}
{{ '{}'.format() }}
{{ '{x}'.format(y=1) }}
{{ '{'.format(1) }}
{{ 'a' }}{{ "b" }}
{{ 1 }} {{ 1.5 }} {{ 1.0 }} {{ 1e3 if false else 2 }} {{ 1_000 }} {{ 12345678.9 }} {{ 0.1 + 0.2 }} {{ 1.0e0 if false }}
{{ true }} {{ false }} {{ none }} {{ True }} {{ False }} {{ None }}
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e15 if false }}{{ 100000000000000000.0 }} {{ 0.00001 }} {{ 1.5 * 2 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 }} {{ 'a' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 }} {{ [1] + [2, 3] }} {{ 'x' * -1 }}|
{{ 1 ~ 2 + 3 }}
{{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 'a' }} {{ 'a' != 'b' }} {{ none == none }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }} {{ (1,) == [1] }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ 2 >= 2 }} {{ [1, 2] < [1, 3] }} {{ 3 > 2 > 1 }} {{ 1 <= 1 != 2 }}
{{ 1 in [1, 2] }} {{ 'a' in 'cat' }} {{ 'k' in {'k': 0} }} {{ 3 not in [1] }} {{ 'z' not in 'cat' }} {{ not 1 in [1] }} {{ 'x' in missing }}
{{ 1 and 2 }} {{ 0 or 'x' }} {{ not 0 }} {{ 0 and missing.x }} {{ 1 or missing.x }} {{ '' or none or 0 or 'last' }} {{ not not 1 }}
{{ 'yes' if 1 else 'no' }} {{ 'yes' if 0 else 'no' }} {{ 'only' if 0 }}| {{ 1 if 0 else 2 if 0 else 3 }} {{ ('a' if 1 else 'b') ~ 'c' }}
{{ [1, 'two', 3.0, none, true, [], {}] }} {{ {'a': 1, "b": [2]} }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ 1, 2 }}
{{ ["it's", 'say "hi"', 'both \' and "', 'back\\slash', 'line\nend\ttab', '\x01', 'é🙂'] }}
{{ 'esc: \n|\t|\\|\'|\"|\x41|\u00e9|\U0001F642|\q|\a' }}
{{ "double 'inside'" }} {{ 'adjacent ' 'strings' }}
{{ messages[0] }} {{ messages[-1]['role'] }} {{ messages[1].content }} {{ messages[0]['missing'] }}|{{ messages[99] }}|
{{ messages | length }} {{ messages[1:] | length }} {{ messages[:-1] | length }} {{ messages[::2] | length }} {{ messages[10:] }} {{ messages[::-1][0].content }}
{{ 'abcdef'[1:3] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[0] }} {{ 'abcdef'[-1] }} {{ 'añ🙂b'[1:3] }} {{ 'añ🙂b'[::-1] }} {{ 'abc'[9:] }}| {{ 'abc'[:99] }} {{ 'abc'[-99:2] }} {{ 'abc'[::5] }} {{ [1,2,3][::-2] }}
{{ {'a': {'b': [10, 20]}}.a.b[1] }} {{ {'a': 1}['a'] }} {{ {'a': 1}.get('a') }} {{ {'a': 1}.get('z') }} {{ {'a': 1}.get('z', 5) }} {{ [[1, 2], [3]].0.1 }}
{{ {'b': 1, 'a': 2}.items() | list }} {{ {'b': 1, 'a': 2}.keys() | list }} {{ {'b': 1, 'a': 2}.values() | list }} {{ {'b': 1, 'a': 2} | list }} {{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'A': 2} | items | list }}
{{ {'b': 1, 'a': 2} | dictsort(reverse=true) }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }}
{{ '  pad ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ '  l'.lstrip() }} {{ 'r  '.rstrip() }}| {{ 'xyaxy'.strip('xy') }} {{ '\u2003\u00a0\x1ca\x85'.strip() }}|
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a, b'.split(', ')[-1] }} {{ 'a.b.c'.rsplit('.', 1) }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ ''.splitlines() }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('x') }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ 'é🙂c'.find('c') }} {{ 'abab'.rfind('ab') }} {{ 'ababa'.count('ab') }}
{{ 'Abc dEF'.upper() }} {{ 'Abc'.lower() }} {{ "they're bill's".title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'éàü ñ'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'привет'.title() }}
{{ 'Abc' | upper }} {{ 'Abc' | lower }} {{ "hello wOrld-foo (bar) it's" | title }} {{ 'hELLO' | capitalize }} {{ 12 | upper }} {{ none | lower }}
{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc'.replace('X', '-', 1) }} {{ 'abc'.replace('', '.') }} {{ 'aXbX' | replace('X', '') }} {{ 'aXbX' | replace('X', '1', 1) }} {{ 121 | replace('1', 'x') }}
{{ ', '.join(['a', 'b']) }} {{ ['a', 1, none] | join('-') }} {{ ['a', 'b'] | join }} {{ messages | join(',', attribute='role') }} {{ 'abc' | join('.') }} {{ [] | join(',') }}|
{{ '12'.isdigit() }} {{ 'a'.isdigit() }} {{ ' '.isspace() }} {{ ''.isspace() }}
{{ missing }}| {{ missing | default('d') }} {{ none | default('d') }} {{ none | default('d', true) }} {{ '' | d('e', boolean=true) }} {{ 0 | default(5) }} {{ missing | default }}|
{{ missing is defined }} {{ missing is undefined }} {{ messages is defined }} {{ messages[0].nope is defined }} {{ tools is defined }} {{ tools is none }} {{ tools is not none }} {{ documents is none }}
{{ 'a' is string }} {{ 1 is string }} {{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is boolean }}
{{ {} is mapping }} {{ [] is mapping }} {{ [] is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ {} is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }} {{ none is iterable }} {{ raise_exception is callable }} {{ 1 is callable }}
{{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }} {{ 1 is sameas 1 }} {{ true is sameas true }} {{ true is sameas 1 }} {{ none is sameas none }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is gt(2) }} {{ 2 is ge 2 }} {{ 2 is le 1 }} {{ 1 is in [1] }} {{ 'A' is upper }} {{ 'a' is lower }} {{ '1' is upper }}
{{ not 'a' is string }} {{ 'a' is not string }} {{ 'a' is string and 1 is number }} {{ 'x' ~ 1 is string }} {{ 1 is number ~ 'x' }}
{{ ['a', 'b'] | first }} {{ ['a', 'b'] | last }} {{ [] | first }}| {{ 'abc' | first }} {{ 'abc' | last }} {{ {'k': 1} | first }}
{{ [3, 1, 2] | sort }} {{ [3, 1, 2] | sort(reverse=true) }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ messages | sort(attribute='role') | map(attribute='role') | list }} {{ [1, 2, 3] | reverse | list }} {{ 'abc' | reverse }}
{{ [1, 2, 1, 'a', 'A'] | unique | list }} {{ [3, 1] | min }} {{ [3, 1] | max }} {{ [] | min }}| {{ [1, 2.5] | sum }} {{ messages | map(attribute='content') | map('length') | sum }} {{ [] | sum }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join(',') }} {{ messages | selectattr('nope') | list }} {{ messages | selectattr('nope', 'undefined') | list | length }} {{ messages | selectattr('role', 'in', ['user']) | list | length }}
{{ [1, 2, 3] | select('odd') | list }} {{ [1, 2, 3] | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ [1, 2, 3] | select('gt', 1) | list }} {{ ['a', 'b'] | map('upper') | list }} {{ [{'a': 1}, {}] | map(attribute='a', default=0) | list }} {{ ['a b', 'c'] | map('replace', ' ', '_') | join }}
{{ 'abc' | list }} {{ 5 | string ~ 'x' }} {{ '5' | int + 1 }} {{ 'x' | int }} {{ '7.9' | int }} {{ 'x' | int(3) }} {{ 3.9 | int }} {{ '2.5' | float }} {{ 'x' | float }} {{ -5 | abs }} {{ -5.5 | abs }} {{ 'a' | safe }} {{ 'abc' | count }} {{ 'añ🙂' | length }} {{ missing | length }} {{ true | int }} {{ 1 | float }}
{{ 'a\nb\n\nc' | indent }}| {{ 'a\nb' | indent(2, true) }} {{ 'a\nb' | indent('> ') }}
{{ {'a': [1, 2.0, none, true, 'é"\n<>&\''], 'b': {}} | tojson }} {{ [] | tojson }} {{ 'x' | tojson }} {{ none | tojson }} {{ 1.0 | tojson }}
{{ {'a': [1, {'c': 2}], 'b': {}, 'd': []} | tojson(indent=2) }} {{ messages[0] | tojson(indent=4) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {1: 2, none: 3} | tojson }}
{{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now("%d %b %Y") }} {{ strftime_now('%B %A %j %%') }} {{ strftime_now('') }}|
{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ dict(a=1, b='x') }} {{ range(0) | list }}
{% for i in range(3) %}{{ i }}{% endfor %} {% for i in [] %}x{% else %}none{% endfor %} {% for c in 'añ🙂' %}[{{ c }}]{% endfor %} {% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %} {% for x in missing %}x{% else %}undefined{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}-{{ b }} {% endfor %}
{% for i in range(4) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a', 'b') }} {% endfor %}
{% for i in [1, 1, 2] %}{{ loop.changed(i) }} {% endfor %} {% for i in range(2) %}{% for j in range(2) %}{{ loop.depth }}{{ loop['index'] }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}
{% for i in range(10) if i is odd %}{{ i }}{{ loop.length }}{{ loop.last }} {% else %}x{% endfor %} {% for i in range(3) if i > 5 %}{{ i }}{% else %}none{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %} {% for i in range(2) %}{% for j in range(5) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% set x = 1 %}{{ x }}{% for i in range(2) %}{{ x }}{% set x = x + 10 %}{{ x }}{% endfor %}{{ x }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }} {% if false %}{% set y = 1 %}{% endif %}{{ y is defined }}
{% set a, b = 1, 'two' %}{{ a }}{{ b }} {% set a, b = b, a %}{{ a }}{{ b }} {% set t = 1, 2 %}{{ t }}
{% set ns = namespace(n=0, s='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }} {{ ns.s }} {{ ns.nope is defined }} {{ ns['n'] }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }} {% set ns.a = [1] %}{{ ns.a }}
{% set text %}block {{ 1 + 1 }}{% for i in range(2) %}{{ i }}{% endfor %}{% endset %}{{ text | upper }}|{{ text is string }}
{% macro f(a, b='B', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(c=3, a=0) }}{{ f() }} {{ f(1) | length }} {% macro g(n) %}{{ n }}{% if n > 0 %}{{ g(n - 1) }}{% endif %}{% endmacro %}{{ g(3) }}
{% set x = 'outer' %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }} {% macro h(a) -%} {{ a }} {%- endmacro %}[{{ h('z') }}]
{% if 0 %}a{% elif '' %}b{% elif [] %}c{% elif {} %}d{% elif none %}e{% elif missing %}f{% else %}g{% endif %} {% if messages %}x{% endif %} {% if 1 %}{% else %}y{% endif %}
{% generation %}text {{ 1 }}{% endgeneration %} after
{% raw %}{{ not evaluated }} {% if %}{# kept #}{% endraw %} {{ '{{' }} {{ '}}' }} {{ "%}" }} {{ {'a': {'b': 1}}.a }}
{# comment #}a{# two
lines #}b{#- trims -#} c
{{- ' trims left' }}
a   {{- 'b' -}}   c
  {% if true %}  x  {% endif %}  y
{{ 1 -}}  {{- 2 }}
{{-1}} {{ -1 }} {{ - 1 }} {{ +1 }} {{ 1 - -1 }}
{%+ if true %}  kept{%+ endif %} {% if true +%} x{% endif -%} y
{{ raise_exception('stop here') }}
{{ missing.attribute }}
{{ missing['x'] }}
{{ missing + 'x' }}
{{ 'a' + 1 }}
{{ 'a' < 1 }}
{{ none + 1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ none | length }}
{{ 5 | list }}
{{ missing() }}
{{ 'a'() }}
{{ 1 in 5 }}
{{ messages.nope() }}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% set x.y = 1 %}
{% set a, b = [1] %}
{% set q = 'text' %}{% set q.y = 1 %}
{{ 'x' | nosuchfilter }}
{{ 'x' is nosuchtest }}
{{ 'x'.nosuchmethod() }}
{% nosuchtag %}
{% if 1 %}
{% for x in [1] %}{% if x %}{% endfor %}
{% endif %}
{% else %}
{{ 1
{{ 1 }
{% if 1 }}
{{ 'open }}
{# open
{% raw %} open
{{ (1 }}
{{ 1) }}
{{ [1, 2 }}
{{ }}
{{ 1 2 }}
{{ a b }}
{{ f(a=1, 2) }}
{% set %}
{% set x %}
{% set 1 = 2 %}
{% for in x %}{% endfor %}
{% for x of y %}{% endfor %}
{% macro %}{% endmacro %}
{% macro f(a=1, b) %}{% endmacro %}{{ f() }}
{% break %}
{{ 'a' if }}
{{ 1 ? 2 : 3 }}
{{ a! }}
{{ 'a' | }}
{{ 1 is }}
{{ x..y }}
{{ range(1000000) | list }}
{{ 'a' is string is string }}
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{{ namespace(1) }}
{{ ''.split('') }}
{{ [1][::0] }}
{{ messages | selectattr('role', 'nosuchtest') | list }}
{{ [1, 'a'] | sort }}
{{ dict(a=1).nope.x }}
""".strip("\n")

MULTILINE = [
    "{% for m in messages %}\n    {% if loop.first %}\n        first\n    {% endif %}\n  {{ m.role }}\n{% endfor %}\nend\n",
    "{%- for m in messages -%}\n  {{ m.role }},\n{%- endfor %}\n\n  tail  \n\n",
    "a\r\nb\rc\n{% if true %}\r\n  x\r\n{% endif %}\r\n",
    "  {# comment at line start #}\nafter\n\t{# tab #}  rest\n{#- x -#}\n\n y",
    "{{ 'a' }}\n{{ 'b' }}\n",
    "line {% if true %}\n  inside\n  {% endif %}\nline2",
    "{% set x = [\n  1,\n  2,\n] %}\n{{ x }}\n{{ {\n 'k': 'v',\n} }}",
    "{{ 'multi\nline' }}|{{ 'joined \\\nline' }}",
    "\n\n{% if true %}\n\ntext\n\n{% endif %}\n\n",
    "{{ 1 }}  {% if true %}  z{% endif %}",
    "{% if true %}   {% if true %}  z{% endif %}{% endif %}",
    "x{% raw -%}\n  {{ a }}  \n{%- endraw %}\n  y{% raw %}\n {# b #}\n{% endraw %}\nz",
    "{%- raw %} q {% endraw -%}   w",
    "   {{- 1 }}  {#+ keep #}\n   {%+ if true %}k{% endif +%}\n  m",
    "{% macro a() %}\n  one\n  {{ 'two' }}\n{% endmacro %}\n[{{ a() }}]",
    "", "\n", "\n\n", "   ", "{", "}", "%}", "{ {", "{{ '{%' }}", "a { b } c %} #} }}",
]


def render(env, source, messages, generate, variables):
    template = env.from_string(source)
    given = dict(messages=messages, tools=None, documents=None, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>")
    return template.render({**given, **variables})


def case(env, name, source, conversation, generate, variables=None):
    entry = {"name": name, "conversation": conversation, "generate": generate}
    if variables is not None:
        entry["variables"] = variables
    if not name.endswith(".jinja"):
        entry["source"] = source
    try:
        entry["expected"] = render(env, source, {**CONVERSATIONS, **CALLS}[conversation], generate, VARIABLES[variables or 0])
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, OverflowError, ZeroDivisionError,
            RecursionError, SyntaxError, IndexError, KeyError) as error:
        entry["error"] = type(error).__name__
        if str(error) and "raise_exception" in source and type(error) is jinja2.exceptions.TemplateError:
            entry["raised"] = str(error)
    return entry


def main():
    env = environment()
    cases = []
    for file in FILES:
        with open(os.path.join(HERE, file + ".jinja"), newline="") as source:
            text = source.read()
        for conversation in CONVERSATIONS:
            for generate in [False, True]:
                cases.append(case(env, file + ".jinja", text, conversation, generate))
        for conversation in CALLS if file in WITH_TOOLS else []:
            for variables in range(len(VARIABLES)):
                cases.append(case(env, file + ".jinja", text, conversation, variables % 2 == 0, variables))
    for i, source in enumerate(SNIPPETS.split("\n")):
        cases.append(case(env, f"snippet {i + 1}", source, "long", True))
    for i, source in enumerate(MULTILINE):
        cases.append(case(env, f"multiline {i + 1}", source, "long", False))
    with open(os.path.join(HERE, "cases.json"), "w") as out:
        json.dump({"now": NOW.strftime("%Y-%m-%d %H:%M:%S"), "conversations": {**CONVERSATIONS, **CALLS}, "variables": VARIABLES,
                   "cases": cases}, out,
                  ensure_ascii=False, indent=0)
        out.write("\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")
    for c in cases:
        if "error" in c and "raised" not in c:
            print("  ", c["name"], c["error"], c.get("source", c["conversation"])[:90])


if __name__ == "__main__":
    main()
