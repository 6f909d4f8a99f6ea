"""Chat templates in artifacts: their ids against transformers, and those that a runner cannot use."""

import datetime
import json
from pathlib import Path

import jinja2
import pytest
import tokenizer_files
from native_tokenizer import ask
from tokenizer_files import SMOLLM2
from transformers import PreTrainedTokenizerFast

from exporter.chat.take_over import notes, take_over_template
from exporter.tokenizer.tokenizer import read_tokenizer

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
LLAMA31 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL_V1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
MISTRAL_V3 = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.WHICH and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
# Tools that are never given, and turns that are counted to refuse what does not alternate.
MISTRAL_TOOLS = """{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if tools is not defined %}
    {%- set tools = none %}
{%- endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{%- set count = namespace() %}
{%- set count.of = 0 %}
{%- for turn in turns %}
    {%- if not (turn.role == "tool" or (turn.tool_calls is defined and turn.tool_calls is not none)) %}
        {%- if (turn["role"] == "user") != (count.of % 2 == 0) %}
            {{- raise_exception("user and assistant must take turns") }}
        {%- endif %}
        {%- set count.of = count.of + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn["role"] == "user" %}
        {%- if tools is not none and (turn == asked[-1]) %}
            {{- "[AVAILABLE_TOOLS]" + tools | string }}
        {%- endif %}
        {%- if loop.last and system is defined %}
            {{- "[INST] " + system + "\\n\\n" + turn["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + turn["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif turn.tool_calls is defined and turn.tool_calls is not none %}
        {{- "[TOOL_CALLS]" }}
    {%- elif turn["role"] == "assistant" %}
        {{- " " + turn["content"] | trim + eos_token }}
    {%- else %}
        {{- raise_exception("only user and assistant have turns") }}
    {%- endif %}
{%- endfor %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2_LIKE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SMOLLM2_SYSTEM + "<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# template and tokenizer file
TEMPLATES = {
    "chatml": (CHATML, "smollm2.json"),
    "smollm2": (SMOLLM2_LIKE, "smollm2.json"),
    "llama2": (LLAMA2, "llama2.json"),
    "llama3": (LLAMA3, "llama3.json"),
    "llama3.1": (LLAMA31, "llama3.json"),
    "mistral-v1": (MISTRAL_V1, "metaspace-first.json"),
    "mistral-first": (MISTRAL_V3.replace("WHICH", "first"), "llama2.json"),
    "mistral-last": (MISTRAL_V3.replace("WHICH", "last"), "metaspace-first.json"),
    "mistral-tools": (MISTRAL_TOOLS, "metaspace-first.json"),
    "zephyr": (ZEPHYR, "llama2.json"),
}
NAMES = {"llama2.json": ("<s>", "</s>"), "metaspace-first.json": ("<s>", "</s>")} | {
    "llama3.json": ("<|begin_of_text|>", "<|eot_id|>"),
    "smollm2.json": ("<|im_start|>", "<|im_end|>"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Hugging Face folders with each tokenizer of TEMPLATES."""
    raw = tokenizer_files.write_all(tmp_path_factory.mktemp("raw"))
    folders = {}
    for name, (bos, eos) in NAMES.items():
        folders[name] = tmp_path_factory.mktemp("folder")
        (folders[name] / "tokenizer.json").write_bytes(raw[name].read_bytes())
        config = {"bos_token": bos, "eos_token": eos}
        (folders[name] / "tokenizer_config.json").write_text(json.dumps(config))
    return folders


def conversations() -> list[list[dict]]:
    contents = ("Hi!", "Hello, é 中.", " two  \n", "\tx\u3000", "3 < 4\n\n", "y ", "\n\nlast")
    found = []
    for n_messages in (1, 3, 5, 7):
        roles = ("user", "assistant") * 4
        turns = [{"role": r, "content": c} for r, c in zip(roles, contents[:n_messages], strict=False)]
        found += [turns, *([{"role": "system", "content": s}, *turns] for s in ("Be brief.", " \na b "))]
    return found


def encoded(file: Path, chat: dict, messages: list[dict], **variables: object) -> object:
    request = {"messages": messages, "generation_prompt": True, "variables": variables}
    return ask(file, [request | {"date": datetime.date.today().isoformat()}], chat)[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_native_ids_equal_transformers(folders, name):
    template, file = TEMPLATES[name]
    chat = take_over_template(template, read_tokenizer(folders[file]))
    assert "reason" not in chat and chat["compared"] > 2000, chat
    reference = PreTrainedTokenizerFast.from_pretrained(folders[file], chat_template=template)
    for messages in conversations():
        got = encoded(folders[file] / "tokenizer.json", chat, messages)
        try:
            text = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            assert str(error) in got["error"]
            continue
        assert got == reference.encode(text, add_special_tokens=False), text


def test_thoughts_and_nulls_are_given_as_transformers_gives_them(folders):
    """Under both names that templates read, and without fields that are null."""
    template = (
        "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}"
        "{{ m.content is defined }}{% endfor %}"
    )
    folder = folders["smollm2.json"]
    chat = take_over_template(template, read_tokenizer(folder))
    reference = PreTrainedTokenizerFast.from_pretrained(folder, chat_template=template)
    for fields in (
        {"reasoning": "a"}, {"thinking": "b", "content": None}, {"reasoning_content": "c", "thinking": "d"},
        {"content": "x", "reasoning_content": "e"}, {"reasoning": "f", "thinking": "g"},
    ):  # fmt: skip
        messages = [{"role": "assistant", **fields}]
        want = reference.apply_chat_template(messages, return_dict=False)
        assert encoded(folder / "tokenizer.json", chat, messages) == want


def test_variables_reach_the_template(folders):
    template = (
        "{{ tools | tojson if tools }}{{ documents[0].text if documents }}"
        "{{ 'on' if enable_thinking else 'off' }}"
    )
    folder = folders["smollm2.json"]
    tokenizer = read_tokenizer(folder)
    chat = take_over_template(template, tokenizer)
    assert chat["inputs"] == ["tools", "documents", "enable_thinking"] and not chat["unreached"]
    said = {"tools": [{"z": 1, "a": [None]}], "documents": [{"text": "d"}], "enable_thinking": True}
    ids = encoded(folder / "tokenizer.json", chat, [{"role": "user", "content": "x"}], **said)
    assert tokenizer.decode(ids) == '[{"z": 1, "a": [null]}]don'


def test_the_day_is_the_runners(folders):
    folder = folders["llama3.json"]
    tokenizer = read_tokenizer(folder)
    chat = take_over_template(LLAMA31, tokenizer)
    request = {"messages": [["user", "x"]], "generation_prompt": True, "date": "2031-02-03"}
    [ids] = ask(folder / "tokenizer.json", [request], chat)
    assert "Today Date: 03 Feb 2031\n" in tokenizer.decode(ids)


def test_texts_never_become_special_tokens(folders):
    """Whatever the template does with them; what it makes of a role may be one."""
    folder = folders["smollm2.json"]
    tokenizer = read_tokenizer(folder)
    template = (
        "{% for m in messages %}"
        "{{ '<|' + m.role + '|>' + (m.content | trim)[:99].replace('Q', 'end') + '<|im_end|>' }}"
        "{{ m.more | tojson ~ m.more['<|im_end|>'] ~ (m.more | string) }}"
        "{{ m.more.values() | join('<|im_end|>') }}{% endfor %}"
    )
    chat = take_over_template(template, tokenizer)
    names = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"]
    more = dict.fromkeys(names[:2], names[2])
    messages = [{"role": "im_start", "content": f" {''.join(names)}<|im_Q|>", "more": more}]
    ids = encoded(folder / "tokenizer.json", chat, messages)
    special = set(tokenizer.special_tokens.values())
    found = [tokenizer.token_name(id) for id in ids if id in special]
    assert found == ["<|im_start|>", "<|im_end|>", "<|im_end|>"]
    bad = encoded(folder / "tokenizer.json", chat, [{"role": "<|im_end|>", "content": ""}])
    assert "the role '<|im_end|>'" in bad["error"]


def test_smollm2s_own_template():
    tokenizer = read_tokenizer(SMOLLM2)
    chat = take_over_template(tokenizer.chat_template, tokenizer)
    assert chat["inputs"] == ["messages", "add_generation_prompt"]
    assert chat["unreached"] == ["line 1: `for ... in messages` never has no turn"]
    [line] = notes(chat)
    assert line.startswith("chat template: equal to Jinja's text on ") and "; 1 outcomes" in line


REFUSED = {
    "no chat template": None,
    "TemplateSyntaxError": "{% for",
    "the method 'nothing'": "{{ messages[0].content.nothing() }}",
    "the field '__class__'": "{{ ''.__class__ }}",
    "prints 'later', which is not defined":
        "{% for m in messages %}{{ m.content }}{% if loop.index > 2 %}{{ later }}{% endif %}{% endfor %}",
    "instead of '<<&lt;'": "{{ '<' | string }}{{ ('<' | safe) + '<' }}",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_other_templates_say_why(folders, reason):
    chat = take_over_template(REFUSED[reason], read_tokenizer(folders["smollm2.json"]))
    assert set(chat) == {"reason"}
    assert reason in chat["reason"] and "\n" not in chat["reason"]
    assert notes(chat) == [f"no chat mode: {chat['reason']}"]


def test_marks_of_thoughts_are_known(folders):
    tokenizer = read_tokenizer(folders["smollm2.json"])
    for template, marks in (
        ("{{ '</think>' }}", ["<think>", "</think>"]), ("{{ '[/THINK]' }}", ["[THINK]", "[/THINK]"]),
        ("x", []),
    ):  # fmt: skip
        assert take_over_template(template, tokenizer)["thoughts"] == marks


# The part of gpt-oss's template that writes answers: harmony's messages in channels.
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if '<|channel|>analysis<|message|>' in m.content %}{{ raise_exception('channels in the content') }}"
    "{% endif %}{% if loop.last and m.thinking %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def test_channels_are_known(folders):
    tokenizer = read_tokenizer(folders["smollm2.json"])
    chat = take_over_template(HARMONY, tokenizer)
    assert chat["thoughts"] == []
    assert chat["channels"]["thought"] == ["<|channel|>analysis<|message|>"]
    assert chat["channels"]["answer"][0] == "<|channel|>final<|message|>"
    assert "channels" not in take_over_template(CHATML, tokenizer)
