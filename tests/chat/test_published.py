"""Published templates: what the runner encodes is what transformers' apply_chat_template does, to the id."""

import itertools

import pytest
from native_tokenizer import ask
from published import FAMILIES, NAMED, request, taken, template_files, write_tokenizer
from transformers import PreTrainedTokenizerFast

from exporter.chat import conformance
from exporter.chat.take_over import take_over_template
from exporter.chat.template import Template
from exporter.chat.tree import NotKnown, make_tree
from exporter.tokenizer.tokenizer import read_tokenizer

WANTED = 200
# Of all those files, the ones whose templates use what Jinja and transformers do not have or escape as HTML.
REFUSED = {
    "deepseek-ai-DeepSeek-V3.2": "filter 'from_json'", "deepseek-ai-DeepSeek-V4": "filter 'from_json'",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "filter 'from_json'", "meetkai-functionary-medium-v3.1": "&#34;",
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_families(name, tmp_path):
    [path] = [file for file in template_files() if file.stem == name]
    source = path.read_text()
    write_tokenizer(source, tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    chat = take_over_template(source, tokenizer)
    assert "reason" not in chat, chat
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    template = Template(source, tokenizer.named_tokens)
    found = list(itertools.islice(taken(reference, template, list(tokenizer.special_tokens)), WANTED))
    assert len(found) == WANTED
    assert any(variables.get("tools") for variables, _ in found)
    answers = ask(tmp_path / "tokenizer.json", [request(variables) for variables, _ in found], chat)
    for (variables, want), got in zip(found, answers, strict=True):
        assert got == want, variables


def test_all_templates_conform():
    """Every one that can be taken over gives Jinja's text; the others are refused in true words."""
    refused = {}
    for path in template_files():
        try:
            template = Template(path.read_text(), NAMED, conformance.DAY)
            conformance.compare(template, make_tree(template.tree, NAMED), n_changed=200)
        except (NotKnown, conformance.Differs) as error:
            refused[path.stem] = str(error)
    assert refused.keys() == REFUSED.keys()
    assert all(words in refused[name] for name, words in REFUSED.items()), refused
