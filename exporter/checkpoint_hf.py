"""Hugging Face folders: config.json, safetensors or pytorch_model.bin, single or sharded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporter.checkpoint_weights import (
    Read,
    Source,
    Weights,
    equal_tensors,
    first_existing,
    load_torch_file,
    read_json,
    to_dtype,
)
from exporter.config import ModelConfig
from exporter.config_hf import from_hf
from exporter.generation_settings import from_config

MODULES = {
    "tok_embeddings": "model.embed_tokens",
    "layers.{i}.attention_norm": "model.layers.{i}.input_layernorm",
    "layers.{i}.attention.wq": "model.layers.{i}.self_attn.q_proj",
    "layers.{i}.attention.wk": "model.layers.{i}.self_attn.k_proj",
    "layers.{i}.attention.wv": "model.layers.{i}.self_attn.v_proj",
    "layers.{i}.attention.wo": "model.layers.{i}.self_attn.o_proj",
    "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "layers.{i}.feed_forward.w1": "model.layers.{i}.mlp.gate_proj",
    "layers.{i}.feed_forward.w2": "model.layers.{i}.mlp.down_proj",
    "layers.{i}.feed_forward.w3": "model.layers.{i}.mlp.up_proj",
    "norm": "model.norm",
    "output": "lm_head",
}
# Rotary frequencies, which older versions of transformers stored.
IGNORED = ("model.layers.*.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
TOKEN_IDS = ("bos_token_id", "eos_token_id")


def read_hf(folder: Path) -> Source:
    """Reads the folder's config and maps its weights.

    Raises ValueError or OSError naming the file that is missing, damaged or unsupported.
    """
    config_path = folder / "config.json"
    fields = read_json(config_path)
    try:
        config = from_hf(fields)
    except ValueError as error:
        raise ValueError(f"{config_path}: {error}") from error
    files = weight_files(folder)
    weights = _map_files(files)
    generation_path = folder / "generation_config.json"
    return Source(
        config=config,
        weights=_without_tied_output(weights, config, config_path),
        tokenizer_path=first_existing(folder, TOKENIZERS),
        generation=read_json(generation_path) if generation_path.is_file() else from_config(fields),
        token_ids={key: fields[key] for key in TOKEN_IDS if key in fields},
    )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights; safetensors are preferred."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            return _indexed_files(index)
        if (folder / single).is_file():
            return (folder / single,)
    # Mistral's folders also hold a copy under Meta's names, consolidated.safetensors.
    others = [p for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated")]
    if len(others) == 1:
        return (others[0],)
    raise FileNotFoundError(
        f"{folder} holds no weights: expected model.safetensors, pytorch_model.bin or the index of "
        "their shards; download the whole checkpoint"
    )


def _indexed_files(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map: download it again")
    files = tuple(index.parent / str(name) for name in sorted(set(weight_map.values())))
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{index.parent} lacks {len(absent)} of {len(files)} shards ({absent[0]} first): "
            "download the rest of the checkpoint"
        )
    return files


# A file's tensors by their names.
GetTensor = Callable[[str], Tensor]


def _map_files(files: tuple[Path, ...]) -> Weights:
    """One mapping over all shards; a name in two of them is an error."""
    shapes: dict[str, tuple[int, ...]] = {}
    place: dict[str, Path] = {}
    for path in files:
        file_shapes = _shapes(path)
        twice = shapes.keys() & file_shapes.keys()
        if twice:
            raise ValueError(
                f"{path}: tensor {min(twice)} is also in another shard: download again"
            )
        shapes |= file_shapes
        place |= dict.fromkeys(file_shapes, path)

    def open_files() -> Read:
        opened: dict[Path, GetTensor] = {}
        lock = Lock()  # tensors are read by several threads

        def read_tensor(name: str, dtype: torch.dtype) -> Tensor:
            path = place[name]
            with lock:
                if path not in opened:
                    opened[path] = _open(path)
            return to_dtype(opened[path](name), dtype, name, path)

        return read_tensor

    return Weights(files, shapes, open_files, MODULES, IGNORED, interleaved=False)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in _torch_tensors(path).items()}
    with _open_safetensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def _open(path: Path) -> GetTensor:
    if path.suffix != ".safetensors":
        return _torch_tensors(path).__getitem__
    return _open_safetensors(path).get_tensor


def _open_safetensors(path: Path):
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): download it again") from error


def _torch_tensors(path: Path) -> dict[str, Tensor]:
    return {k: v for k, v in load_torch_file(path).items() if isinstance(v, Tensor)}


def _without_tied_output(weights: Weights, config: ModelConfig, config_path: Path) -> Weights:
    """Some files store a tied output layer beside the embedding it equals."""
    if (
        not config.tied_embeddings
        or OUTPUT not in weights.shapes
        or EMBEDDING not in weights.shapes
    ):
        return weights
    if not equal_tensors(weights, EMBEDDING, OUTPUT):
        raise ValueError(
            f"{config_path}: tie_word_embeddings is true, but {OUTPUT} differs from {EMBEDDING}: "
            "set it to false to use both"
        )
    return replace(weights, ignored=(*weights.ignored, OUTPUT))
