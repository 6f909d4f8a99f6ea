"""The metadata of an artifact as the strings that are written."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.artifact.metadata import CacheMetadata, CodeMetadata, Metadata, TextMetadata, Versions
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope
from exporter.recipe.recipe import parse_recipe

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "artifact.md"
LAYER = LayerSpec(AttentionSpec(4, 2, 16, Rope(1e4, 16)), FeedForwardSpec(96))


@pytest.fixture
def metadata() -> Metadata:
    text = TextMetadata("gguf", b"table", 7, 0, -1, True, (1, 2), {"bos": None, "stops": []},
                        {"reason": "none"}, "{}")  # fmt: skip
    versions = Versions(kernel_layout=1, operators="", exporter="0", torch="2", torchao="", executorch="")
    config = ModelConfig("llama", 64, (LAYER,), 7, 1e-5, 128, True)
    return Metadata(
        versions, "m", config, 100, "float32", parse_recipe("q4"), "lowbit", 100, 50, text, "abc"
    )


def test_every_value_is_a_string(metadata):
    strings = metadata.to_strings()
    assert all(isinstance(value, str) for value in strings.values())
    assert (strings["n_kv_heads"], strings["context_length"], strings["max_rows"]) == ("2", "100", "50")
    assert (strings["bos_id"], strings["eos_id"], strings["add_bos"]) == ("0", "-1", "true")
    assert json.loads(strings["stop_ids"]) == [1, 2] and strings["tokenizer_size"] == "5"
    assert parse_recipe(strings["quantization"]) == metadata.recipe


def test_lowering_adds_its_keys(metadata):
    assert not {"backend", "n_caches", "runtime"} & metadata.to_strings().keys()
    added = replace(
        metadata, backend="aoti", caches=CacheMetadata(2, (2, 7, 16), (2, 7, 16), "float16"),
        code=CodeMetadata("lean", [], (), "2.13/1", []),
    ).to_strings()  # fmt: skip
    assert json.loads(added["key_cache_shape"]) == [2, 7, 16] and added["host_functions"] == "[]"
    assert list(added)[: len(metadata.to_strings())] == list(metadata.to_strings())


def test_the_document_names_every_key(metadata):
    caches, code = CacheMetadata(0, (), (), ""), CodeMetadata("", [], (), "", [])
    strings = replace(metadata, backend="aoti", caches=caches, code=code).to_strings()
    rows = re.findall(r"^\| (`[^|]+`) \|", DOCUMENT.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert strings.keys() <= named
