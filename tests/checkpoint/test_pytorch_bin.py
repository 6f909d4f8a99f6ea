"""Hugging Face folders of older kinds: files of torch.save, one or shards, buffers, tables stored twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from checkpoint_files import assert_refused, assert_same_weights, edit_tensors

from exporter.checkpoint.checkpoint import open_checkpoint

BUFFERS = {
    "model.rotary_emb.inv_freq": torch.ones(8),
    "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(8),
    "model.layers.0.self_attn.rotary_emb.cos_cached": torch.ones(1, 1, 256, 16),
    "model.layers.0.self_attn.rotary_emb.sin_cached": torch.ones(1, 1, 256, 16),
    "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
    "model.causal_mask": torch.ones(4, 4, dtype=torch.bool),
}


def write_shards(folder: Path, n: int, **more: object) -> list[Path]:
    """Replaces model.safetensors by `n` files of torch.save and their index; `more` lies in the last."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = [folder / f"pytorch_model-{i + 1:05}-of-{n:05}.bin" for i in range(n)]
    weight_map = {}
    for i, file in enumerate(files):
        part = {name: tensor for j, (name, tensor) in enumerate(tensors.items()) if j % n == i}
        weight_map |= {name: file.name for name in part}
        torch.save(part | (more if i == n - 1 else {}), file)
    tiny.write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    return files


def test_shards(whole, folder):
    files = write_shards(folder, 3, **BUFFERS)
    assert_same_weights(open_checkpoint(str(folder)), open_checkpoint(str(whole)))
    assert open_checkpoint(str(folder)).weights.files == tuple(files)
    files[1].rename(folder / "elsewhere")
    assert_refused(folder, "lacks 1 of 3 shards", files[1].name)
    torch.save({}, files[1])
    assert_refused(folder, "missing")


@pytest.mark.parametrize(
    ("more", "said"),
    [({"epoch": 3}, "epoch is 3, not a tensor"), ({"optimizer": {"lr": 1}}, "optimizer is an object"),
     ({"names": ["a"]}, "names is ['a'], not a tensor")],
)  # fmt: skip
def test_what_else_is_in_them(folder, more, said):
    files = write_shards(folder, 1, **more)
    assert_refused(folder, files[0].name, said, "state_dict")


def test_buffers_carry_nothing(whole, folder):
    edit_tensors(folder, lambda tensors: tensors.update(BUFFERS))
    assert_same_weights(open_checkpoint(str(folder)), open_checkpoint(str(whole)))
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.sinks": torch.ones(4)}))
    assert_refused(folder, "1 extra: model.layers.0.self_attn.sinks")


def test_a_table_that_is_stored_twice(folder):
    """It is one, whatever the config says, where it is the same bit by bit."""
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 0}))
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config.tied_embeddings
    assert "output.weight" not in checkpoint.state_dict(torch.float32)
    edit_tensors(folder, lambda t: t["lm_head.weight"][-1].add_(1))
    checkpoint = open_checkpoint(str(folder))
    assert not checkpoint.config.tied_embeddings
    state = checkpoint.state_dict(torch.float32)
    assert not torch.equal(state["output.weight"], state["tok_embeddings.weight"])


def test_a_table_that_is_stored_once(folder):
    edit_tensors(folder, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=re.escape("1 missing: lm_head.weight")):
        open_checkpoint(str(folder))
    config = tiny.read_json(folder / "config.json")
    tiny.write_json(folder / "config.json", config | {"tie_word_embeddings": True})
    assert open_checkpoint(str(folder)).config.tied_embeddings
