"""Templates that do more than put text around messages: right to the token, or refused in true words."""

import json
import random
from pathlib import Path

import pytest
import tokenizer_files
from native_tokenizer import ask
from random_templates import random_template
from transformers import PreTrainedTokenizerFast

from exporter.chat.reduce import reduce_template
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer
from scripts.fuzz_templates import compare

TURNS = (
    "{% for m in messages %}{% set c = m['content'] %}DO"
    "{{ '<|im_start|>' + m['role'] + '\\n' + c + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "sep_token": "<|endoftext|>",
          "pad_token": "<pad>", "image_token": "<repo_name>"}  # fmt: skip
# What earlier answers lose, as the templates of several families say it.
R1 = (
    "{% set ns = namespace(is_tool=false, system='') %}"
    "{%- for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}{% endif %}"
    "{%- endfor %}{{ bos_token }}{{ ns.system }}{%- for m in messages %}"
    "{%- if m['role'] == 'user' %}{% set ns.is_tool = false %}{{ '<User>' + m['content'] }}{% endif %}"
    "{%- if m['role'] == 'assistant' and m['content'] is none %}{% for tool in m['tool_calls'] %}"
    "{{ tool['function']['name'] }}{% endfor %}{% endif %}"
    "{%- if m['role'] == 'assistant' and m['content'] is not none %}{% if ns.is_tool %}"
    "{{ '<out>' + m['content'] + eos_token }}{% else %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<Assistant>' + content + eos_token }}{% endif %}{% endif %}"
    "{%- if m['role'] == 'tool' %}{% set ns.is_tool = true %}{% endif %}{% endfor -%}"
    "{% if add_generation_prompt and not ns.is_tool %}{{ '<Assistant><think>\\n' }}{% endif %}"
)
LAST_QUERY = (
    "{% set ns = namespace(searching=true, last=messages|length - 1) %}"
    "{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}"
    "{% if ns.searching and m.role == 'user' and m.content is string and not"
    " (m.content.startswith('<result>') and m.content.endswith('</result>')) %}"
    "{% set ns.searching = false %}{% set ns.last = index %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' %}"
    "{% set thought = '' %}{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
    "{% elif '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{% set content = '<think>\\n' + thought + '\\n</think>\\n\\n' + content %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n</think>\\n' }}"
    "{% endif %}{% endif %}"
)
IF_THOUGHT = "{% if m.role == 'assistant' and 'MARK' in c %}{% set c = CUT %}{% endif %}"


def cut(mark: str, expression: str) -> str:
    return TURNS.replace("DO", IF_THOUGHT.replace("MARK", mark).replace("CUT", expression))


EXACT = {
    "r1": R1,
    "last query": LAST_QUERY,
    "stripped": cut("</think>", "c.split('</think>')[-1] | trim"),
    "partition": cut("[/THINK]", "c.rpartition('[/THINK]')[2].lstrip()"),
    "empty thought put in": TURNS.replace("DO", "{% if m.role == 'assistant' %}"
        "{% set c = '<think>\\n\\n</think>\\n' + c.lstrip('\\n') %}{% endif %}"),
    "generation": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}<|im_end|>"
        "{%- endgeneration %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "named tokens": "{{ bos_token }}{{ cls_token }}{{ unk_token }}{{ mask_token }}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{{ sep_token if m.role == 'user' else image_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ pad_token }}assistant:{% endif %}",
    "header unasked": "{% for m in messages %}{{ '<h>' + m.role + '</h>' + m.content | trim + '<|im_end|>' }}"
        "{% endfor %}{{ '<h>assistant</h>' }}",
    "no end of turns": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ",
    "names asked for": "{% if not day is defined %}{% set day = '' %}{% endif %}{{ day }}"
        "{{ style | default('') }}"
        "{% if tools %}{{ tools }}{% endif %}{% if 'tool_calls' in messages[0] %}{{ nothing }}{% endif %}"
        "{% for m in messages %}{{ m.role }}{{ m.name }}: {{ m.content }}\n{% endfor %}",
}  # fmt: skip
REFUSED = {
    "</think>": cut("</think>", "c.split('</think>')[1]"),
    "'<think>'": TURNS.replace("DO", "{% set c = c | replace('<think>', '') %}"),
    "conversation of 9": cut("</think>", "'' if loop.index0 < messages | length - 4 else c"),
    "word word": TURNS.replace("DO", "{% set c = c[:3000] %}"),
    "&lt;": TURNS.replace("DO", "{% set c = c | e %}"),
    "loop.index > 4000": TURNS.replace("DO", "{% if loop.index > 4000 %}{% set c = 'x' %}{% endif %}"),
    "81 messages": TURNS.replace("DO", "{% if loop.index > 40 %}{% set c = 'x' %}{% endif %}"),
    "is divisibleby(7919)": TURNS.replace("DO", "{% if (c | length + 5) is divisibleby 7919 %}"
        "{% set c = 'x' %}{% endif %}"),
    "'</' ~ 'a>' in c": TURNS.replace("DO", "{% if '</' ~ 'a>' in c %}{% set c = 'x' %}{% endif %}"),
    "'reset'": TURNS.replace("DO", "{% if c | lower == 'reset' %}{% set c = 'x' %}{% endif %}"),
    "'turn_end'": "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ turn_end }}{% endfor %}",
    "'video_token'": "{{ video_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
}  # fmt: skip
# What else looks at contents or counts messages; the reason of each holds the words before it.
NOT_FOLLOWED = [
    ("{% with %}", "{% with t = c %}{% if '[END]' in t %}X{% endif %}{% endwith %}"),
    ("{% with %}", "{% with %}{% if '/zz' in c %}X{% endif %}{% endwith %}"),
    ("default arguments", "MACRO(a, b=messages[0].content) %}{% if '/zz' in b %}X{% endif %}"
     "{% endmacro %}{{ f(1) }}"),
    ("'varargs'", "MACRO() %}{% if '/zz' in varargs[0] %}X{% endif %}{% endmacro %}{{ f(c) }}"),
    ("'kwargs'", "MACRO() %}{% if '/zz' in kwargs.a %}X{% endif %}{% endmacro %}{{ f(a=c) }}"),
    ("'caller'", "MACRO() %}{% if '/zz' in caller() %}X{% endif %}{% endmacro %}{% call f() %}"
     "{{ c }}{% endcall %}"),
    ("{% call %}", "MACRO() %}X{% endmacro %}{% call f() %}{{ c }}{% endcall %}"),
    ("another name for 'f'", "MACRO(a) %}{% if '/zz' in a %}X{% endif %}{% endmacro %}"
     "{% set g = f %}{{ g(c) }}"),
    ("'ns' as a value", "{% set e = ns %}{% set ns.x = c %}{% if '/zz' in e.x %}X{% endif %}"),
    ("'ns' as a value", "MACRO(e) %}{% if '/zz' in e.x %}X{% endif %}{% endmacro %}{{ f(ns) }}"),
    ("'loop' as a value", "{% set o = loop %}{% if '/zz' in o.previtem.content %}X{% endif %}"),
    ("'loop' as a value", "{% if loop['index0'] > 70 %}X{% endif %}"),
    ("'/zz' ~ '~' in loop.previtem.content",
     "{% if loop.previtem and '/zz' ~ '~' in loop.previtem.content %}X{% endif %}"),
    ("loop.cycle", "{{ loop.cycle('', '', '') }}"),
    ("loop.changed", "{% if loop.changed(c) %}{% endif %}"),
    ("{% filter %}", "{% filter truncate(30000) %}{{ c }}{% endfilter %}"),
    ("truncate(30000)", "{% set c = c | truncate(30000) %}"),
    ("{% set %} with a filter", "{% set c | truncate(30000) %}{{ c }}{% endset %}"),
    ("{% autoescape %}", "{% autoescape true %}{{ c }}{% endautoescape %}"),
    ("{% include %}", "{% include 'x' ignore missing %}"),
    ("loop.index0 >= 50", "{% for l in c.split('\n') %}{% if loop.index0 >= 50 %}X{% endif %}{% endfor %}"),
    ("c[30000:]", "{{ c[30000:] }}"),
    ("[:50]", "{% set c = c.split('\n')[:50] | join('\n') %}"),
    ("6 * 20", "{% if messages | length > 6 * 20 %}X{% endif %}"),
    ("120", "{% if messages | length > 120 %}X{% endif %}"),
    ("77", "{% if loop.index0 in [3, 77] %}{% endif %}"),
    ("loop.index0 > n", "{% set n = 100 %}{% if loop.index0 > n %}X{% endif %}"),
    ("ns.n > ns.most", "{% set ns.n = ns.n + 1 %}{% if ns.n > ns.most %}X{% endif %}"),
    ("ns.s ~ 'x'", "{% set ns.s = ns.s ~ 'x' %}{% if ns.s == ns.most %}X{% endif %}"),
    ("a filter of a count", "{% if loop.index0 | string == '77' %}X{% endif %}"),
    ("operator *", "{{ 'X' * (loop.index0 // 50) }}"),
    ("messages[:100]", "{% for o in messages[:100] %}{% endfor %}"),
    ("a filter of messages", "{% for o in messages | batch(50) %}{% endfor %}"),
    ("a filter of messages", "{% if '/zz' in messages | map(attribute='content') | join %}X{% endif %}"),
    ("looks up", "{{ {'/' ~ 'zz': 'X'}[c] }}"),
    ("is given what messages say", "{{ {'/' ~ 'zz': 'X'}.get(c, '') }}"),
    ("is given what messages say", "{% set c = '%s' | format(c) %}"),
    ("operator %", "{% set c = '%.30000s' % c %}"),
    ("the test 'filter'", "{% if c is filter %}X{% endif %}"),
    ("'/zz' ~ '~' in o.content", "{% for l in [messages] %}{% for o in l %}"
     "{% if '/zz' ~ '~' in o.content %}X{% endif %}{% endfor %}{% endfor %}"),
    ("ns.x == 3", "{% for o in messages %}{% if o.content == '/zz' %}{% break %}{% endif %}"
     "{% set ns.x = loop.index0 %}{% endfor %}{% if ns.x == 3 and m.role == 'tool' %}X{% endif %}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_files.smollm2_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return read_tokenizer(folder)


PARTS = (
    "<think>", "</think>", "[THINK]", "[/THINK]", "\n", "\n\n", " ", "so", "5 < 6", "é", "<tool>", "</tool>",
)  # fmt: skip


def conversations(n: int, seed: int) -> list[list[dict]]:
    """Of up to four turns, with thoughts, several, unclosed and empty, in contents that may be empty."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        n_messages = 2 * rng.randint(1, 4) - 1
        contents = ["".join(rng.choices(PARTS, k=rng.randint(0, 6))) for _ in range(n_messages)]
        messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
        if rng.random() < 0.5:
            messages.insert(0, {"role": "system", "content": rng.choice(("", " ", "Be brief.\n", "<think>"))})
        found.append(messages)
    return found


def native_ids(folder: Path, chat: dict, all_messages: list[list[dict]]) -> list:
    return ask(folder / "tokenizer.json", [
        {"messages": [[m["role"], m["content"]] for m in messages], "generation_prompt": True}
        for messages in all_messages
    ], chat)  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_ids_equal_transformers(folder, tokenizer, name):
    chat = reduce_template(EXACT[name], tokenizer)
    assert chat["reducible"], chat["reason"]
    reference = PreTrainedTokenizerFast.from_pretrained(folder, chat_template=EXACT[name])
    all_messages = conversations(60, seed=len(name))
    for messages, ids in zip(all_messages, native_ids(folder, chat, all_messages), strict=True):
        text = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ids == reference.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("named", REFUSED)
def test_what_cannot_be_said_is_refused_in_true_words(tokenizer, named):
    chat = reduce_template(REFUSED[named], tokenizer)
    assert not chat["reducible"] and named in chat["reason"].replace('"', "'"), chat
    assert "\n" not in chat["reason"]


@pytest.mark.parametrize(("named", "statement"), NOT_FOLLOWED)
def test_forms_that_are_not_followed_are_refused(tokenizer, named, statement):
    begin = "{% set ns = namespace(n=0, s='', x=0, most=90) %}"
    if statement.startswith("MACRO"):
        macro, end, rest = statement.partition("{% endmacro %}")
        begin, statement = begin + macro.replace("MACRO", "{% macro f") + end, rest
    chat = reduce_template(begin + TURNS.replace("DO", statement), tokenizer)
    assert not chat["reducible"], statement
    assert named in chat["reason"], chat["reason"]


def test_results_of_tools_are_refused_by_the_runner(folder, tokenizer):
    """Where a user's turn looks like a tool's result, that template keeps the thought before it."""
    chat = reduce_template(LAST_QUERY, tokenizer)
    assert chat["refused"] == {"user": ["<result>"]}
    assert chat["assistant"]["cut"] == {"after": "</think>", "strip": {"left": "newlines", "right": "none"}}
    messages = [{"role": "user", "content": "<result>7</result>"}]
    (answer,) = native_ids(folder, chat, [messages])
    assert "message 1" in answer["error"] and "<result>" in answer["error"]


def test_an_empty_system_text(folder, tokenizer):
    template = (
        "{% set s = messages[0].content | trim if messages[0].role == 'system' else '' %}"
        "{% if s %}{{ '<|im_start|>system\n' + s + '<|im_end|>' }}{% endif %}"
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
        "{% endfor %}<|im_start|>assistant\n"
    )
    chat = reduce_template(template, tokenizer)
    assert chat["system"]["blank"] == "none"
    user = {"role": "user", "content": "x"}
    blank, some = ([{"role": "system", "content": text}, user] for text in (" \n", "y"))
    ids = native_ids(folder, chat, [blank, [user], some])
    assert ids[0] == ids[1] != ids[2]


def test_random_templates_are_refused_or_right():
    """scripts/fuzz_templates.py tries more."""
    rng = random.Random(1)
    reduced = [compare(random_template(rng), rng, n_conversations=100) for _ in range(25)]
    assert 3 < sum(reduced) < 20


def test_an_undefined_name_is_said_where_it_is_printed_later(tokenizer):
    later = "{% if loop.index > 2 %}{{ later }}{% endif %}"
    template = "{% for m in messages %}{{ m.content }}" + later + "{% endfor %}"
    assert "'later'" in reduce_template(template, tokenizer)["reason"]
