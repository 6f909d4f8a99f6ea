"""A checkpoint's tokenizer, chat template and token ids as files of a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from exporter.chat.take_over import take_over_template
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.formats.gguf_file import read_gguf
from exporter.tokenizer.end_tokens import token_sources
from exporter.tokenizer.from_gguf import huggingface_json, sentencepiece_model
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer
from scripts.bench.random_folder import write_json

BESIDE = (
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "added_tokens.json",
)  # fmt: skip


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> Tokenizer:
    """Writes into `folder` what makes the exporter tokenize, format chats and stop as before.

    Returns the original. A GGUF's vocabulary becomes a tokenizer.json or a tokenizer.model. Raises
    ValueError where there is none, or where what was written does not read as the original does.
    """
    path = checkpoint.tokenizer_path
    if path is None:
        raise ValueError(f"{checkpoint.name} has no tokenizer beside it: give a whole checkpoint")
    original = read_tokenizer(path)
    generation = dict(checkpoint.generation)
    stops = _stop_ids(original, generation)
    if path.suffix == ".gguf":
        _write_from_gguf(path, original, folder)
        generation |= {"bos_token_id": original.bos_id, "eos_token_id": list(stops)}
    else:
        shutil.copyfile(path, folder / path.name)
        for name in BESIDE:
            if (path.parent / name).is_file():
                shutil.copyfile(path.parent / name, folder / name)
    if generation:
        write_json(folder / "generation_config.json", generation)
    _check_same(original, stops, folder, generation)
    return original


def _write_from_gguf(path: Path, tokenizer: Tokenizer, folder: Path) -> None:
    fields = read_gguf(path).fields
    if fields["tokenizer.ggml.model"] == "gpt2":
        content = json.loads(huggingface_json(fields))
        if tokenizer.add_bos:
            content["post_processor"] = _begin_with(tokenizer)
        write_json(folder / "tokenizer.json", content)
    else:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(fields))
    template = {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": tokenizer.add_bos,
        **tokenizer.named_tokens, **template,
    })  # fmt: skip


def _begin_with(tokenizer: Tokenizer) -> Mapping[str, object]:
    """The post-processor that puts bos before a text."""
    bos = tokenizer.token_name(tokenizer.bos_id)
    token = {"SpecialToken": {"id": bos, "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": id}} for id, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, second],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }


def _stop_ids(tokenizer: Tokenizer, generation: Mapping) -> tuple[int, ...]:
    return token_sources(tokenizer, generation, {}, tokenizer.n_pieces).stop_ids


def _check_same(
    original: Tokenizer, stops: tuple[int, ...], folder: Path, generation: dict[str, object]
) -> None:
    copy = read_tokenizer(folder)
    same = {
        "table": copy.table == original.table,
        "chat template": take_over_template(copy.chat_template, copy)
        == take_over_template(original.chat_template, original),
        "stop tokens": _stop_ids(copy, generation) == stops,
    }
    wrong = [name for name, equal in same.items() if not equal]
    if wrong:
        raise ValueError(
            f"the copied tokenizer differs from the original in its {' and '.join(wrong)}: give "
            "the checkpoint in its Hugging Face form"
        )
