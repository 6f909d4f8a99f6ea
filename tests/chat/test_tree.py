"""The tree of a template in the runner's evaluator against Jinja: statements, expressions, refusals."""

import json

import jinja2
import pytest

from exporter.chat.conformance import DAY
from exporter.chat.evaluator import make_evaluator, render
from exporter.chat.template import Template, UndefinedName
from exporter.chat.tree import NotKnown, make_tree

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
VARIABLES = {
    "messages": [
        {"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "Hé 中\nb  c"},
        {"role": "assistant", "content": None, "n": 3, "x": 1.5, "items": [1], "list": ["b", "A", "c", "A"]},
    ],
    "tools": [{"name": "f", "z": {"b": True, "a": None}, "t": "it's \"q\" \\ \u00a0\u200b\x07é"}],
    "documents": None, "enable_thinking": False,
}  # fmt: skip

EXPRESSIONS = (
    "1 + 2 * 3 - 4", "7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 / 2, 2 ** 10", "7.0 // 2", "-7.5 % 2",
    "1 / 3, 1e20, 1e-7, 100000.0", "m.n + m.x", "m.x * 2", "-m.n", "+m.n", "true + 1", "1 == 1.0",
    "1 < 2 < 3", "3 > 2 > 2", "m.n | abs", "(-3) | abs", "'12' | int + 1", "'x' | int(7)", "'3.9' | int",
    "m.x | int", "'2.5' | float", "'x' | float", "none | int", "m.n | float", "c | trim", "c.strip()",
    "c.strip(' \n.')", "c.lstrip('\n ')", "c.rstrip()", "u | length", "u[1], u[-1], u[99] is defined",
    "u[1:4]", "u[::-1]", "u[-3:]", "u[:-2:2]", "u.split()", "u.split('\n')", "u.split('b', 1)",
    "u.rsplit(' ', 1)", "u.split()[-1]", "'a,b,c'.split(',', 1)", "u.splitlines()",
    "'a\\r\\nb\\n'.splitlines(true)", "u.startswith('Hé')", "u.endswith(('x', 'c'))", "c | replace('e', 'E')",
    "c.replace('e', 'E', 1)", "'ab'.replace('', '-')", "'abc' | upper", "'ABC' | lower",
    "'it is' | capitalize", "'they say'.title()", "'x' * 3", "c ~ 1 ~ none ~ true ~ 1.5", "'a' + 'b'",
    "'a' < 'b'", "'b' in 'abc'", "'z' not in 'abc'", "u.find('b'), u.rfind('z')", "'banana'.count('an')",
    "'a-b-c'.partition('-')", "'a-b-c'.rpartition('-')", "'abc'.removeprefix('a').removesuffix('c')",
    "'-'.join(['a', 'b'])", "'{}-{}'.format(1, 'b')", "u | indent", "u | indent(2, true)",
    "'a\n\nb' | indent(1, blank=true)", "u | list", "u | reverse", "u | first", "u | last", "u | string",
    "'' | default('d')", "'' | default('d', true)", "nothing | default('d')", "nothing | default(1) + 1",
    "m.list", "[1, 'a', [none]]", "(1, 2)", "(1,)", "[1] + [2]", "m.list | sort",
    "m.list | sort(reverse=true, case_sensitive=true)", "m.list | unique | list", "m.list | join(', ')",
    "messages | map(attribute='role') | join(',')", "messages | map(attribute='none', default='-') | list",
    "m.list | map('upper') | list", "m.list | select('equalto', 'A') | list",
    "m.list | reject('equalto', 'A') | list", "[0, 1, ''] | select | list",
    "messages | selectattr('role', 'equalto', 'user') | list | length",
    "messages | rejectattr('content') | map(attribute='n') | list",
    "messages | selectattr('content', 'none') | list | length",
    "messages | selectattr('role', 'in', ['user']) | list | length",
    "m.list | first, m.list | last, [] | first is defined", "m.list | min, m.list | max",
    "m.list | reverse | list", "m.list[1:]", "messages[1:][0].role", "messages[::-1][0]['role']",
    "messages | length", "m.get('n'), m.get('q'), m.get('q', 5)", "m.keys() | list",
    "m.values() | list | length", "m['n'], m['q'] is defined, m.q is undefined",
    "m.items is mapping, m.items is callable", "m['items']", "m.items() | list | length",
    "{'a': 1, 'b': {'c': none}}", "{'a': 1, 'a': 2}", "tools[0] | dictsort",
    "{'b': 2, 'a': 1} | dictsort(by='value')", "{'b': 2} | items | list", "'n' in m, 'q' in m",
    "1 in [1, 2], 3 not in [1]", "m.list == ['b', 'A', 'c', 'A']", "{'a': 1} == {'a': 1.0}",
    "[1, 2] < [1, 3]", "m.list.index is defined", "m.list.count('A')", "tools | tojson",
    "tools | tojson(indent=2)", "tools | tojson(indent=4, sort_keys=true)",
    "tools | tojson(ensure_ascii=true)", "tools | tojson(separators=(',', ':'))", "[] | tojson(indent=1)",
    "tools | string", "tools ~ ''", "'\U0001f600é' | tojson(true)",
    "[1.0, 0.1, 1e16, 123456789.125, 5e-324, -0.0]", "u | tojson", "[true, none] | tojson",
    "nothing is defined, m is defined, m.q is defined", "none is none, nothing is none",
    "m is mapping, u is mapping", "u is string, m.n is string", "u is iterable, 1 is iterable, m is iterable",
    "u is sequence, m.list is sequence, 1 is sequence",
    "1 is number, true is number, 1.5 is float, 1 is integer, true is integer, true is boolean",
    "true is true, 1 is true, false is false", "4 is even, 3 is odd, 9 is divisibleby 3",
    "1 is eq 1, 2 is gt 1, 'a' is in ['a']", "not m.q", "'x' if m.n > 2 else 'y'", "('x' if m.q) is defined",
    "m.q or 'd'", "m.n and 'e'", "enable_thinking is defined and not enable_thinking", "documents is none",
    "bos_token + eos_token", "bos_token is defined, pad_token is defined", "range(3) | list",
    "range(1, 8, 3) | list", "strftime_now('%d %b %Y')", "m.x is defined and m.x is not none and m.x > 1",
    "nothing == nothing", "nothing | length", "(m.list | map('lower')) is sequence",
    "(m.list | select) is iterable", "'a' is lt 'b'",
)  # fmt: skip

STATEMENTS = (
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"
    "{{ loop.revindex }}{{ loop.previtem is defined }}"
    "{{ loop.nextitem.role if loop.nextitem is defined }};{% endfor %}",
    "{% for k, v in tools[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ m.role }}{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'x' %}{{ m }}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(n=0, last=none) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.last = m.role %}"
    "{% endfor %}{{ ns.n }}{{ ns.last }}{{ ns.q is defined }}",
    "{% if messages[0].role == 'user' %}a{% elif messages[0].role == 'system' %}b{% else %}c{% endif %}",
    "{% macro f(a, b='d', c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, c=2) }}"
    "{{ f(b=3) }}{{ f('x') | length }}",
    "{% macro down(n) %}{{ n }}{% if n > 0 %}{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(4) }}",
    "{% set y = 'g' %}{% macro g() %}{{ y }}{{ z is defined }}{% endmacro %}{% for z in [1] %}"
    "{{ g() }}{% endfor %}{% set y = 'h' %}{{ g() }}",
    "{% set t %} a {{ messages[0].role }}{% endset %}[{{ t }}]{% set t | trim %} b {% endset %}[{{ t }}]",
    "{% filter upper | trim %} a {{ 'b' }} {% endfilter %}.",
    "{% generation %}a{% endgeneration %}b",
    "{% set a, b = 1, [2] %}{{ a }}{{ b }}",
    "  {%- if true %}\n  a\n  {%- endif %}\n\n{% raw %}{{ x }}{% endraw %}{# no #}",
    "{% for a in [[1, 2], [3]] %}{% for b in a %}{{ loop.index }}{{ loop.depth }}{{ b }}{% endfor %}"
    "{{ loop.index }}"
    "{% endfor %}",
    "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}"
    "{% if nobody_sets_it is defined %}x{% endif %}",
    "{% set bos_token = bos_token or '' %}{{ bos_token }}{% set messages = messages[1:] %}"
    "{{ messages[0].role }}",
    "{% for c in messages[1].content %}{{ c }},{% endfor %}{% for k in tools[0] %}{{ k }}{% endfor %}",
)  # fmt: skip
FAILING = (
    "{{ raise_exception('no') }}", "{{ nothing.x }}", "{{ nothing + 'a' }}", "{{ 'a' + 1 }}",
    "{{ none + 'a' }}", "{{ messages.append(1) }}", "{{ 1 in 'a' }}", "{{ [] < 1 }}",
    "{% for x in 3 %}{% endfor %}", "{{ none | length }}", "{{ nothing < 1 }}", "{{ ''.split('') }}",
    "{{ 1 // 0 }}", "{{ nothing | int }}", "{{ nothing | float }}", "{{ none.strip() }}",
    "{{ (messages | map(attribute='role')) | tojson }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set a, b = [1] %}", "{{ range(200000) | list }}", "{{ f() }}{% macro f() %}{% endmacro %}",
)  # fmt: skip
NOT_KNOWN = {
    "filter 'wordcount'": "{{ messages | wordcount }}", "method 'encode'": "{{ 'a'.encode() }}",
    "`cycler`": "{{ cycler('a') }}", "the tag include": "{% include 'x' %}",
    "recursive": "{% for a in messages recursive %}{% endfor %}",
    "the field '__class__'": "{{ ''.__class__ }}", "test 'sameas'": "{{ 1 is sameas 1 }}",
    "loop.changed": "{% for a in messages %}{{ loop.changed }}{% endfor %}",
    "within a loop": "{% for a in messages %}{% macro f() %}{% endmacro %}{% endfor %}",
    "with another base": "{{ '1' | int(base=2) }}",
    "the tag callblock": "{% macro f() %}{% endmacro %}{% call f() %}{% endcall %}",
    "of these arguments": "{{ 'a' | trim(1, 2) }}", "line 3": "\n\n{{ messages | pprint }}",
}  # fmt: skip


def both(source: str, variables: dict = VARIABLES) -> tuple[str, str]:
    template = Template(source, TOKENS, DAY)
    evaluator = make_evaluator(make_tree(template.tree, TOKENS).nodes)
    given = {"add_generation_prompt": True, **json.loads(json.dumps(variables))}
    messages, prompt = given.pop("messages"), given.pop("add_generation_prompt")
    return render(evaluator, variables, DAY.isoformat()), template.render(messages, prompt, **given)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_are_jinjas(expression):
    names = "{% set m = messages[2] %}{% set c = messages[0].content %}{% set u = messages[1].content %}"
    got, want = both(names + "{{ " + expression.replace("\n", "\\n") + " }}")
    assert got == want


@pytest.mark.parametrize("source", STATEMENTS)
def test_statements_are_jinjas(source):
    got, want = both(source)
    assert got == want


@pytest.mark.parametrize("source", FAILING)
def test_what_jinja_refuses_is_refused(source):
    template = Template(source, TOKENS, DAY)
    with pytest.raises(
        (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, OverflowError, RecursionError)
    ):
        template.render(**{"messages": VARIABLES["messages"]})
    evaluator = make_evaluator(make_tree(template.tree, TOKENS).nodes)
    with pytest.raises(ValueError):
        render(evaluator, VARIABLES, DAY.isoformat())


@pytest.mark.parametrize("named", NOT_KNOWN)
def test_what_the_runner_lacks_is_named(named):
    with pytest.raises(NotKnown, match="line") as told:
        make_tree(Template(NOT_KNOWN[named], TOKENS).tree, TOKENS)
    assert named in str(told.value)


def test_what_the_artifact_decides_is_folded():
    def nodes(source: str) -> list:
        return make_tree(Template(source, TOKENS).tree, TOKENS).nodes

    assert nodes("{{ bos_token }}a{{ 'b' + eos_token }}") == [["const", "<s>ab</s>"], ["out", 0]]
    assert nodes("{% if date_string is defined %}{{ date_string }}{% else %}b{% endif %}") == [
        ["const", "b"],
        ["out", 0],
    ]
    assert nodes("{% if bos_token and not nobody %}a{% endif %}") == [["const", "a"], ["out", 0]]
    assert ["const", -3] in nodes("{{ messages[-3] }}")


def test_a_name_that_nothing_defines_is_said():
    with pytest.raises(UndefinedName, match="'later'.*set it in the template"):
        Template("{{ later }}", TOKENS).render([])
    assert both("{% if messages | length > 9 %}{% set later = 1 %}{% endif %}[{{ later }}]") == ("[]", "[]")
