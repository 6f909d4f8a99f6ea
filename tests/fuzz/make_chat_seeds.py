"""Writes trees of chat templates and what they are given: make_chat_seeds.py FILE."""

import itertools
import json
import sys
from pathlib import Path

from chat.test_tree import EXPRESSIONS, STATEMENTS, TOKENS, VARIABLES

from exporter.chat.scenarios import Scenarios, words_of
from exporter.chat.template import Template
from exporter.chat.tree import make_tree

TURNS = (
    "{% macro part(c) %}{% if c is string %}{{ c | trim }}{% else %}{% for p in c %}"
    "{{ p.text or part(p) }}{% endfor %}{% endif %}"
    "{% endmacro %}{{ bos_token }}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}"
    "{% set ns = namespace(n=0) %}"
    "{% for m in messages %}<|{{ m.role }}"
    "|>{% set t = m.content.split('</think>')[-1].lstrip('\\n') if m.content is string %}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}"
    "{{ loop.index }}{% endfor %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ t or part(m.content) }}{% if loop.last and add_generation_prompt %}"
    "<|assistant|>{% endif %}{% endfor %}"
)  # fmt: skip


def seeds():
    names = "{% set m = messages[2] %}{% set c = messages[0].content %}{% set u = messages[1].content %}"
    expressions = (names + "{{ " + expression.replace("\n", "\\n") + " }}" for expression in EXPRESSIONS)
    for source in (*expressions, *STATEMENTS):
        yield make_tree(Template(source, TOKENS).tree, TOKENS).nodes, VARIABLES
    template = Template(TURNS, TOKENS)
    tree = make_tree(template.tree, TOKENS)
    for variables in itertools.islice(Scenarios(words_of(template.tree)).written(), 0, 200, 4):
        yield tree.nodes, variables


if __name__ == "__main__":
    lines = [json.dumps({"tree": nodes, "variables": variables}) for nodes, variables in seeds()]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n")
