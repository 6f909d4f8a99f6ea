"""Random chat templates that look into contents, and conversations to try them on."""

import random

LITERALS = ("</think>", "<think>", "[/T]", "<tool>", "@@", "reset", "/no_think", "Q:", "##", "\\n")
PARTS = (*LITERALS, "\n", "\n\n", " ", "a", "Word", "x y", "<e>", "é", "z" * 700, "\t")


def random_template(rng: random.Random) -> str:
    """One to two random statements on each message's content, between a role's prefix and a suffix."""
    body = "".join(_statement(rng) for _ in range(rng.randint(1, 2)))
    return (
        "{% set ns = namespace(seen=false, n=0, text='') %}{% macro f(a) %}"
        "" + _macro(rng) + "{% endmacro %}{% for m in messages %}{% set c = m.content %}" + body
        + "{{ '<|' + m.role + '|>' + c + '<e>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )  # fmt: skip


def random_conversation(rng: random.Random) -> list[dict[str, str]]:
    """Up to seven turns of the user, with a system message or without."""
    n_messages = 2 * rng.randint(1, 7) - 1
    messages = [{"role": ("user", "assistant")[i % 2], "content": _content(rng)} for i in range(n_messages)]
    if rng.random() < 0.5:
        messages.insert(0, {"role": "system", "content": _content(rng)})
    return messages


def _content(rng: random.Random) -> str:
    return "".join(rng.choices(PARTS, k=rng.choice((0, 1, 1, 2, 3, 4))))


def _statement(rng: random.Random, depth: int = 0) -> str:
    if depth == 2 or rng.random() < 0.25:
        return _action(rng)
    body = "".join(_statement(rng, depth + 1) for _ in range(rng.randint(1, 2)))
    other = "{% else %}" + _statement(rng, depth + 1) if rng.random() < 0.3 else ""
    return "{% if " + _condition(rng) + " %}" + body + other + "{% endif %}"


def _condition(rng: random.Random, depth: int = 0) -> str:
    text, number = _literal(rng), rng.choice((0, 1, 2, 3, 5, 7))
    kinds = [
        f"{text} in c", f"{text} in c", f"c.startswith({text})", f"c.endswith({text})", "loop.first",
        f"m.role == '{rng.choice(('user', 'assistant', 'system', 'tool'))}'", "loop.last", "tools", "ns.seen",
        f"loop.index0 {rng.choice(('<', '>', '=='))} {number}",
        f"loop.index0 < messages | length - {number}", f"{text} in messages[-1].content",
        f"c | length {rng.choice('<>')} {rng.choice((0, 5, 50, 700))}", f"c | trim | lower == {text}",
        "messages[0].role == 'system'",
    ]  # fmt: skip
    if depth < 2 and rng.random() < 0.25:
        first, second = _condition(rng, depth + 1), _condition(rng, depth + 1)
        return rng.choice((f"({first}) and ({second})", f"({first}) or ({second})", f"not ({first})"))
    return rng.choice(kinds)


def _action(rng: random.Random) -> str:
    text = _literal(rng)
    value = rng.choice((
        f"c.split({text})[-1]", f"c.split({text})[0]", "c | trim", "c.lstrip('\\n')", "c.rstrip()", "''", "c",
        f"{text} + c", f"c.replace({text}, '')", f"c.rpartition({text})[2].strip()", "c[:600]",
    ))  # fmt: skip
    if rng.random() < 0.12:
        return _scoped(rng)
    others = ("{% set ns.n = ns.n + 1 %}", "{% set ns.text = c %}",
             "{% set ns.seen = true %}", "{% set ns.seen = false %}", "{{ 'Z' }}")  # fmt: skip
    return rng.choice(others) if rng.random() < 0.2 else "{% set c = " + value + " %}"


def _macro(rng: random.Random) -> str:
    return rng.choice(("{{ a }}", "{% if " + _literal(rng) + " in a %}Y{% endif %}{{ a | trim }}",
                       "{{ a[:650] }}"))  # fmt: skip


def _scoped(rng: random.Random) -> str:
    """A statement with a block or a name of its own, of which some are never followed."""
    text, number = _literal(rng), rng.choice((2, 5, 40, 60))
    asked = "{% if " + rng.choice((f"{text} in t", f"t | length > {number}")) + " %}X{% endif %}"
    return rng.choice((
        "{% with t = c %}" + asked + "{% endwith %}",
        "{% set t = c | trim %}" + asked, "{% set t %}{{ c }}{% endset %}" + asked,
        "{% set c = f(c) %}", "{% set t = f(c) %}" + asked, "{{ f(" + text + ") }}",
        "{% call f(c) %}{% endcall %}",
        "{% filter replace(" + text + ", 'R') %}{{ c }}{% endfilter %}",
        "{% for t in c.split('\n') %}" + asked + "{% endfor %}",
        "{% for t in c.split(" + text + ") %}{% if loop.index0 < " + str(number) + " %}X{% endif %}"
        "{% endfor %}",
        "{% for o in messages %}{% set t = o.content %}" + asked + "{% endfor %}",
        "{% for o in messages if " + text + " in o.content %}{% if loop.index0 == 1 %}X{% endif %}"
        "{% endfor %}",
        "{% set e = ns %}{% if e.seen %}X{% endif %}", "{% set o = loop %}{% if o.index0 > 3 %}X{% endif %}",
        "{% set t = loop.previtem.content if loop.previtem else '' %}" + asked,
        "{% set t = ns.text %}" + asked,
        "{% if ns.n > " + str(number) + " %}X{% endif %}",
        "{% if messages | length > " + str(number) + " * 2 %}X{% endif %}",
        "{% if messages[loop.index0 - 1].role == 'user' %}{% set c = c | trim %}{% endif %}",
    ))  # fmt: skip


def _literal(rng: random.Random) -> str:
    return f"'{rng.choice(LITERALS)}'"
